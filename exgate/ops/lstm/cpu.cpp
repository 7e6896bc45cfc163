// LSTM, with peepholes: the time loop, forward and backward.
//
// For backward the four gates are kept, in place of the pre-activations, and c at the start of each block of steps; the
// rest of c and tanh(c) are computed again, the products are not.
#include "../recurrence.h"

using namespace exgate;

namespace {

struct Call {
    Sizes s;
    const uint8_t* reset;  // (B, T) or null
    const float* peephole;  // (3, H, K), gates i f o, or null
    const float* panels;
};

template <bool SAVES, class X>
void forward(const Call& a, int64_t head, int64_t first, int64_t rows, const X* x, float* y, float* const* state,
             float* gates, float* kept, float* space) {
    const Sizes& s = a.s;
    const int64_t K = s.size, P = s.padded(), J = s.blocks();
    float *h = space, *next = h + rows * P, *c = next + rows * P;
    take(s, state[0], head, first, rows, h);
    take(s, state[1], head, first, rows, c);
    for (int64_t t = 0; t < s.steps; t++) {
        if (SAVES && t % BLOCK == 0) give(s, c, head, first, rows, kept + (t / BLOCK) * s.batch * s.row());
        if (a.reset)
            for (int64_t i = 0; i < rows; i++)
                if (a.reset[(first + i) * s.steps + t]) clear(s, h, i, 0.0f), clear(s, c, i, 0.0f);
        for (int64_t turn = 0; turn < J; turn++) {
            const int64_t j = t % 2 ? J - 1 - turn : turn;  // to and fro: the weights last used are still in cache
            const int64_t left = K - j * W;
            vf p_i = {}, p_f = {}, p_o = {};
            if (a.peephole) {
                const float* p = a.peephole + head * K + j * W;
                p_i = load(p, left), p_f = load(p + s.row(), left), p_o = load(p + 2 * s.row(), left);
            }
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
                    vf c0 = load(c + at);
                    vf in_gate = sigmoid(sums[i][0] + load(in, left) + p_i * c0);
                    vf forget = sigmoid(sums[i][1] + load(in + s.row(), left) + p_f * c0);
                    vf z = tanh(sums[i][2] + load(in + 2 * s.row(), left));
                    vf c1 = forget * c0 + in_gate * z;
                    vf o = sigmoid(sums[i][3] + load(in + 3 * s.row(), left) + p_o * c1);
                    vf out = o * tanh(c1);
                    store(c + at, c1);
                    store(next + at, out);
                    store(y + row * s.row() + head * K + j * W, out, left);
                    if (SAVES) {
                        float* keep = gates + ((head * s.steps + t) * s.batch + b) * 4 * K + j * W;
                        store(keep, in_gate, left);
                        store(keep + K, forget, left);
                        store(keep + 2 * K, z, left);
                        store(keep + 3 * K, o, left);
                    }
                }
            });
        }
        float* swap = h;
        h = next, next = swap;
    }
    give(s, h, head, first, rows, state[2]);
    give(s, c, head, first, rows, state[3]);
}

int64_t backward_space(const Sizes& s, int64_t rows) {
    return rows * s.padded() * (2 + 4 + 3 + BLOCK + 1);
}

// states: dh, dc of the last state; then where to put those of the first. dpeephole: (B, 3, H, K), to be summed over B.
void backward(const Call& a, int64_t head, int64_t first, int64_t rows, const float* dy, const float* gates,
              const float* kept, float* const* states, float* dx, float* dpeephole, float* space) {
    const Sizes& s = a.s;
    const int64_t K = s.size, P = s.padded(), size = rows * P;
    float *carry = space, *dc = carry + size, *draw = dc + size, *dp = draw + 4 * size, *cs = dp + 3 * size;
    take(s, states[0], head, first, rows, carry);
    take(s, states[1], head, first, rows, dc);
    memset(dp, 0, sizeof(float) * 3 * size);
    for (int64_t start = (s.steps - 1) / BLOCK * BLOCK; start >= 0; start -= BLOCK) {
        const int64_t stop = start + BLOCK < s.steps ? start + BLOCK : s.steps;
        take(s, kept + (start / BLOCK) * s.batch * s.row(), head, first, rows, cs);
        for (int64_t t = start; t < stop; t++)
            for (int64_t i = 0; i < rows; i++) {
                const bool empty = a.reset && a.reset[(first + i) * s.steps + t];
                for (int64_t k = 0; k < K; k += W) {
                    const float* g = gates + ((head * s.steps + t) * s.batch + first + i) * 4 * K + k;
                    const int64_t from = (t - start) * size + i * P + k;
                    vf before = empty ? vf{} : load(cs + from);
                    store(cs + from + size, load(g + K, K - k) * before + load(g, K - k) * load(g + 2 * K, K - k));
                }
            }
        for (int64_t t = stop - 1; t >= start; t--) {
            for (int64_t i = 0; i < rows; i++) {
                const int64_t b = first + i, row = b * s.steps + t;
                const bool empty = a.reset && a.reset[row];
                for (int64_t k = 0; k < K; k += W) {
                    const int64_t left = K - k, at = i * P + k, from = (t - start) * size + at;
                    const float* g = gates + ((head * s.steps + t) * s.batch + b) * 4 * K + k;
                    const float* above = dy + row * s.row() + head * K + k;
                    if (t) __builtin_prefetch(above - s.row());
                    vf in_gate = load(g, left), forget = load(g + K, left), z = load(g + 2 * K, left);
                    vf o = load(g + 3 * K, left);
                    vf c0 = empty ? vf{} : load(cs + from), c1 = load(cs + from + size), u = tanh(c1);
                    vf dh = load(carry + at) + load(above, left);
                    vf d_o = dh * u * o * (1.0f - o);
                    vf dc1 = load(dc + at) + dh * o * (1.0f - u * u);
                    const float* p = a.peephole + head * K + k;
                    if (a.peephole) dc1 += load(p + 2 * s.row(), left) * d_o;
                    vf d_i = dc1 * z * in_gate * (1.0f - in_gate);
                    vf d_f = dc1 * c0 * forget * (1.0f - forget);
                    vf d_z = dc1 * in_gate * (1.0f - z * z);
                    vf dc0 = dc1 * forget;
                    if (a.peephole) {
                        dc0 += load(p, left) * d_i + load(p + s.row(), left) * d_f;
                        store(dp + at, load(dp + at) + d_i * c0);
                        store(dp + size + at, load(dp + size + at) + d_f * c0);
                        store(dp + 2 * size + at, load(dp + 2 * size + at) + d_o * c1);
                    }
                    store(dc + at, dc0);
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
                    if (a.reset[(first + i) * s.steps + t]) clear(s, carry, i, 0.0f), clear(s, dc, i, 0.0f);
        }
    }
    give(s, carry, head, first, rows, states[2]);
    give(s, dc, head, first, rows, states[3]);
    if (a.peephole)
        for (int64_t g = 0; g < 3; g++)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t k = 0; k < K; k += W)
                    store(dpeephole + (((first + i) * 3 + g) * s.heads + head) * K + k, load(dp + g * size + i * P + k), K - k);
}

}  // namespace

// Numbers of float32 work space for forward, or for backward.
EXGATE_API int64_t exgate_lstm_space(int64_t batch, int64_t steps, int64_t heads, int64_t size, int64_t back,
                                     int64_t threads) {
    const Sizes s{batch, steps, heads, size};
    const Tiles tiles(s, threads);
    if (!back) return heads * mixing_numbers(s) + heads * tiles.tiles * tiles.rows * s.padded() * 3;
    const int64_t units = heads * tiles.tiles * backward_space(s, tiles.rows);
    const int64_t strips = heads * weight_strips(s) * weight_numbers(s);
    return heads * unmixing_numbers(s) + (units > strips ? units : strips);
}

// x (B, T, 4, H, K) float32, or bfloat16 if `half`; r (4, H, K, K); state: h, c and then where to put the last ones,
// (B, H, K) each. For backward: gates (H, T, B, 4, K) and kept (blocks, B, H, K), null if there will be none.
EXGATE_API void exgate_lstm_forward(int64_t batch, int64_t steps, int64_t heads, int64_t size, int64_t half, const void* x,
                                    const float* r, float* const* state, const float* peephole, const uint8_t* reset,
                                    float* y, float* gates, float* kept, float* space, int64_t threads) {
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
        const Call call{s, reset, peephole, space + head * mixing_numbers(s)};
        float* own = rest + item * tiles.rows * s.padded() * 3;
        auto* f = half ? nullptr : (const float*)x;
        auto* b = (const bf16*)x;
        if (gates && half) forward<true>(call, head, first, rows, b, y, state, gates, kept, own);
        if (gates && !half) forward<true>(call, head, first, rows, f, y, state, gates, kept, own);
        if (!gates && half) forward<false>(call, head, first, rows, b, y, state, gates, kept, own);
        if (!gates && !half) forward<false>(call, head, first, rows, f, y, state, gates, kept, own);
    });
}

// dy (B, T, H, K), y and h (the first state) as forward had them; states: dh, dc of the last state and then where to put
// those of the first. Writes dx (B, T, 4, H, K), dr (4, H, K, K) and dpeephole (B, 3, H, K), per batch row.
EXGATE_API void exgate_lstm_backward(int64_t batch, int64_t steps, int64_t heads, int64_t size, const float* dy,
                                     const float* r, const float* y, const float* h, const float* gates, const float* kept,
                                     const float* peephole, const uint8_t* reset, float* const* states, float* dx, float* dr,
                                     float* dpeephole, float* space, int64_t threads) {
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
        const Call call{s, reset, peephole, space + head * unmixing_numbers(s)};
        float* own = rest + item * backward_space(s, tiles.rows);
        backward(call, head, first, rows, dy, gates, kept, states, dx, dpeephole, own);
    });
    parallel(heads * strips, threads, [&](int64_t item) {
        float* own = rest + item * weight_numbers(s);
        weight_gradient(s, dx, y, h, reset, item / strips, item % strips, dr, own);
    });
}
