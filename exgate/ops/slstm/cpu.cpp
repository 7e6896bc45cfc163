// sLSTM: the time loop, forward and backward.
//
// Of i' = exp(i - m) and f' = exp(log f + m_prev - m) one is 1 and the other exp(-|d|), d = i - (log f + m_prev): one
// exponential gives both. For backward four numbers are kept per element, in place of the pre-activations: exp(-|d|)
// with the sign of d in its sign bit, the slope d log f / d f, z and o. c and n are kept at the start of each block of
// steps and computed again from those. So backward computes no exponentials and no product twice.
#include "../recurrence.h"

using namespace exgate;

namespace {

struct Call {
    Sizes s;
    int64_t exp_f;
    const uint8_t* reset;  // (B, T) or null
    const float* panels;
};

struct Gates {
    vf u, slope, z, o;  // u = exp(-|d|), negative where d is
};

EXGATE_INLINE vf input_of(vf u) { return bits(u) < 0 ? abs(u) : splat(1.0f); }
EXGATE_INLINE vf forget_of(vf u) { return bits(u) < 0 ? splat(1.0f) : u; }

template <bool SAVES, class X>
void forward(const Call& a, int64_t head, int64_t first, int64_t rows, const X* x, float* y, float* const* state,
             float* gates, float* kept, float* space) {
    const Sizes& s = a.s;
    const int64_t K = s.size, P = s.padded(), J = s.blocks();
    float *h = space, *next = h + rows * P, *c = next + rows * P, *n = c + rows * P, *m = n + rows * P;
    take(s, state[0], head, first, rows, h);
    take(s, state[1], head, first, rows, c);
    take(s, state[2], head, first, rows, n);
    take(s, state[3], head, first, rows, m);
    for (int64_t t = 0; t < s.steps; t++) {
        if (SAVES && t % BLOCK == 0) {
            float* at = kept + (t / BLOCK) * 2 * s.batch * s.row();
            give(s, c, head, first, rows, at);
            give(s, n, head, first, rows, at + s.batch * s.row());
        }
        if (a.reset)
            for (int64_t i = 0; i < rows; i++)
                if (a.reset[(first + i) * s.steps + t]) {
                    clear(s, h, i, 0.0f), clear(s, c, i, 0.0f), clear(s, n, i, 0.0f);
                    clear(s, m, i, -__builtin_inff());
                }
        for (int64_t turn = 0; turn < J; turn++) {
            const int64_t j = t % 2 ? J - 1 - turn : turn;  // to and fro: the weights last used are still in cache
            const int64_t left = K - j * W;
            row_groups(rows, [&](int64_t i0, auto count) {
                constexpr int R = decltype(count)::value;
                vf sums[R][4] = {};
                product<R, 4>(sums, h + i0 * P, P, 1, a.panels + j * K * 4 * W, K);
                for (int i = 0; i < R; i++) {
                    const int64_t b = first + i0 + i, row = b * s.steps + t, at = (i0 + i) * P + j * W;
                    const X* in = x + row * 4 * s.row() + head * K + j * W;
                    __builtin_prefetch(in + 4 * s.row());
                    __builtin_prefetch(in + 5 * s.row());
                    __builtin_prefetch(in + 6 * s.row());
                    __builtin_prefetch(in + 7 * s.row());
                    vf raw_i = sums[i][0] + load(in, left), raw_f = sums[i][1] + load(in + s.row(), left);
                    vf raw_z = sums[i][2] + load(in + 2 * s.row(), left), raw_o = sums[i][3] + load(in + 3 * s.row(), left);
                    vf log_f = raw_f, slope = splat(1.0f);
                    if (!a.exp_f) {
                        vf e = exp_down(number(bits(raw_f) | (int32_t)0x80000000));
                        log_f = min(raw_f, vf{}) - log1p_of_unit(e);
                        if (SAVES) slope = (raw_f < 0.0f ? splat(1.0f) : e) / (1.0f + e);
                    }
                    log_f += load(m + at);
                    vf d = raw_i - log_f;
                    vf u = exp(number(bits(d) | (int32_t)0x80000000));
                    u = number(bits(u) | (bits(d) & (int32_t)0x80000000));
                    vf in_gate = input_of(u), forget = forget_of(u), z = tanh(raw_z);
                    vf c1 = forget * load(c + at) + in_gate * z, n1 = forget * load(n + at) + in_gate;
                    store(m + at, max(raw_i, log_f));
                    store(c + at, c1);
                    store(n + at, n1);
                    vf e = exp_down(number(bits(raw_o) | (int32_t)0x80000000));
                    vf top = raw_o < 0.0f ? e : splat(1.0f);
                    vf out = top * c1 / ((1.0f + e) * n1);
                    if (SAVES) {
                        vf o = top / (1.0f + e);
                        float* keep = gates + ((head * s.steps + t) * s.batch + b) * 4 * K + j * W;
                        store(keep, u, left);
                        store(keep + K, slope, left);
                        store(keep + 2 * K, z, left);
                        store(keep + 3 * K, o, left);
                    }
                    store(next + at, out);
                    store(y + row * s.row() + head * K + j * W, out, left);
                }
            });
        }
        float* swap = h;
        h = next, next = swap;
    }
    give(s, h, head, first, rows, state[4]);
    give(s, c, head, first, rows, state[5]);
    give(s, n, head, first, rows, state[6]);
    give(s, m, head, first, rows, state[7]);
}

int64_t backward_space(const Sizes& s, int64_t rows) {
    return rows * s.padded() * (3 + 4 + 2 * (BLOCK + 1));
}

// states: dh, dc, dn of the last state; then where to put those of the first
void backward(const Call& a, int64_t head, int64_t first, int64_t rows, const float* dy, const float* gates,
              const float* kept, float* const* states, float* dx, float* space) {
    const Sizes& s = a.s;
    const int64_t K = s.size, P = s.padded(), size = rows * P;
    float *carry = space, *dc = carry + size, *dn = dc + size, *draw = dn + size, *cs = draw + 4 * size;
    float* ns = cs + (BLOCK + 1) * size;
    take(s, states[0], head, first, rows, carry);
    take(s, states[1], head, first, rows, dc);
    take(s, states[2], head, first, rows, dn);
    for (int64_t start = (s.steps - 1) / BLOCK * BLOCK; start >= 0; start -= BLOCK) {
        const int64_t stop = start + BLOCK < s.steps ? start + BLOCK : s.steps;
        const float* at = kept + (start / BLOCK) * 2 * s.batch * s.row();
        take(s, at, head, first, rows, cs);
        take(s, at + s.batch * s.row(), head, first, rows, ns);
        for (int64_t t = start; t < stop; t++)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t k = 0; k < K; k += W) {
                    const float* g = gates + ((head * s.steps + t) * s.batch + first + i) * 4 * K + k;
                    vf u = load(g, K - k), z = load(g + 2 * K, K - k);
                    const int64_t from = (t - start) * size + i * P + k;
                    store(cs + from + size, forget_of(u) * load(cs + from) + input_of(u) * z);
                    store(ns + from + size, forget_of(u) * load(ns + from) + input_of(u));
                }
        for (int64_t t = stop - 1; t >= start; t--) {
            for (int64_t i = 0; i < rows; i++) {
                const int64_t b = first + i, row = b * s.steps + t;
                for (int64_t k = 0; k < K; k += W) {
                    const int64_t left = K - k, at = i * P + k, from = (t - start) * size + at;
                    const float* g = gates + ((head * s.steps + t) * s.batch + b) * 4 * K + k;
                    const float* above = dy + row * s.row() + head * K + k;
                    if (t) __builtin_prefetch(above - s.row());
                    vf u = load(g, left), slope = load(g + K, left), z = load(g + 2 * K, left), o = load(g + 3 * K, left);
                    vf in_gate = input_of(u), forget = forget_of(u);
                    vf dh = load(carry + at) + load(above, left);
                    vf over_n = 1.0f / load(ns + from + size), ratio = load(cs + from + size) * over_n;
                    vf d = dh * o * over_n;
                    vf dc1 = load(dc + at) + d, dn1 = load(dn + at) - d * ratio;
                    vf d_i = (dc1 * z + dn1) * in_gate;
                    vf d_f = (dc1 * load(cs + from) + dn1 * load(ns + from)) * forget * slope;
                    vf d_z = dc1 * in_gate * (1.0f - z * z);
                    vf d_o = dh * ratio * o * (1.0f - o);
                    store(dc + at, dc1 * forget);
                    store(dn + at, dn1 * forget);
                    float* out = draw + i * 4 * P + k;
                    float* to = dx + row * 4 * s.row() + head * K + k;
                    store(out, d_i), store(to, d_i, left);
                    store(out + P, d_f), store(to + s.row(), d_f, left);
                    store(out + 2 * P, d_z), store(to + 2 * s.row(), d_z, left);
                    store(out + 3 * P, d_o), store(to + 3 * s.row(), d_o, left);
                }
            }
            unmix(s, draw, a.panels, carry, rows, t % 2);
            if (a.reset)
                for (int64_t i = 0; i < rows; i++)
                    if (a.reset[(first + i) * s.steps + t])
                        clear(s, carry, i, 0.0f), clear(s, dc, i, 0.0f), clear(s, dn, i, 0.0f);
        }
    }
    give(s, carry, head, first, rows, states[3]);
    give(s, dc, head, first, rows, states[4]);
    give(s, dn, head, first, rows, states[5]);
}

}  // namespace

// Numbers of float32 work space for forward, or for backward.
EXGATE_API int64_t exgate_slstm_space(int64_t batch, int64_t steps, int64_t heads, int64_t size, int64_t back,
                                      int64_t threads) {
    const Sizes s{batch, steps, heads, size};
    const Tiles tiles(s, threads);
    if (!back) return heads * mixing_numbers(s) + heads * tiles.tiles * tiles.rows * s.padded() * 5;
    const int64_t units = heads * tiles.tiles * backward_space(s, tiles.rows);
    const int64_t strips = heads * weight_strips(s) * weight_numbers(s);
    return heads * unmixing_numbers(s) + (units > strips ? units : strips);
}

// x (B, T, 4, H, K) float32, or bfloat16 if `half`; r (4, H, K, K); state: h, c, n, m and then where to put the last ones,
// (B, H, K) each. For backward: gates (H, T, B, 4, K) and kept (blocks, 2, B, H, K), null if there will be none.
EXGATE_API void exgate_slstm_forward(int64_t batch, int64_t steps, int64_t heads, int64_t size, int64_t half, int64_t exp_f,
                                     const void* x, const float* r, float* const* state, const uint8_t* reset, float* y,
                                     float* gates, float* kept, float* space, int64_t threads) {
    const Sizes s{batch, steps, heads, size};
    const Tiles tiles(s, threads);
    parallel(heads * s.blocks(), threads, [&](int64_t item) {
        const int64_t head = item / s.blocks();
        pack_mixing(s, r, head, item % s.blocks(), space + head * mixing_numbers(s));
    });
    float* rest = space + heads * mixing_numbers(s);
    parallel(heads * tiles.tiles, threads, [&](int64_t item) {
        const int64_t head = item / tiles.tiles, first = item % tiles.tiles * tiles.rows;
        const int64_t rows = batch - first < tiles.rows ? batch - first : tiles.rows;
        const Call call{s, exp_f, reset, space + head * mixing_numbers(s)};
        float* own = rest + item * tiles.rows * s.padded() * 5;
        auto* f = half ? nullptr : (const float*)x;
        auto* b = (const bf16*)x;
        if (gates && half) forward<true>(call, head, first, rows, b, y, state, gates, kept, own);
        if (gates && !half) forward<true>(call, head, first, rows, f, y, state, gates, kept, own);
        if (!gates && half) forward<false>(call, head, first, rows, b, y, state, gates, kept, own);
        if (!gates && !half) forward<false>(call, head, first, rows, f, y, state, gates, kept, own);
    });
}

// dy (B, T, H, K), y and h (the first state) as forward had them; states: dh, dc, dn of the last state and then where to
// put those of the first. Writes dx (B, T, 4, H, K) and dr (4, H, K, K).
EXGATE_API void exgate_slstm_backward(int64_t batch, int64_t steps, int64_t heads, int64_t size, const float* dy,
                                      const float* r, const float* y, const float* h, const float* gates,
                                      const float* kept, const uint8_t* reset, float* const* states, float* dx, float* dr,
                                      float* space, int64_t threads) {
    const Sizes s{batch, steps, heads, size};
    const Tiles tiles(s, threads);
    const int64_t panels = unmixing_panels(s), strips = weight_strips(s);
    parallel(heads * panels, threads, [&](int64_t item) {
        const int64_t head = item / panels;
        pack_unmixing(s, r, head, item % panels, space + head * unmixing_numbers(s));
    });
    float* rest = space + heads * unmixing_numbers(s);
    parallel(heads * tiles.tiles, threads, [&](int64_t item) {
        const int64_t head = item / tiles.tiles, first = item % tiles.tiles * tiles.rows;
        const int64_t rows = batch - first < tiles.rows ? batch - first : tiles.rows;
        const Call call{s, 0, reset, space + head * unmixing_numbers(s)};
        float* own = rest + item * backward_space(s, tiles.rows);
        backward(call, head, first, rows, dy, gates, kept, states, dx, own);
    });
    parallel(heads * strips, threads, [&](int64_t item) {
        float* own = rest + item * weight_numbers(s);
        weight_gradient(s, dx, y, h, reset, item / strips, item % strips, dr, own);
    });
}
