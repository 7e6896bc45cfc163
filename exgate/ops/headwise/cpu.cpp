// Products with many small blocks on a diagonal: a vector of x, turned inside each block, times a vector of weights.
//
// With blocks of S, y[o] is the sum over k < S of w[o][(o + k) % S] x[(o + k) % S]. The weights come laid out so, (S, D):
// `turns[k][o]`. The gradient of x is such a product with the blocks transposed.

#include "../pool.h"
#include "../vector.h"

using namespace exgate;

namespace {

template <int S, int K, size_t... I>
EXGATE_INLINE vf turn(vf x, std::index_sequence<I...>) {
    return __builtin_shufflevector(x, x, (I / S * S + (I + K) % S)...);
}

// f(k, x turned by k) for all k
template <int S, class F, int K = 0>
EXGATE_INLINE void turns(vf x, F&& f) {
    if constexpr (K < S) {
        f(K, turn<S, K>(x, std::make_index_sequence<W>{}));
        turns<S, F, K + 1>(x, std::forward<F>(f));
    }
}

template <int S>
void product(const float* x, const float* weights, float* y, int64_t D) {
    for (int64_t d = 0; d < D; d += W) {
        vf sum = {};
        turns<S>(load(x + d, D - d), [&](int k, vf turned) { sum += turned * load(weights + k * D + d, D - d); });
        store(y + d, sum, D - d);
    }
}

template <int S>
void gradient(const float* dy, const float* x, float* dweights, int64_t D) {
    for (int64_t d = 0; d < D; d += W) {
        const vf out = load(dy + d, D - d);
        turns<S>(load(x + d, D - d), [&](int k, vf turned) {
            float* to = dweights + k * D + d;
            store(to, load(to, D - d) + out * turned, D - d);
        });
    }
}

// f(part, row) for all rows, in parts of `size`
template <class F>
void parts(int64_t rows, int64_t size, int64_t threads, F&& f) {
    parallel((rows + size - 1) / size, threads, [&](int64_t part) {
        const int64_t stop = (part + 1) * size < rows ? (part + 1) * size : rows;
        for (int64_t row = part * size; row < stop; row++) f(part, row);
    });
}

}  // namespace

// x (rows, D) with rows `next` apart, weights (S, D), y (rows, D); S is 2 or 4; `size` rows are a unit of work
EXGATE_API void exgate_headwise_forward(const float* x, const float* weights, float* y, int64_t rows, int64_t D, int64_t S,
                                        int64_t next, int64_t size, int64_t threads) {
    parts(rows, size, threads, [&](int64_t, int64_t row) {
        (S == 2 ? product<2> : product<4>)(x + row * next, weights, y + row * D, D);
    });
}

// transposed (S, D): the weights of the transposed blocks; dx (rows, D), dweights (parts, S, D), zero before: one sum for each
// part of `size` rows
EXGATE_API void exgate_headwise_backward(const float* dy, const float* x, const float* transposed, float* dx,
                                         float* dweights, int64_t rows, int64_t D, int64_t S, int64_t next,
                                         int64_t size, int64_t threads) {
    parts(rows, size, threads, [&](int64_t part, int64_t row) {
        const float* out = dy + row * D;
        (S == 2 ? product<2> : product<4>)(out, transposed, dx + row * D, D);
        (S == 2 ? gradient<2> : gradient<4>)(out, x + row * next, dweights + part * S * D, D);
    });
}
