// Causal depthwise convolution, forward and backward: one pass over the inputs, and no copy of them.
//
// A step sees `kernel` inputs back to its document's first one; those before the first step are in `window`. What lies
// in another document is not read.

#include "../channels.h"

using namespace exgate;

namespace {

constexpr int64_t STRIP = 256;  // channels of a unit of work

// x (B, T, D) with window (B, J - 1, D) before it; reset (B, T) or null
struct Inputs {
    const float *x, *window;
    const uint8_t* reset;
    int64_t T, D, J;

    EXGATE_INLINE const float* at(int64_t row, int64_t t) const {
        return t < 0 ? window + (row * (J - 1) + t + J - 1) * D : x + (row * T + t) * D;
    }
    EXGATE_INLINE bool begins(int64_t row, int64_t t) const { return t >= 0 && reset && reset[row * T + t]; }
};

template <int N>
struct Count {
    EXGATE_INLINE constexpr operator int64_t() const { return N; }
};

// f(channel, channels left, taps), the last two known when compiling where they are as usual: nearly always
template <class F>
EXGATE_INLINE void vectors(int64_t width, int64_t taps, F&& f) {
    int64_t d = 0;
    if (taps == 4)
        for (; d + W <= width; d += W) f(d, Count<W>{}, Count<4>{});
    else
        for (; d + W <= width; d += W) f(d, Count<W>{}, taps);
    if (d < width) f(d, width - d, taps);
}

}  // namespace

// taps (J, D), bias (D) or null -> y (B, T, D)
EXGATE_API void exgate_conv_forward(const float* x, const float* taps, const float* bias, const float* window,
                                    const uint8_t* reset, float* y, int64_t B, int64_t T, int64_t D, int64_t J,
                                    int64_t threads) {
    const Inputs in{x, window, reset, T, D, J};
    strips(B, D, STRIP, threads, [&](int64_t row, int64_t first, int64_t width) {
        std::vector<const float*> from(J);
        int64_t document = 1 - J;
        for (int64_t t = 0; t < T; t++) {
            if (in.begins(row, t)) document = t;
            const int64_t oldest = t - J + 1 > document ? t - J + 1 : document, seen = t + 1 - oldest;
            for (int64_t j = 0; j < seen; j++) from[j] = in.at(row, oldest + j) + first;
            const float* tap = taps + (J - seen) * D + first;
            float* out = y + (row * T + t) * D + first;
            vectors(width, seen, [&](int64_t d, auto left, auto count) __attribute__((always_inline)) {
                vf sum = bias ? load(bias + first + d, left) : vf{};
                for (int64_t j = 0; j < count; j++) sum += load(from[j] + d, left) * load(tap + j * D + d, left);
                store(out + d, sum, left);
            });
        }
    });
}

// dx (B, T, D), dwindow (B, J - 1, D); dtaps (B, J, D) and dbias (B, D) for each row of the batch
EXGATE_API void exgate_conv_backward(const float* dy, const float* x, const float* taps, const float* window,
                                     const uint8_t* reset, float* dx, float* dwindow, float* dtaps, float* dbias,
                                     int64_t B, int64_t T, int64_t D, int64_t J, int64_t threads) {
    const Inputs in{x, window, reset, T, D, J};
    strips(B, D, STRIP, threads, [&](int64_t row, int64_t first, int64_t width) {
        const int64_t bytes = (int64_t)sizeof(float) * width;
        float* db = dbias + row * D + first;
        for (int64_t j = 0; j < J; j++) memset(dtaps + (row * J + j) * D + first, 0, bytes);
        memset(db, 0, bytes);
        int64_t end = T;  // of the document of s
        for (int64_t s = T - 1; s > -J; s--) {
            const int64_t start = s < 0 ? 0 : s, stop = s + J < end ? s + J : end;  // the steps that see s
            const int64_t newest = J - 1 + s - start;                              // the tap by which the first does
            const float *input = in.at(row, s) + first, *dout = dy + (row * T + start) * D + first;
            const float* tap = taps + newest * D + first;
            float* dtap = dtaps + (row * J + newest) * D + first;
            float* to = (s < 0 ? dwindow + (row * (J - 1) + s + J - 1) * D : dx + (row * T + s) * D) + first;
            vectors(width, stop - start, [&](int64_t d, auto left, auto count) __attribute__((always_inline)) {
                vf sum = {};
                const vf value = load(input + d, left);
                if (s >= 0) store(db + d, load(db + d, left) + load(dout + d, left), left);
                for (int64_t t = 0; t < count; t++) {
                    const vf now = load(dout + t * D + d, left);
                    sum += now * load(tap - t * D + d, left);
                    store(dtap - t * D + d, load(dtap - t * D + d, left) + now * value, left);
                }
                store(to + d, sum, left);
            });
            if (in.begins(row, s)) end = s;
        }
    });
}
