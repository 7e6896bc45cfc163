// WKV, forward and backward: W channels at a time, each channel by itself. Equations and names are those of eager.py.
//
// Backward computes h and l of a segment again, from those that forward kept before it, and walks the segment back.

#include "../channels.h"

using namespace exgate;

namespace {

EXGATE_INLINE vf never() { return splat(-__builtin_inff()); }

struct State {
    vf h, l;

    // A step later; returns g. One exponential serves g and l.
    EXGATE_INLINE vf advance(vf k, vf v, vf w) {
        const vf aged = l - w, d = k - aged, e = exp(number(bits(d) | (int32_t)0x80000000));
        const vf g = (d >= 0.0f ? splat(1.0f) : e) / (e + 1.0f);
        h += g * (v - h);
        l = max(aged, k) + log1p_of_unit(e);
        return g;
    }
};

}  // namespace

// k, v, y (B, T, D), w, u (D), h, l, m and those after the last step (B, D), reset (B, T) or null,
// hs, ls (B, segments, D) or null: h and l before each segment
EXGATE_API void exgate_wkv_forward(const float* k, const float* v, const float* w, const float* u, const float* h,
                                   const float* l, const float* m, const uint8_t* reset, float* y, float* h_last,
                                   float* l_last, float* m_last, float* hs, float* ls, int64_t B, int64_t T, int64_t D,
                                   int64_t segment, int64_t threads) {
    const int64_t segments = (T + segment - 1) / segment;
    strips(B, D, W, threads, [&](int64_t row, int64_t d, int64_t left) {
        const int64_t place = row * D + d;
        const vf decay = load(w + d, left), bonus = load(u + d, left);
        State state{load(h + place, left), load(l + place, left)};
        vf top = load(m + place, left);
        for (int64_t t = 0; t < T; t++) {
            const int64_t at = (row * T + t) * D + d;
            if (hs && t % segment == 0) {
                const int64_t to = (row * segments + t / segment) * D + d;
                store(hs + to, state.h, left), store(ls + to, state.l, left);
            }
            if (reset && reset[row * T + t]) state = {vf{}, never()}, top = never();
            const vf key = load(k + at, left), value = load(v + at, left);
            store(y + at, state.h + sigmoid(bonus + key - state.l) * (value - state.h), left);
            state.advance(key, value, decay);
            top = max(top - decay, key);
        }
        store(h_last + place, state.h, left), store(l_last + place, state.l, left), store(m_last + place, top, left);
    });
}

// As above; dh, dl: the gradients of the last h and l, last: that h; dw, du (B, D) for each row of the batch;
// dh_first, dl_first (B, D): the gradients of the first h and l
EXGATE_API void exgate_wkv_backward(const float* dy, const float* dh, const float* dl, const float* k, const float* v,
                                    const float* w, const float* u, const float* last, const float* hs, const float* ls,
                                    const uint8_t* reset, float* dk, float* dv, float* dw, float* du, float* dh_first,
                                    float* dl_first, int64_t B, int64_t T, int64_t D, int64_t segment, int64_t threads) {
    const int64_t segments = (T + segment - 1) / segment;
    strips(B, D, W, threads, [&](int64_t row, int64_t d, int64_t left) {
        float *h_of = scratch(3 * segment * W), *p_of = h_of + segment * W, *g_of = p_of + segment * W;
        const int64_t place = row * D + d;
        const vf decay = load(w + d, left), bonus = load(u + d, left);
        vf a = load(dh + place, left), b = load(dl + place, left) - a * load(last + place, left), to_w = {}, to_u = {};
        for (int64_t part = segments - 1; part >= 0; part--) {
            const int64_t begin = part * segment, count = T - begin < segment ? T - begin : segment;
            const int64_t from = (row * segments + part) * D + d;
            State state{load(hs + from, left), load(ls + from, left)};
            for (int64_t t = 0; t < count; t++) {
                const int64_t at = (row * T + begin + t) * D + d;
                if (reset && reset[row * T + begin + t]) state = {vf{}, never()};
                const vf key = load(k + at, left);
                store(h_of + t * W, state.h);
                store(p_of + t * W, sigmoid(bonus + key - state.l));
                store(g_of + t * W, state.advance(key, load(v + at, left), decay));
            }
            for (int64_t t = count - 1; t >= 0; t--) {
                const int64_t at = (row * T + begin + t) * D + d;
                const vf value = load(v + at, left), dout = load(dy + at, left);
                const vf before = load(h_of + t * W), p = load(p_of + t * W), g = load(g_of + t * W), r = 1.0f - g;
                const vf out = before + p * (value - before), through = p * dout, bend = through * (value - out);
                store(dv + at, through + g * a, left);
                store(dk + at, bend + g * (a * value + b), left);
                to_u += bend;
                to_w -= r * (before * a + b);
                const vf q = (1.0f - p) * dout;
                a = r * a + q;
                b = r * b - q * out;
                if (reset && reset[row * T + begin + t]) a = b = vf{};
            }
        }
        store(dw + place, to_w, left), store(du + place, to_u, left);
        store(dh_first + place, a, left), store(dl_first + place, b + a * load(hs + row * segments * D + d, left), left);
    });
}
