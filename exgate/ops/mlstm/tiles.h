// Products of small matrices, one tile of registers at a time, and the operands that they read.
//
// A product reads its left side number by number and its right side in vectors. Where the processor multiplies
// bfloat16, operands of that type are pairs: two numbers of the inner dimension in the place of one float. `pairs` says
// so; then inner dimensions count words of two.
#pragma once

#include <utility>

#include "../vector.h"

namespace exgate::mlstm {

constexpr int R = EXGATE_WIDTH == 16 ? 8 : 4;  // a tile of a product: R rows of N vectors, all in registers
constexpr int N = 2;
constexpr int PAD = 32;  // head sizes are filled up to a multiple of a tile's sides

inline int64_t up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
inline int64_t apart(int64_t width) { return up(width, 32) + 16; }

#if defined(__AVX512F__) && defined(__x86_64__)
#define EXGATE_PAIRS 1
EXGATE_INLINE void multiply_pairs(vf& sum, vf a, vf b) {  // there is no operator for it
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}

typedef uint16_t vh_two __attribute__((vector_size(4 * EXGATE_WIDTH)));
EXGATE_INLINE vh_two round_two(vf a, vf b) {  // a's numbers as bfloat16, then b's
    vh_two both;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(a), "v"(b));
    return both;
}
template <size_t... I>
EXGATE_INLINE vh_two interleave(vh_two x, std::index_sequence<I...>) {
    return __builtin_shufflevector(x, x, (I / 2 + I % 2 * W)...);
}
#endif

template <bool pairs>
constexpr int64_t words(int64_t numbers) {
    return pairs ? (numbers + 1) / 2 : numbers;
}

// sum[r][n] += over x of a[r * row + x * step] * b[x * next + n * W ...]
template <bool pairs, int rows, int vectors>
EXGATE_INLINE void multiply(vf (&sum)[rows][vectors], const float* a, int64_t row, int64_t step, const float* b,
                            int64_t next, int64_t count) {
#pragma GCC unroll 2
    for (int64_t x = 0; x < count; x++) {
        vf right[vectors];
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++) right[n] = load(b + x * next + n * W);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
#ifdef EXGATE_PAIRS
            if constexpr (pairs) {
                int32_t word;
                memcpy(&word, a + r * row + x * step, 4);
                vf left = number(word - vi{});
#pragma GCC unroll 4
                for (int n = 0; n < vectors; n++) multiply_pairs(sum[r][n], left, right[n]);
                continue;
            }
#endif
            vf left = splat(a[r * row + x * step]);
#pragma GCC unroll 4
            for (int n = 0; n < vectors; n++) sum[r][n] += left * right[n];
        }
    }
}

template <int rows, int vectors>
EXGATE_INLINE void read(vf (&sum)[rows][vectors], const float* from, int64_t next) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++) sum[r][n] = load(from + r * next + n * W);
}

template <int rows, int vectors>
EXGATE_INLINE void write(const vf (&sum)[rows][vectors], float* to, int64_t next) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++) store(to + r * next + n * W, sum[r][n]);
}

template <int rows, int vectors>
EXGATE_INLINE void scale(vf (&sum)[rows][vectors], const float* by) {  // each row by its own number
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++) sum[r][n] *= by[r];
}

// total[r] += the products of a row with another
EXGATE_INLINE void add_inner(vf (&total)[R], const vf (&sum)[R][N], const float* with, int64_t next) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) total[r] += sum[r][n] * load(with + r * next + n * W);
}

// out (height x width) = a b, with `width` a multiple of W
template <bool pairs, int vectors>
EXGATE_INLINE void tile_product(float* out, int64_t out_next, const float* a, int64_t row, const float* b, int64_t next,
                                int64_t count) {
    vf sum[R][vectors] = {};
    multiply<pairs>(sum, a, row, 1, b, next, count);
    write(sum, out, out_next);
}

template <int D, size_t... I>
EXGATE_INLINE void exchange(vf& a, vf& b, std::index_sequence<I...>) {
    vf x = __builtin_shufflevector(a, b, (I & D ? W + I - D : I)...);
    b = __builtin_shufflevector(a, b, (I & D ? W + I : I + D)...);
    a = x;
}

template <int D>
EXGATE_INLINE void exchange_all(vf (&x)[W]) {
#pragma GCC unroll 16
    for (int r = 0; r < W; r++)
        if (!(r & D)) exchange<D>(x[r], x[r | D], std::make_index_sequence<W>{});
}

EXGATE_INLINE void transpose_block(vf (&x)[W]) {
    exchange_all<1>(x);
    exchange_all<2>(x);
    if constexpr (W > 4) exchange_all<4>(x);
    if constexpr (W > 8) exchange_all<8>(x);
}

// to[x][y] = from[y][x], both sizes multiples of W
inline void transpose(float* to, int64_t to_next, const float* from, int64_t next, int64_t height, int64_t width) {
    for (int64_t y = 0; y < height; y += W)
        for (int64_t x = 0; x < width; x += W) {
            vf block[W];
#pragma GCC unroll 16
            for (int r = 0; r < W; r++) block[r] = load(from + (y + r) * next + x);
            transpose_block(block);
#pragma GCC unroll 16
            for (int r = 0; r < W; r++) store(to + (x + r) * to_next + y, block[r]);
        }
}

// The operands of products: themselves, or pairs of neighbours in a row, or of neighbours in a column
template <bool pairs>
const float* along([[maybe_unused]] float* to, const float* from, [[maybe_unused]] int64_t next,
                   [[maybe_unused]] int64_t height, [[maybe_unused]] int64_t width) {
#ifdef EXGATE_PAIRS
    if constexpr (pairs) {
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x += 2 * W) {
                const float* at = from + y * next + x;
                store(to + y * next + x / 2, (vf)round_two(load(at), load(at + W)));
            }
        return to;
    }
#endif
    return from;
}

template <bool pairs>
const float* across([[maybe_unused]] float* to, const float* from, [[maybe_unused]] int64_t next,
                    [[maybe_unused]] int64_t height, [[maybe_unused]] int64_t width) {
#ifdef EXGATE_PAIRS
    if constexpr (pairs) {
        for (int64_t y = 0; y < height; y += 2)
            for (int64_t x = 0; x < width; x += W) {
                const float* at = from + y * next + x;
                vh_two both = round_two(load(at), load(at + next));
                store(to + y / 2 * next + x, (vf)interleave(both, std::make_index_sequence<2 * W>{}));
            }
        return to;
    }
#endif
    return from;
}

}  // namespace exgate::mlstm
