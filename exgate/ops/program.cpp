// Programs: lists of instructions on memory that stays where it is, run by one call.
//
// A recorded step of a model is a program (generate/replay.py), and so is a single step of an op: calling an operation
// from Python costs more than most of them do. program.py has the same structure and the same names. What may be written
// where it is read: each step writes a number of the state after it has read what lay in that place.

#include <math.h>

#include <vector>

#include "linear.h"

using namespace exgate;

namespace {

enum Kind { LINEAR, EMBEDDING, WIDEN, NORM, MAP, MLSTM, SLSTM, LSTM, CONV, SSM };
enum Function { COPY, TANH, SIGMOID, SILU, GELU, RELU, SQUARE, EXP, SOFTPLUS, ADD, SUBTRACT, MULTIPLY, DIVIDE };
enum Type { FLOAT32, BFLOAT16, INT8 };

struct Instruction {
    int64_t kind, n[20];
    void* at[12];
    float eps, unused;
};

template <class T = float>
EXGATE_INLINE T* at(const Instruction& i, int place) {
    return (T*)i.at[place];
}

// at: out, x, weight, scale, bias; n: type, groups, rows, outs, ins, strides of x and out by group and row
void run_linear(const Instruction& i, int64_t threads) {
    const int64_t* n = i.n;
    const Linear a{at(i, 1), at(i, 3), at(i, 4), at<void>(i, 2), at(i, 0), n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]};
    if (n[0] == FLOAT32) linear<float>(a, threads);
    if (n[0] == BFLOAT16) linear<bf16>(a, threads);
    if (n[0] == INT8) linear<int8_t>(a, threads);
}

// at: out, table, tokens; n: tokens, bytes of a row
void run_embedding(const Instruction& i) {
    for (int64_t row = 0, bytes = i.n[1]; row < i.n[0]; row++)
        memcpy(at<char>(i, 0) + row * bytes, at<char>(i, 1) + at<int64_t>(i, 2)[row] * bytes, bytes);
}

// From bfloat16 to float32. at: out, x; n: numbers
void run_widen(const Instruction& i) {
    for (int64_t k = 0, count = i.n[0]; k < count; k += W) store(at(i, 0) + k, load(at<bf16>(i, 1) + k, count - k), count - k);
}

// Every row by its own statistics. at: out, x, weight, bias; n: rows, size, whether the mean is subtracted
void run_norm(const Instruction& i) {
    const int64_t size = i.n[1];
    const float *weight = at(i, 2), *bias = at(i, 3);
    for (int64_t row = 0; row < i.n[0]; row++) {
        const float* x = at(i, 1) + row * size;
        float* y = at(i, 0) + row * size;
        float mean = 0;
        vf total = {};
        if (i.n[2]) {
            for (int64_t k = 0; k < size; k += W) total += load(x + k, size - k);
            mean = sum(total) / (float)size;
        }
        total = vf{};
        for (int64_t k = 0; k < size; k += W) {
            vf d = load(x + k, size - k) - mean;
            if (size - k < W)
                for (int64_t w = size - k; w < W; w++) d[w] = 0;
            total += d * d;
        }
        const float by = 1.0f / sqrtf(sum(total) / (float)size + i.eps);
        for (int64_t k = 0; k < size; k += W) {
            vf z = (load(x + k, size - k) - mean) * by;
            if (weight) z = z * load(weight + k, size - k);
            if (bias) z = z + load(bias + k, size - k);
            store(y + k, z, size - k);
        }
    }
}

EXGATE_INLINE vf take(const float* p, int64_t stride, int64_t left) {
    if (stride == 1) return load(p, left);
    if (stride == 0) return splat(*p);
    vf x = {};
    for (int64_t w = 0; w < W && w < left; w++) x[w] = p[w * stride];
    return x;
}

EXGATE_INLINE void put(float* p, int64_t stride, vf x, int64_t left) {
    if (stride == 1) return store(p, x, left);
    for (int64_t w = 0; w < W && w < left; w++) p[w * stride] = x[w];
}

template <class F>
void each(const Instruction& i, F&& f) {
    const int64_t *shape = i.n + 1, *to = shape + 4, *a = to + 4, *b = a + 4;
    const float *left = at(i, 1), *right = at(i, 2);
    for (int64_t x = 0; x < shape[0]; x++)
        for (int64_t y = 0; y < shape[1]; y++)
            for (int64_t z = 0; z < shape[2]; z++) {
                float* out = at(i, 0) + x * to[0] + y * to[1] + z * to[2];
                const float *p = left + x * a[0] + y * a[1] + z * a[2], *q = right + x * b[0] + y * b[1] + z * b[2];
                for (int64_t k = 0; k < shape[3]; k += W) {
                    const int64_t rest = shape[3] - k;
                    put(out + k * to[3], to[3], f(take(p + k * a[3], a[3], rest), take(q + k * b[3], b[3], rest)), rest);
                }
            }
}

EXGATE_INLINE vf gelu(vf x) {
    for (int w = 0; w < W; w++) x[w] = 0.5f * x[w] * (1.0f + erff(x[w] * 0.70710678f));
    return x;
}

// Element by element. at: out, a, b (a again where there is no b); n: function, shape, strides of out, a, b (four each)
void run_map(const Instruction& i) {
    switch (i.n[0]) {
        case COPY: each(i, [](vf a, vf) { return a; }); break;
        case TANH: each(i, [](vf a, vf) { return tanh(a); }); break;
        case SIGMOID: each(i, [](vf a, vf) { return sigmoid(a); }); break;
        case SILU: each(i, [](vf a, vf) { return a * sigmoid(a); }); break;
        case GELU: each(i, [](vf a, vf) { return gelu(a); }); break;
        case RELU: each(i, [](vf a, vf) { return a < 0.0f ? vf{} : a; }); break;
        case SQUARE: each(i, [](vf a, vf) { return a * a; }); break;
        case EXP: each(i, [](vf a, vf) { return exp(a); }); break;
        case SOFTPLUS: each(i, [](vf a, vf) { return vf{} - logsigmoid(vf{} - a); }); break;
        case ADD: each(i, [](vf a, vf b) { return a + b; }); break;
        case SUBTRACT: each(i, [](vf a, vf b) { return a - b; }); break;
        case MULTIPLY: each(i, [](vf a, vf b) { return a * b; }); break;
        case DIVIDE: each(i, [](vf a, vf b) { return a / b; }); break;
    }
}

// h += q_k times the new memory, which is f times the old plus ik_k v: one pass over the memory, VECTORS columns at a time
template <int VECTORS>
EXGATE_INLINE void remember(const float* c, float* next, const float* q, const float* ik, const float* v, float f,
                            float scale, float* h, int64_t K, int64_t V, int64_t left) {
    vf sums[VECTORS] = {}, value[VECTORS];
#pragma GCC unroll 8
    for (int x = 0; x < VECTORS; x++) value[x] = load(v + x * W, left - x * W);
    for (int64_t k = 0; k < K; k++) {
#pragma GCC unroll 8
        for (int x = 0; x < VECTORS; x++) {
            vf now = load(c + k * V + x * W, left - x * W) * f + value[x] * ik[k];
            store(next + k * V + x * W, now, left - x * W);
            sums[x] += now * q[k];
        }
    }
#pragma GCC unroll 8
    for (int x = 0; x < VECTORS; x++) store(h + x * W, sums[x] * scale, left - x * W);
}

// at: h, c', n', m', q, k, v, i, f, c, n, m; n: rows, heads, K, V, exponential, normalize, strides of q, k, v (row, head each)
void run_mlstm(const Instruction& i, int64_t threads) {
    const int64_t heads = i.n[1], K = i.n[2], V = i.n[3], count = i.n[0] * heads;
    parallel(count, count * K * V * 4 < SHARE ? 1 : threads, [&](int64_t item) {
        static thread_local std::vector<float> space;
        space.resize(2 * K + W);
        const int64_t* strides = i.n + 6;
        auto row = [&](int place, int which) {
            return at(i, place) + item / heads * strides[2 * which] + item % heads * strides[2 * which + 1];
        };
        const float *q = row(4, 0), *k = row(5, 1), *v = row(6, 2);
        auto log_gate = [&](int place) { return logsigmoid(splat(at(i, place)[item]))[0]; };
        const float log_f = log_gate(8), log_i = i.n[4] ? at(i, 7)[item] : log_gate(7);
        const float before = at(i, 11)[item], m = i.n[4] ? fmaxf(log_f + before, log_i) : before;
        const float f = expf(log_f + before - m), gate = expf(log_i - m), scale = 1 / sqrtf((float)K);
        float *ik = space.data(), *scaled = ik + K, *n = at(i, 2) + item * K;
        vf inner = {};
        for (int64_t x = 0; x < K; x += W) {
            vf new_k = load(k + x, K - x) * gate, new_q = load(q + x, K - x) * scale;
            vf now = load(at(i, 10) + item * K + x, K - x) * f + new_k;
            store(ik + x, new_k, K - x), store(scaled + x, new_q, K - x), store(n + x, now, K - x);
            inner += now * new_q;
        }
        const float by = i.n[5] ? 1 / (fmaxf(fabsf(sum(inner)), expf(-m)) + i.eps) : expf(m);
        const float* c = at(i, 9) + item * K * V;
        float *next = at(i, 1) + item * K * V, *h = at(i, 0) + item * V;
        int64_t x = 0;
        for (; x + 8 * W <= V; x += 8 * W)
            remember<8>(c + x, next + x, scaled, ik, v + x, f, by, h + x, K, V, 8 * W);
        for (; x < V; x += W) remember<1>(c + x, next + x, scaled, ik, v + x, f, by, h + x, K, V, V - x);
        at(i, 3)[item] = m;
    });
}

// The pre-activations of all four gates, x + R h: (rows, 4, heads, K). n: rows, heads, K, type of r
const float* mix(const Instruction& i, const float* x, const char* r, const float* h, int64_t threads) {
    static thread_local std::vector<float> space;
    const int64_t rows = i.n[0], heads = i.n[1], K = i.n[2], row = heads * K, bytes = i.n[3] == FLOAT32 ? 4 : 2;
    space.resize(rows * 4 * row);
    float* raw = space.data();
    for (int64_t gate = 0; gate < 4; gate++) {
        const void* weight = r + gate * row * K * bytes;
        const Linear a{h, nullptr, nullptr, weight, raw + gate * row, heads, rows, K, K, K, row, K, 4 * row};
        i.n[3] == FLOAT32 ? linear<float>(a, threads) : linear<bf16>(a, threads);
    }
    for (int64_t k = 0; k < rows * 4 * row; k += W) {
        const int64_t left = rows * 4 * row - k;
        store(raw + k, load(raw + k, left) + load(x + k, left), left);
    }
    return raw;
}

// at: h', c', n', m', x, r, h, c, n, m; n: rows, heads, K, type of r, whether the forget gate is exponential
void run_slstm(const Instruction& i, int64_t threads) {
    const int64_t row = i.n[1] * i.n[2];
    const float* raw = mix(i, at(i, 4), at<char>(i, 5), at(i, 6), threads);
    for (int64_t b = 0; b < i.n[0]; b++)
        for (int64_t k = 0; k < row; k += W) {
            const int64_t left = row - k, place = b * row + k;
            const float* g = raw + 4 * b * row + k;
            vf input = load(g, left), forget = load(g + row, left);
            forget = (i.n[4] ? forget : logsigmoid(forget)) + load(at(i, 9) + place, left);
            vf m = input > forget ? input : forget;
            vf gate = exp(input - m), keep = exp(forget - m);
            vf c = keep * load(at(i, 7) + place, left) + gate * tanh(load(g + 2 * row, left));
            vf n = keep * load(at(i, 8) + place, left) + gate;
            store(at(i, 0) + place, sigmoid(load(g + 3 * row, left)) * c / n, left);
            store(at(i, 1) + place, c, left), store(at(i, 2) + place, n, left), store(at(i, 3) + place, m, left);
        }
}

// at: h', c', x, r, h, c, peephole or null; n: rows, heads, K, type of r
void run_lstm(const Instruction& i, int64_t threads) {
    const int64_t row = i.n[1] * i.n[2];
    const float *raw = mix(i, at(i, 2), at<char>(i, 3), at(i, 4), threads), *p = at(i, 6);
    for (int64_t b = 0; b < i.n[0]; b++)
        for (int64_t k = 0; k < row; k += W) {
            const int64_t left = row - k, place = b * row + k;
            const float* g = raw + 4 * b * row + k;
            auto peep = [&](int which) { return p ? load(p + which * row + k, left) : vf{}; };
            vf before = load(at(i, 5) + place, left);
            vf input = sigmoid(load(g, left) + peep(0) * before), forget = sigmoid(load(g + row, left) + peep(1) * before);
            vf c = forget * before + input * tanh(load(g + 2 * row, left));
            store(at(i, 0) + place, sigmoid(load(g + 3 * row, left) + peep(2) * c) * tanh(c), left);
            store(at(i, 1) + place, c, left);
        }
}

// at: y, window', x, weight (taps, D), bias or null, window (rows, taps - 1, D); n: rows, taps, D
void run_conv(const Instruction& i) {
    const int64_t taps = i.n[1], D = i.n[2];
    for (int64_t b = 0; b < i.n[0]; b++)
        for (int64_t d = 0; d < D; d += W) {
            const int64_t left = D - d;
            const float* window = at(i, 5) + b * (taps - 1) * D + d;
            float* next = at(i, 1) + b * (taps - 1) * D + d;
            vf newest = load(at(i, 2) + b * D + d, left), y = at(i, 4) ? load(at(i, 4) + d, left) : vf{};
            for (int64_t j = 0; j < taps - 1; j++) {
                vf x = load(window + j * D, left);
                y += x * load(at(i, 3) + j * D + d, left);
                if (j) store(next + (j - 1) * D, x, left);
            }
            if (taps > 1) store(next + (taps - 2) * D, newest, left);
            store(at(i, 0) + b * D + d, y + newest * load(at(i, 3) + (taps - 1) * D + d, left), left);
        }
}

// at: y, h', u, delta, a (D, N), b, c (rows, N), skip or null, h (rows, D, N); n: rows, D, N
void run_ssm(const Instruction& i) {
    const int64_t D = i.n[1], N = i.n[2];
    for (int64_t row = 0; row < i.n[0]; row++)
        for (int64_t d = 0; d < D; d++) {
            const int64_t item = row * D + d;
            const float u = at(i, 2)[item], delta = at(i, 3)[item];
            vf y = {};
            for (int64_t k = 0; k < N; k += W) {
                const int64_t left = N - k;
                vf h = exp(load(at(i, 4) + d * N + k, left) * delta) * load(at(i, 8) + item * N + k, left) +
                       load(at(i, 5) + row * N + k, left) * (delta * u);
                store(at(i, 1) + item * N + k, h, left);
                y += h * load(at(i, 6) + row * N + k, left);
            }
            at(i, 0)[item] = sum(y) + (at(i, 7) ? at(i, 7)[d] * u : 0.0f);
        }
}

}  // namespace

EXGATE_API void exgate_run(const Instruction* program, int64_t count, int64_t threads) {
    for (const Instruction* i = program; i < program + count; i++) switch (i->kind) {
            case LINEAR: run_linear(*i, threads); break;
            case EMBEDDING: run_embedding(*i); break;
            case WIDEN: run_widen(*i); break;
            case NORM: run_norm(*i); break;
            case MAP: run_map(*i); break;
            case MLSTM: run_mlstm(*i, threads); break;
            case SLSTM: run_slstm(*i, threads); break;
            case LSTM: run_lstm(*i, threads); break;
            case CONV: run_conv(*i); break;
            case SSM: run_ssm(*i); break;
        }
}
