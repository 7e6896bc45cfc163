// What forward and backward share of a chunk: its scores, its gates, and the states before and after it.
#pragma once

#include <math.h>

#include "memory.h"

namespace exgate::mlstm {

// out = a b for columns below `width`; with `lower`, only the tiles that reach below the diagonal
template <bool pairs>
void product(float* out, int64_t out_next, const float* a, int64_t row, const float* b, int64_t next, int64_t count,
             int64_t height, int64_t width, bool lower, Ahead& ahead) {
    for (int64_t y = 0; y < height; y += R) {
        int64_t end = lower ? up(y + R, W) : width;
        if (end > width) end = width;
        int64_t x = 0;
        for (; x + N * W <= end; x += N * W) {
            ahead.fetch(pairs ? 2 * count : count);
            tile_product<pairs, N>(out + y * out_next + x, out_next, a + y * row, row, b + x, next, count);
        }
        for (; x < end; x += W)
            tile_product<pairs, 1>(out + y * out_next + x, out_next, a + y * row, row, b + x, next, count);
    }
}

struct Gates {
    float *rows, *columns;  // D_ts = exp(rows_t + columns_s)
    float *m, *g, *w;       // g: what a step sees of the state before the chunk; w: what the state after sees of it
    float *seen;            // the first step of t's document in this chunk
    float through;          // what the state after keeps of the state before
    bool whole;             // no document begins inside the chunk

    static size_t numbers(int64_t size) { return 6 * size; }
    void take(Workspace& space, int64_t size) {
        for (float** part : {&rows, &columns, &m, &g, &w, &seen}) *part = space.take(size);
    }
};

EXGATE_INLINE float gate(const Strided& x, int64_t b, int64_t t, int64_t h) {
    return ((const float*)x.data)[b * x.batch + t * x.time + h * x.head];
}

// the gates of `count` steps from t; `size` is a multiple of W; returns m after them
inline float open(Gates& gates, const Call& call, int64_t b, int64_t h, int64_t t, int64_t count, int64_t size,
                  float before) {
    const float nothing = -1e30f, shift = -0.5f * logf((float)call.K);
    float *log_f = gates.g, *log_i = gates.w;
    for (int64_t s = 0; s < count; s++) {
        log_f[s] = gate(call.f, b, t + s, h);
        log_i[s] = gate(call.i, b, t + s, h);
    }
    for (int64_t s = count; s < size; s++) log_f[s] = log_i[s] = 0;
    for (int64_t s = 0; s < size; s += W) {
        store(log_f + s, logsigmoid(load(log_f + s)));
        if (!call.exponential) store(log_i + s, logsigmoid(load(log_i + s)));
    }
    float m = before, sum = 0, first = -1;
    for (int64_t s = 0; s < count; s++) {
        bool begins = call.reset && call.reset[b * call.T + t + s];
        if (begins) first = (float)s;
        if (call.exponential) {
            float decayed = log_f[s] + (begins ? 0 : m);
            m = decayed > log_i[s] ? decayed : log_i[s];
        }
        if (!begins) sum += log_f[s];  // no decay reaches across a reset
        gates.m[s] = m;
        gates.seen[s] = first;
        gates.rows[s] = sum - m + shift;
        gates.columns[s] = log_i[s] - sum;
    }
    gates.whole = first < 0;
    for (int64_t s = 0; s < count; s++) {
        gates.g[s] = gates.seen[s] < 0 ? gates.rows[s] + before : nothing;
        gates.w[s] = gates.seen[s] == first ? gates.columns[s] + (sum - m) : nothing;
    }
    for (int64_t s = count; s < size; s++) {
        gates.g[s] = gates.w[s] = nothing;
        gates.rows[s] = gates.columns[s] = gates.m[s] = 0;
        gates.seen[s] = 0;
    }
    for (int64_t s = 0; s < size; s += W) {
        store(gates.g + s, exp(load(gates.g + s)));
        store(gates.w + s, exp(load(gates.w + s)));
    }
    gates.through = gates.whole ? expf(sum + before - m) : 0;
    return m;
}

// Row t of D from column x on: zero where s > t, and where s is of a document before t's
EXGATE_INLINE vf weights(const Gates& gates, int64_t t, int64_t x, vf lane) {
    vf d = exp(load(gates.columns + x) + gates.rows[t]);
    vf s = lane + (float)x;
    return ((s <= (float)t) & (s >= gates.seen[t])) ? d : vf{};
}

EXGATE_INLINE vf lanes() {
    vf lane;
    for (int n = 0; n < W; n++) lane[n] = (float)n;
    return lane;
}

// scores (S) become P = S D, row by row; D is kept if asked for; sums gets the sum of each row
inline void weigh(float* scores, float* kept, int64_t next, const Gates& gates, int64_t count, int64_t height,
                  float* sums) {
    vf lane = lanes();
    for (int64_t t = 0; t < height; t++) {
        vf total = {};
        for (int64_t x = 0; x <= t; x += W) {
            vf d = t < count ? weights(gates, t, x, lane) : vf{};
            vf p = t < count ? load(scores + t * next + x) * d : vf{};
            store(scores + t * next + x, p);
            if (kept) store(kept + t * next + x, d);
            total += p;
        }
        sums[t] = sum(total);
    }
}

EXGATE_INLINE float dot(const float* a, const float* b, int64_t width) {
    vf one = {}, two = {};
    for (int64_t x = 0; x < width; x += 2 * W) {
        one += load(a + x) * load(b + x);
        two += load(a + x + W) * load(b + x + W);
    }
    return sum(one + two);
}

template <class Number>
float dot_row(const float* a, const Number* b, int64_t width) {
    vf total = {};
    for (int64_t x = 0; x < width; x += W) total += load(a + x) * load(b + x, width - x);
    return sum(total);
}

// a . the row of x at (b, t, h)
inline float dot_in(const float* a, const Call& call, const Strided& x, int64_t b, int64_t t, int64_t h,
                    int64_t width) {
    int64_t at = b * x.batch + t * x.time + h * x.head;
    return call.half ? dot_row(a, (const bf16*)x.data + at, width) : dot_row(a, (const float*)x.data + at, width);
}

// nq becomes n . q of every step: `nq` holds the chunk's part, g q . n the state's (n null: there is none). Then what
// num is multiplied by.
inline void normalizer(const Call& call, const Gates& gates, const float* q, int64_t next, const float* n,
                       int64_t count, int64_t height, float* nq, float* scales) {
    for (int64_t t = 0; n && t < count; t++) nq[t] += gates.g[t] * dot(q + t * next, n, up(call.K, PAD));
    for (int64_t t = 0; t < height; t += W) {
        vf m = load(gates.m + t);
        vf scale = call.normalize ? 1.0f / (max(abs(load(nq + t)), exp(-m)) + call.eps) : exp(m);
        store(scales + t, scale);
    }
}

struct State {  // padded: c (K, V) with rows `apart(V)` apart, n (K)
    float *c, *n;
    float m;
    bool empty = false;  // all zeros: c is never read

    const float* known() const { return empty ? nullptr : c; }

    static size_t numbers(int64_t K, int64_t V) { return up(K, PAD) * apart(V) + up(K, PAD); }
    void take(Workspace& space, int64_t K, int64_t V) {
        c = space.take(up(K, PAD) * apart(V));
        n = space.take(up(K, PAD));
    }
    void read(const float* from_c, const float* from_n, int64_t K, int64_t V) {
        empty = from_c == nullptr;
        if (empty) {
            memset(n, 0, sizeof(float) * up(K, PAD));
            return;
        }
        for (int64_t y = 0; y < K; y++) copy_row(c + y * apart(V), from_c + y * V, V);
        for (int64_t y = K; y < up(K, PAD); y++) memset(c + y * apart(V), 0, sizeof(float) * up(V, PAD));
        copy_row(n, from_n, K);
    }
    void write(float* to_c, float* to_n, int64_t K, int64_t V) const {
        for (int64_t y = 0; y < K; y++) memcpy(to_c + y * V, c + y * apart(V), sizeof(float) * V);
        memcpy(to_n, n, sizeof(float) * K);
    }
};

// to = through from + a^T b with a (count, K) and b (count, V), from null being zeros; if `inner`, the sum of to . with
template <bool inner, bool pairs>
float advance(float* to, const float* from, float through, const float* a, int64_t a_next, const float* b,
              int64_t b_next, int64_t count, int64_t K, int64_t V, const float* with, Ahead& ahead) {
    int64_t next = apart(V);
    vf total = {};
    for (int64_t y = 0; y < up(K, PAD); y += R)
        for (int64_t x = 0; x < up(V, PAD); x += N * W) {
            ahead.fetch(count);
            vf sum[R][N] = {};
            if (from) {
                read(sum, from + y * next + x, next);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                    for (int n = 0; n < N; n++) sum[r][n] *= through;
            }
            multiply<pairs>(sum, a + y, 1, a_next, b + x, b_next, words<pairs>(count));
            write(sum, to + y * next + x, next);
            if (inner) {
                vf part[N] = {};
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                    for (int n = 0; n < N; n++) part[n] += sum[r][n] * load(with + (y + r) * next + x + n * W);
                for (int n = 0; n < N; n++) total += part[n];
            }
        }
    return inner ? sum(total) : 0;
}

// n_to = through n_from + the sum over s of factor_s rows_s
inline void advance_n(float* to, const float* from, float through, const float* rows, int64_t next, const float* factor,
                      int64_t count, int64_t K) {
    for (int64_t x = 0; x < K; x += W) {
        vf sum = load(from + x) * through;
        for (int64_t s = 0; s < count; s++) sum += load(rows + s * next + x) * factor[s];
        store(to + x, sum);
    }
}

// rows_s *= factor_s
inline void scale_rows(float* rows, int64_t next, const float* factor, int64_t count, int64_t width) {
    for (int64_t s = 0; s < count; s++)
        for (int64_t x = 0; x < width; x += W) store(rows + s * next + x, load(rows + s * next + x) * factor[s]);
}

}  // namespace exgate::mlstm
