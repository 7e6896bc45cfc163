// The products of a recurrence with one mixing matrix per head: packed weights, sums in registers, rows in tiles.
//
// Every number is a sum over k in order, whatever the tiling: threads and tiles do not change a bit.
#pragma once

#include "vector.h"

namespace exgate {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int ROWS = 6;  // rows in registers: ROWS * 4 sums, 4 weights and a broadcast fit 32 registers
#else
constexpr int ROWS = 3;  // 16 registers
#endif

struct Sizes {
    int64_t batch, steps, heads, size;
    int64_t blocks() const { return (size + W - 1) / W; }
    int64_t padded() const { return blocks() * W; }
    int64_t row() const { return heads * size; }  // one gate of one step of one batch row
};

// sums[r][v] += sum_k a[r * lda + k * step] * panel[k][v], r < R, v < V vectors
template <int R, int V>
EXGATE_INLINE void product(vf (&sums)[R][V], const float* a, int64_t lda, int64_t step, const float* panel, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        vf w[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) w[v] = *(const vf*)(panel + (k * V + v) * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            vf s = splat(a[r * lda + k * step]);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sums[r][v] += s * w[v];
        }
    }
}

template <int N>
struct Count {
    static constexpr int value = N;
};

// f(first row, Count<rows>) over groups of at most ROWS rows, as even as they can be
template <class F>
EXGATE_INLINE void row_groups(int64_t rows, F&& f) {
    int64_t groups = (rows + ROWS - 1) / ROWS, first = 0;
    for (int64_t g = 0; g < groups; g++) {
        int64_t n = (rows - first + groups - g - 1) / (groups - g);
        switch (n) {
            case 1: f(first, Count<1>{}); break;
            case 2: f(first, Count<2>{}); break;
            case 3: f(first, Count<3>{}); break;
#if defined(__AVX512F__) || defined(__aarch64__)
            case 4: f(first, Count<4>{}); break;
            case 5: f(first, Count<5>{}); break;
            case 6: f(first, Count<6>{}); break;
#endif
        }
        first += n;
    }
}

// Forward weights of one head: [block of outputs][k][gate][W]. r is [gate][head][out][in].
inline int64_t mixing_numbers(const Sizes& s) { return s.blocks() * s.size * 4 * W; }
inline void pack_mixing(const Sizes& s, const float* r, int64_t head, int64_t block, float* panels) {
    const int64_t K = s.size;
    float* panel = panels + block * K * 4 * W;
    const int64_t n = K - block * W < W ? K - block * W : W;
    // By W inputs, which fill lines of r and stay in cache while the four gates are laid side by side. The rows of r are
    // a power of two apart too often to be foreseen by the processor.
    for (int64_t k0 = 0; k0 < K; k0 += W)
        for (int64_t g = 0; g < 4; g++) {
            const float* rows = r + ((g * s.heads + head) * K + block * W) * K;
            const int64_t stop = k0 + W < K ? k0 + W : K;
            for (int64_t w = 0; w < W; w++) {
                if (w < n) __builtin_prefetch(rows + w * K + k0 + 2 * W);
                for (int64_t k = k0; k < stop; k++) panel[(k * 4 + g) * W + w] = w < n ? rows[w * K + k] : 0.0f;
            }
        }
}

// Backward weights of one head: [four blocks of inputs][gate, out (padded)][4 W]
inline int64_t unmixing_panels(const Sizes& s) { return (s.blocks() + 3) / 4; }
inline int64_t unmixing_numbers(const Sizes& s) { return unmixing_panels(s) * 4 * s.padded() * 4 * W; }
inline void pack_unmixing(const Sizes& s, const float* r, int64_t head, int64_t p, float* panels) {
    const int64_t K = s.size;
    float* panel = panels + p * 4 * s.padded() * 4 * W;
    for (int64_t g = 0; g < 4; g++)
        for (int64_t out = 0; out < s.padded(); out++) {
            const float* row = r + ((g * s.heads + head) * K + out) * K;
            for (int64_t v = 0; v < 4; v++) {
                const int64_t n = K - (p * 4 + v) * W;
                vf x = {};
                if (out < K && n > 0) x = load(row + (p * 4 + v) * W, n);
                *(vf*)(panel + ((g * s.padded() + out) * 4 + v) * W) = x;
            }
        }
}

// carry[row] = draw[row] times the unmixing panels: d h_{t-1}, rows of `padded` numbers from rows of 4 `padded`
inline void unmix(const Sizes& s, const float* draw, const float* panels, float* carry, int64_t rows, bool fro) {
    const int64_t P = s.padded(), count = unmixing_panels(s);
    for (int64_t turn = 0; turn < count; turn++) {
        const int64_t p = fro ? count - 1 - turn : turn;
        const float* panel = panels + p * 4 * P * 4 * W;
        const int64_t blocks = s.blocks() - p * 4;
        row_groups(rows, [&](int64_t first, auto group) {
            constexpr int R = decltype(group)::value;
            vf sums[R][4] = {};
            product<R, 4>(sums, draw + first * 4 * P, 4 * P, 1, panel, 4 * P);
            for (int i = 0; i < R; i++)
                for (int v = 0; v < 4; v++)
                    if (v < blocks) store(carry + (first + i) * P + (p * 4 + v) * W, sums[i][v]);
        });
    }
}

// The gradient of the weights: dr[gate][head][out][in] = sum over rows of dx[row][gate][head][out] h_before[row][in].
// Rows go through in blocks that fit in cache, copied side by side first: their strides are a power of two too often.
constexpr int64_t ROW_BLOCK = 128, STRIP = 64;
inline int64_t weight_strips(const Sizes& s) { return (s.size + STRIP - 1) / STRIP; }
inline int64_t weight_numbers(const Sizes& s) { return ROW_BLOCK * (STRIP + unmixing_panels(s) * 4 * W); }
inline void weight_gradient(const Sizes& s, const float* dx, const float* y, const float* h0, const uint8_t* reset,
                            int64_t head, int64_t strip, float* dr, float* space) {
    const int64_t K = s.size, panels = unmixing_panels(s), first_out = strip * STRIP;
    const int64_t outs = K - first_out < STRIP ? K - first_out : STRIP;
    float* before = space;  // [panel][row][4 W]
    float* d = space + ROW_BLOCK * panels * 4 * W;  // [row][outs]
    for (int64_t g = 0; g < 4; g++)
        memset(dr + ((g * s.heads + head) * K + first_out) * K, 0, sizeof(float) * outs * K);
    const int64_t all = s.batch * s.steps;
    for (int64_t start = 0; start < all; start += ROW_BLOCK) {
        const int64_t rows = all - start < ROW_BLOCK ? all - start : ROW_BLOCK;
        for (int64_t i = 0; i < rows; i++) {
            const int64_t row = start + i, b = row / s.steps, t = row % s.steps;
            const float* h = t ? y + (row - 1) * s.row() + head * K : h0 + b * s.row() + head * K;
            const bool empty = reset && reset[row];
            for (int64_t v = 0; v < panels * 4; v++) {
                vf x = {};
                if (!empty && v * W < K) x = load(h + v * W, K - v * W);
                *(vf*)(before + ((v / 4) * ROW_BLOCK + i) * 4 * W + (v % 4) * W) = x;
            }
        }
        for (int64_t g = 0; g < 4; g++) {
            for (int64_t i = 0; i < rows; i++)
                memcpy(d + i * STRIP, dx + ((start + i) * 4 + g) * s.row() + head * K + first_out, sizeof(float) * outs);
            for (int64_t p = 0; p < panels; p++)
                row_groups(outs, [&](int64_t first, auto count) {
                    constexpr int R = decltype(count)::value;
                    float* out = dr + ((g * s.heads + head) * K + first_out + first) * K + p * 4 * W;
                    const int64_t columns = K - p * 4 * W;
                    vf sums[R][4] = {};
                    for (int r = 0; r < R; r++)
                        for (int v = 0; v < 4; v++)
                            if (columns > v * W) sums[r][v] = load(out + r * K + v * W, columns - v * W);
                    product<R, 4>(sums, d + first, 1, STRIP, before + p * ROW_BLOCK * 4 * W, rows);
                    for (int r = 0; r < R; r++)
                        for (int v = 0; v < 4; v++)
                            if (columns > v * W) store(out + r * K + v * W, sums[r][v], columns - v * W);
                });
        }
    }
}

// Rows of a state (B, H, K) to and from rows of `padded` numbers; the padding is zero.
inline void take(const Sizes& s, const float* state, int64_t head, int64_t first, int64_t rows, float* to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < s.size; k += W)
            store(to + i * s.padded() + k, load(state + ((first + i) * s.heads + head) * s.size + k, s.size - k));
}
inline void give(const Sizes& s, const float* from, int64_t head, int64_t first, int64_t rows, float* state) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < s.size; k += W)
            store(state + ((first + i) * s.heads + head) * s.size + k, load(from + i * s.padded() + k), s.size - k);
}
inline void clear(const Sizes& s, float* rows, int64_t row, float value) {
    for (int64_t k = 0; k < s.padded(); k += W) store(rows + row * s.padded() + k, splat(value));
}

}  // namespace exgate
