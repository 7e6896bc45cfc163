// Vectors of W floats, their loads and stores, and the functions that gates are made of.
//
// Plain C++17 with the vector types of GCC and Clang; the compiler chooses the instructions. The width follows the
// instruction set that a file is compiled for, so one source serves all. Each function is within about 2 units in the last
// place of the exact value over the whole range (tests/ops/test_vector.py), keeps NaN, and takes +-inf to its limit.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#define EXGATE_WIDTH 16
#elif defined(__AVX2__)
#define EXGATE_WIDTH 8
#else
#define EXGATE_WIDTH 4
#endif

#define EXGATE_INLINE inline __attribute__((always_inline))
#if defined(_WIN32)
#define EXGATE_API extern "C" __declspec(dllexport)
#else
#define EXGATE_API extern "C" __attribute__((visibility("default")))
#endif

namespace exgate {

constexpr int W = EXGATE_WIDTH;

typedef float vf __attribute__((vector_size(4 * EXGATE_WIDTH)));
typedef int32_t vi __attribute__((vector_size(4 * EXGATE_WIDTH)));
typedef uint32_t vu __attribute__((vector_size(4 * EXGATE_WIDTH)));
typedef uint16_t vh __attribute__((vector_size(2 * EXGATE_WIDTH)));
typedef vf vf_any __attribute__((aligned(4), may_alias));  // the same at any address
typedef vh vh_any __attribute__((aligned(2), may_alias));

struct bf16 {
    uint16_t bits;
};

EXGATE_INLINE vf splat(float x) { return x - vf{}; }
EXGATE_INLINE vi bits(vf x) { return (vi)x; }
EXGATE_INLINE vf number(vi x) { return (vf)x; }

EXGATE_INLINE vf widen(vh x) { return (vf)(__builtin_convertvector(x, vu) << 16); }
EXGATE_INLINE vh narrow(vf x) {  // to the nearest, ties to even; NaN stays NaN
    vu u = (vu)x;
    vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    vu quiet = (u >> 16) | 64;
    return __builtin_convertvector(x == x ? rounded : quiet, vh);
}

EXGATE_INLINE vf load(const float* p) { return *(const vf_any*)p; }
EXGATE_INLINE vf load(const bf16* p) { return widen(*(const vh_any*)p); }
EXGATE_INLINE void store(float* p, vf x) { *(vf_any*)p = x; }
EXGATE_INLINE void store(bf16* p, vf x) { *(vh_any*)p = narrow(x); }

// The first n numbers, 0 <= n; beyond them a load gives zeros and a store writes nothing. n >= W is a whole vector.
EXGATE_INLINE vf load(const float* p, int64_t n) {
    if (__builtin_expect(n >= W, 1)) return load(p);
    vf x = {};
    for (int64_t i = 0; i < n; i++) x[i] = p[i];
    return x;
}
EXGATE_INLINE vf load(const bf16* p, int64_t n) {
    if (__builtin_expect(n >= W, 1)) return load(p);
    vh x = {};
    for (int64_t i = 0; i < n; i++) x[i] = p[i].bits;
    return widen(x);
}
EXGATE_INLINE void store(float* p, vf x, int64_t n) {
    if (__builtin_expect(n >= W, 1)) return store(p, x);
    for (int64_t i = 0; i < n; i++) p[i] = x[i];
}
EXGATE_INLINE void store(bf16* p, vf x, int64_t n) {
    if (__builtin_expect(n >= W, 1)) return store(p, x);
    vh y = narrow(x);
    for (int64_t i = 0; i < n; i++) p[i].bits = y[i];
}

template <int half, size_t... I>
EXGATE_INLINE vf add_half(vf x, std::index_sequence<I...>) {
    return x + __builtin_shufflevector(x, x, (I ^ half)...);
}
EXGATE_INLINE float sum(vf x) {
    auto all = std::make_index_sequence<W>{};
    if constexpr (W > 8) x = add_half<8>(x, all);
    if constexpr (W > 4) x = add_half<4>(x, all);
    return add_half<1>(add_half<2>(x, all), all)[0];
}

EXGATE_INLINE vf abs(vf x) { return number(bits(x) & 0x7fffffff); }
EXGATE_INLINE vf max(vf a, vf b) { return a > b ? a : b; }  // b where either is NaN
EXGATE_INLINE vf min(vf a, vf b) { return a < b ? a : b; }

EXGATE_INLINE vf exp(vf x) {
    // exp(x) = 2^n exp(r), |r| <= log(2)/2. 2^n is applied in two halves: n goes from -151 to 129.
    x = min(splat(89.0f), max(splat(-105.0f), x));
    vf shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: the rounded n is in its low bits
    vf n = shifted - 12582912.0f;
    vf r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi whole = bits(shifted) - 0x4b400000;
    vi half = whole >> 1;
    return p * number((half + 127) << 23) * number((whole - half + 127) << 23);
}

// exp(x) for x <= 0 whose result may be flushed to zero below exp(-87): one multiplication less.
EXGATE_INLINE vf exp_down(vf x) {
    x = max(splat(-87.5f), x);
    vf shifted = x * 1.44269504088896341f + 12582912.0f;
    vf n = shifted - 12582912.0f;
    vf r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * number((bits(shifted) - (0x4b400000 - 127)) << 23);
}

// log(1 + u) for 0 <= u <= 1: 2 atanh(s) with s = u / (2 + u) <= 1/3.
EXGATE_INLINE vf log1p_of_unit(vf u) {
    vf s = u / (u + 2.0f);
    vf z = s * s;
    vf p = z * 0.121447787f + 0.107153706f;
    p = p * z + 0.143082976f;
    p = p * z + 0.199994445f;
    p = p * z + 0.333333373f;
    return s * 2.0f + s * 2.0f * (p * z);
}

EXGATE_INLINE vf log1p(vf x) {
    // 1 + x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2); c puts back what rounding 1 + x lost.
    vf u = x + 1.0f;
    vi shifted = bits(u) + (0x3f800000 - 0x3f3504f3);
    vi k = (shifted >> 23) - 127;
    vf c = (k >= 2 ? 1.0f - (u - x) : x - (u - 1.0f)) / u;
    c = k < 25 ? c : vf{};
    vf f = number((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
    f = k == 0 ? x : f;
    c = k == 0 ? vf{} : c;
    vf s = f / (f + 2.0f), z = s * s, w = z * z;
    vf odd = w * (w * 0.24279078841f + 0.40000972152f);
    vf even = z * (w * 0.28498786688f + 0.66666662693f);
    vf half = f * f * 0.5f, n = __builtin_convertvector(k, vf);
    vf y = s * (half + odd + even) + (n * 9.0580006145e-6f + c) - half + f + n * 6.9313812256e-1f;
    y = u == __builtin_inff() ? u : y;
    y = u == 0.0f ? splat(-__builtin_inff()) : y;
    return u >= 0.0f ? y : splat(__builtin_nanf(""));  // also where x is NaN
}

EXGATE_INLINE vf tanh(vf x) {
    vf a = abs(x), z = a * a;
    vf p = z * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    p = p * z * a + a;
    vf e = exp_down(a * -2.0f);
    vf y = a > 0.625f ? (1.0f - e) / (1.0f + e) : p;
    return number(bits(y) | (bits(x) & (int32_t)0x80000000));
}

EXGATE_INLINE vf sigmoid(vf x) {
    vf e = exp(number(bits(x) | (int32_t)0x80000000));  // exp(-|x|)
    return (x >= 0.0f ? splat(1.0f) : e) / (e + 1.0f);
}

EXGATE_INLINE vf logsigmoid(vf x) {
    vf e = exp(number(bits(x) | (int32_t)0x80000000));
    return min(x, vf{}) - log1p_of_unit(e);
}

}  // namespace exgate
