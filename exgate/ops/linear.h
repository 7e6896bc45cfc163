// y = W x for a few rows of x: the weights are read once, at the speed of the memory.
//
// Weights are float32, bfloat16, or int8 with a scale per output. So that the arithmetic keeps up with memory, x is laid
// out for the weights first: for bfloat16, the even numbers of 2 W apart from the odd ones, as a word of two weights gives
// them by a shift and a mask; for int8, as 15-bit whole numbers. Every output is one sum in one order, however many
// threads there are.
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

// What a weight is multiplied with: rows of `next` numbers, each to be scaled by `unit` in the end
template <class Number>
struct Operand {
    const Number* x;
    int64_t next;
    const float* unit;
};

inline Operand<float> operand(const Linear& a, int64_t group, const float*) {
    return {a.x + group * a.x_group, a.x_row, nullptr};
}

inline Operand<float> operand(const Linear& a, int64_t group, const bf16*) {
    static thread_local std::vector<float> space;
    const int64_t pairs = a.ins / (2 * W) * W, next = a.ins + 2 * W;
    space.resize(a.rows * next);
    for (int64_t r = 0; r < a.rows; r++) {
        const float* from = a.x + group * a.x_group + r * a.x_row;
        float* to = space.data() + r * next;
        for (int64_t k = 0; k < 2 * pairs; k++) to[k / (2 * W) * 2 * W + k % 2 * W + k / 2 % W] = from[k];
        for (int64_t k = 2 * pairs; k < a.ins; k++) to[k] = from[k];
    }
    return {space.data(), next, nullptr};
}

inline Operand<int16_t> operand(const Linear& a, int64_t group, const int8_t*) {
    static thread_local std::vector<int16_t> space;
    static thread_local std::vector<float> units;
    space.resize(a.rows * a.ins), units.resize(a.rows);
    for (int64_t r = 0; r < a.rows; r++) {
        const float* from = a.x + group * a.x_group + r * a.x_row;
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
    return {space.data(), a.ins, units.data()};
}

// y[s][r] = row s of w times row r of x, for S rows of w that are `apart` numbers apart
template <int S, int ROWS>
EXGATE_INLINE void dot(float (&y)[S][ROWS], const float* w, int64_t apart, const Operand<float>& a, int64_t ins) {
    constexpr int U = ROWS == 1 ? 2 : 1;
    vf sums[S][ROWS][U] = {};
    int64_t k = 0;
    for (; k + U * W <= ins; k += U * W)
#pragma GCC unroll 2
        for (int u = 0; u < U; u++) {
            vf right[ROWS];
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) right[r] = load(a.x + r * a.next + k + u * W);
#pragma GCC unroll 8
            for (int s = 0; s < S; s++) {
                vf left = load(w + s * apart + k + u * W);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) sums[s][r][u] += left * right[r];
            }
        }
    for (; k < ins; k += W)
        for (int s = 0; s < S; s++)
            for (int r = 0; r < ROWS; r++)
                sums[s][r][0] += load(w + s * apart + k, ins - k) * load(a.x + r * a.next + k, ins - k);
    for (int s = 0; s < S; s++)
        for (int r = 0; r < ROWS; r++) y[s][r] = sum(U == 1 ? sums[s][r][0] : sums[s][r][0] + sums[s][r][U - 1]);
}

template <int S, int ROWS>
EXGATE_INLINE void dot(float (&y)[S][ROWS], const bf16* w, int64_t apart, const Operand<float>& a, int64_t ins) {
    typedef vu vu_any __attribute__((aligned(2), may_alias));
    vf sums[S][ROWS][2] = {};
    int64_t k = 0;
    for (; k + 2 * W <= ins; k += 2 * W)
#pragma GCC unroll 8
        for (int s = 0; s < S; s++) {
            vu both = *(const vu_any*)(w + s * apart + k);
            vf even = (vf)(both << 16), odd = (vf)(both & 0xffff0000u);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                sums[s][r][0] += even * load(a.x + r * a.next + k);
                sums[s][r][1] += odd * load(a.x + r * a.next + k + W);
            }
        }
    for (; k < ins; k += W)
        for (int s = 0; s < S; s++)
            for (int r = 0; r < ROWS; r++)
                sums[s][r][0] += load(w + s * apart + k, ins - k) * load(a.x + r * a.next + k, ins - k);
    for (int s = 0; s < S; s++)
        for (int r = 0; r < ROWS; r++) y[s][r] = sum(sums[s][r][0] + sums[s][r][1]);
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
                for (int64_t k = first; k < last; k++) part += (int32_t)w[s * apart + k] * (int32_t)a.x[r * a.next + k];
                y[s][r] += (float)part * a.unit[r];
            }
    }
}

// Outputs first ... last - 1. Their weights are read in STREAMS places at once: one does not keep the memory busy.
template <int ROWS, class Weight, class Number>
void dots(const Linear& a, Operand<Number> right, int64_t row, int64_t group, int64_t first, int64_t last) {
    constexpr int S = ROWS <= 2 ? STREAMS : 1;
    right.x += row * right.next;
    if (right.unit) right.unit += row;
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
    for (int64_t group = 0; group < a.groups; group++) {
        const auto right = operand(a, group, (const Weight*)nullptr);
        const int64_t share = a.outs * a.ins * (int64_t)sizeof(Weight) / SHARE;
        const int64_t parts = share < 1 ? 1 : share < threads ? share : threads, each = (a.outs + parts - 1) / parts;
        parallel(parts, threads, [&](int64_t part) {
            const int64_t first = part * each, last = first + each < a.outs ? first + each : a.outs;
            for (int64_t row = 0; row < a.rows; row += MOST_ROWS) switch (a.rows - row) {
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
