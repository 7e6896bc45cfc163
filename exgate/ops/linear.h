// y = W x for a few rows of x: the weights are read once, at the speed of the memory.
//
// Weights are float32, bfloat16, or int8 with a scale per output. So that the arithmetic keeps up with memory, x is laid
// out for the weights first: vectors of all rows side by side (rows that lie a power of two apart share a set of the
// cache); for bfloat16, even numbers apart from odd ones, as a word of two weights gives them by a shift and a mask; for
// int8, as 15-bit whole numbers. Every output is one sum in one order, however many threads there are.
#pragma once

#include <math.h>

#include <vector>

#include "pool.h"
#include "vector.h"

namespace exgate {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int STREAMS = 4;
#else
constexpr int STREAMS = 2;  // 16 registers
#endif
constexpr int MOST_ROWS = 8;
constexpr int64_t SHARE = 1 << 18;    // bytes of weights that are worth a thread
constexpr int64_t WHOLE_BLOCK = 512;  // numbers at a time whose products, of int8 with up to LARGEST, fit 32 bits in sum
constexpr float LARGEST = 16383.0f;

struct Linear {
    const float *x, *scale, *bias;  // scale and bias: (groups, outs) or null
    const void* weight;             // (groups, outs, ins)
    float* out;
    int64_t groups, rows, outs, ins;
    int64_t x_group, x_row, out_group, out_row;  // strides
};

// What weights are multiplied with: numbers of `rows` rows, each to be scaled by `unit` in the end
template <class Number>
struct Operand {
    const Number* x;
    const float* unit;
};

// float32: W numbers of each row, then the next W; the last are filled up with zeros. bfloat16: the same by 2 W, the W even
// ones first. `pair` is 1 or 2.
inline Operand<float> vectors(const Linear& a, const float* x, int64_t rows, int64_t pair) {
    static thread_local std::vector<float> space;
    const int64_t block = pair * W, blocks = (a.ins + block - 1) / block;
    space.assign(blocks * rows * block + W, 0.0f);
    float* to = (float*)(((uintptr_t)space.data() + 4 * W - 1) / (4 * W) * (4 * W));  // a vector across two lines costs two
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < a.ins; k++)
            to[(k / block * rows + r) * block + k % pair * W + k % block / pair] = x[r * a.x_row + k];
    return {to, nullptr};
}

inline Operand<float> operand(const Linear& a, const float* x, int64_t rows, const float*) { return vectors(a, x, rows, 1); }
inline Operand<float> operand(const Linear& a, const float* x, int64_t rows, const bf16*) { return vectors(a, x, rows, 2); }

inline Operand<int16_t> operand(const Linear& a, const float* x, int64_t rows, const int8_t*) {
    static thread_local std::vector<int16_t> space;
    static thread_local float units[MOST_ROWS];
    space.resize(rows * a.ins);
    for (int64_t r = 0; r < rows; r++) {
        const float* from = x + r * a.x_row;
        vf most = {}, odd = {};
        for (int64_t k = 0; k < a.ins; k += W) {
            vf number = load(from + k, a.ins - k);
            most = max(abs(number), most), odd += number * 0.0f;
        }
        float largest = 0;
        for (int w = 0; w < W; w++) largest = most[w] > largest ? most[w] : largest;
        units[r] = largest / LARGEST + sum(odd);  // NaN if any number is NaN or infinite
        const float by = units[r] > 0 ? LARGEST / largest : 0.0f;
        for (int64_t k = 0; k < a.ins; k++) space[r * a.ins + k] = (int16_t)lrintf(from[k] * by);
    }
    return {space.data(), units};
}

template <int S, int ROWS>
EXGATE_INLINE void total(float (&y)[S][ROWS], const vf (&sums)[S][ROWS]) {
    for (int s = 0; s < S; s++)
        for (int r = 0; r < ROWS; r++) y[s][r] = sum(sums[s][r]);
}

// y[s][r] = row s of w times row r of x, for S rows of w that are `apart` numbers apart
template <int S, int ROWS>
EXGATE_INLINE void dot(float (&y)[S][ROWS], const float* w, int64_t apart, const Operand<float>& a, int64_t ins) {
    vf sums[S][ROWS] = {};
    auto add = [&](const float* x, const vf (&left)[S]) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            vf right = load(x + r * W);
#pragma GCC unroll 8
            for (int s = 0; s < S; s++) sums[s][r] += left[s] * right;
        }
    };
    vf left[S];
    int64_t k = 0;
    for (; k + W <= ins; k += W) {
#pragma GCC unroll 8
        for (int s = 0; s < S; s++) left[s] = load(w + s * apart + k);
        add(a.x + k * ROWS, left);
    }
    if (k < ins) {
        for (int s = 0; s < S; s++) left[s] = load(w + s * apart + k, ins - k);
        add(a.x + k * ROWS, left);
    }
    total(y, sums);
}

template <int S, int ROWS>
EXGATE_INLINE void dot(float (&y)[S][ROWS], const bf16* w, int64_t apart, const Operand<float>& a, int64_t ins) {
    typedef vu vu_any __attribute__((aligned(2), may_alias));
    vf sums[S][ROWS] = {};
    auto add = [&](const float* x, const vu (&both)[S]) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            vf even = load(x + 2 * r * W), odd = load(x + 2 * r * W + W);
#pragma GCC unroll 8
            for (int s = 0; s < S; s++) {
                sums[s][r] += (vf)(both[s] << 16) * even;
                sums[s][r] += (vf)(both[s] & 0xffff0000u) * odd;
            }
        }
    };
    vu both[S];
    int64_t k = 0;
    for (; k + 2 * W <= ins; k += 2 * W) {
#pragma GCC unroll 8
        for (int s = 0; s < S; s++) both[s] = *(const vu_any*)(w + s * apart + k);
        add(a.x + k * ROWS, both);
    }
    if (k < ins) {
        for (int s = 0; s < S; s++) {
            both[s] = vu{};
            memcpy(&both[s], w + s * apart + k, sizeof(bf16) * (ins - k));
        }
        add(a.x + k * ROWS, both);
    }
    total(y, sums);
}

template <int S, int ROWS>
EXGATE_INLINE void dot(float (&y)[S][ROWS], const int8_t* w, int64_t apart, const Operand<int16_t>& a, int64_t ins) {
    for (int s = 0; s < S; s++)
        for (int r = 0; r < ROWS; r++) y[s][r] = 0;
    for (int64_t first = 0; first < ins; first += WHOLE_BLOCK) {
        const int64_t last = first + WHOLE_BLOCK < ins ? first + WHOLE_BLOCK : ins;
        for (int s = 0; s < S; s++)
            for (int r = 0; r < ROWS; r++) {
                int32_t part = 0;
                for (int64_t k = first; k < last; k++) part += (int32_t)w[s * apart + k] * (int32_t)a.x[r * ins + k];
                y[s][r] += (float)part * a.unit[r];
            }
    }
}

// Outputs first ... last - 1. Their weights are read in STREAMS places at once: one does not keep the memory busy.
template <int ROWS, class Weight, class Number>
void dots(const Linear& a, const Operand<Number>& right, int64_t row, int64_t group, int64_t first, int64_t last) {
    // S * ROWS sums stay in registers; those of int8 do not, and gain by it only where memory is the limit.
    constexpr int S = sizeof(Weight) == 1 ? (ROWS <= 2 ? STREAMS : 1) : ROWS <= 4 ? STREAMS : STREAMS / 2;
    const Weight* w = (const Weight*)a.weight + group * a.outs * a.ins;
    float* out = a.out + group * a.out_group + row * a.out_row;
    auto put = [&](int64_t o, const auto& y) {
        const int64_t place = group * a.outs + o;
        for (int r = 0; r < ROWS; r++)
            out[r * a.out_row + o] = y[r] * (a.scale ? a.scale[place] : 1.0f) + (a.bias ? a.bias[place] : 0.0f);
    };
    const int64_t each = (last - first) / S;
    for (int64_t o = first; o < first + each; o++) {
        float y[S][ROWS];
        dot(y, w + o * a.ins, each * a.ins, right, a.ins);
        for (int s = 0; s < S; s++) put(o + s * each, y[s]);
    }
    for (int64_t o = first + S * each; o < last; o++) {
        float y[1][ROWS];
        dot(y, w + o * a.ins, 0, right, a.ins);
        put(o, y[0]);
    }
}

template <class Weight>
void linear(const Linear& a, int64_t threads) {
    const int64_t share = a.outs * a.ins * (int64_t)sizeof(Weight) / SHARE;
    const int64_t parts = share < 1 ? 1 : share < threads ? share : threads, each = (a.outs + parts - 1) / parts;
    for (int64_t group = 0; group < a.groups; group++)
        for (int64_t row = 0; row < a.rows; row += MOST_ROWS) {
            const int64_t rows = a.rows - row < MOST_ROWS ? a.rows - row : MOST_ROWS;
            const float* x = a.x + group * a.x_group + row * a.x_row;
            const auto right = operand(a, x, rows, (const Weight*)nullptr);
            parallel(parts, threads, [&](int64_t part) {
                const int64_t first = part * each, last = first + each < a.outs ? first + each : a.outs;
                switch (rows) {
                    case 1: dots<1, Weight>(a, right, row, group, first, last); break;
                    case 2: dots<2, Weight>(a, right, row, group, first, last); break;
                    case 3: dots<3, Weight>(a, right, row, group, first, last); break;
                    case 4: dots<4, Weight>(a, right, row, group, first, last); break;
                    case 5: dots<5, Weight>(a, right, row, group, first, last); break;
                    case 6: dots<6, Weight>(a, right, row, group, first, last); break;
                    case 7: dots<7, Weight>(a, right, row, group, first, last); break;
                    default: dots<8, Weight>(a, right, row, group, first, last);
                }
            });
        }
}

}  // namespace exgate
