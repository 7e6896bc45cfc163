// mLSTM, chunk by chunk, forward and backward: one pass per sequence and head, everything of a chunk in cache.
//
// The equations and their names (D, P, g, w, rows, columns) are those of eager.py. Operations per step and head:
// forward 4 K V + L (K + V), backward 8 K V + L (3 K + 2 V), and 2 K V (1 - 1 / segment) for the states that backward
// computes again; half of the scores are above the diagonal and left out. Kept: one state per segment, a few chunks.
//
// A chunk's q, k and v are copied to padded rows first: any strides and types outside, whole vectors inside. Rows are
// an odd number of 16 floats apart, so that a column of blocks does not fall into one set of the cache. What is next to
// be read lies in other heads' rows, where the processor does not guess it, so it is fetched ahead. A product reads its
// left side number by number and its right side in vectors; which one is turned depends on which is smaller, so that no
// state ever is: the gradients of q and k come out as (K, L).

#include <math.h>
#include <stdlib.h>

#include <utility>
#include <vector>

#include "../pool.h"
#include "../vector.h"

using namespace exgate;

namespace {

constexpr int R = EXGATE_WIDTH == 16 ? 8 : 4;  // a tile of a product: R rows of N vectors, all in registers
constexpr int N = 2;
constexpr int PAD = 32;  // head sizes are filled up to a multiple of a tile's sides

int64_t up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
int64_t apart(int64_t width) { return up(width, 32) + 16; }

struct Strided {  // (B, T, H, size): a number's place, in numbers
    const void* data;
    int64_t batch, time, head;
};

struct Call {
    Strided q, k, v, i, f, h, dh;  // h and dh: backward only
    const float *c, *n, *m;        // the state before, (B, H, K, V), (B, H, K), (B, H)
    const uint8_t* reset;          // (B, T) or null
    // forward writes; all contiguous
    void* out;                     // (B, T, H, V)
    float *c_last, *n_last, *m_last;
    float *cs, *ns, *ms;           // the states before segments 1, 2, ...: (B, H, segments - 1, ...), or null
    // backward reads the gradients of the last state, and writes
    const float *dc_last, *dn_last;
    void *dq, *dk, *dv;
    float *di, *df, *dc, *dn;
    int64_t B, T, H, K, V, L, segment;                // L steps per chunk, `segment` chunks per segment
    int64_t half, exponential, normalize, threads;  // half: q, k, v, out, h, dh and their gradients are bfloat16
    float eps;
};

// --- products --------------------------------------------------------------------------------------------------------

// Where the processor multiplies bfloat16, operands of that type are pairs: two numbers of the inner dimension in the
// place of one float. `pairs` says so; then inner dimensions count words of two.
#if defined(__AVX512F__) && defined(__x86_64__)
#define EXGATE_PAIRS 1
EXGATE_INLINE void multiply_pairs(vf& sum, vf a, vf b) {  // there is no operator for it
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
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

// out = a b for columns below `width`; with `lower`, only the tiles that reach below the diagonal
template <bool pairs>
void product(float* out, int64_t out_next, const float* a, int64_t row, const float* b, int64_t next, int64_t count,
             int64_t height, int64_t width, bool lower) {
    for (int64_t y = 0; y < height; y += R) {
        int64_t end = lower ? up(y + R, W) : width;
        if (end > width) end = width;
        int64_t x = 0;
        for (; x + N * W <= end; x += N * W)
            tile_product<pairs, N>(out + y * out_next + x, out_next, a + y * row, row, b + x, next, count);
        for (; x < end; x += W)
            tile_product<pairs, 1>(out + y * out_next + x, out_next, a + y * row, row, b + x, next, count);
    }
}

// --- moving ----------------------------------------------------------------------------------------------------------

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
void transpose(float* to, int64_t to_next, const float* from, int64_t next, int64_t height, int64_t width) {
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
const float* along(float* to, const float* from, int64_t next, int64_t height, int64_t width) {
    if (!pairs) return from;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x += W) store((bf16*)(to + y * next) + x, load(from + y * next + x));
    return to;
}

EXGATE_INLINE vu rounded(vf x) {
    vu u = (vu)x;
    return u + 0x7fff + ((u >> 16) & 1);
}

template <bool pairs>
const float* across(float* to, const float* from, int64_t next, int64_t height, int64_t width) {
    if (!pairs) return from;
    for (int64_t y = 0; y < height; y += 2)
        for (int64_t x = 0; x < width; x += W) {
            vu low = rounded(load(from + y * next + x)), high = rounded(load(from + (y + 1) * next + x));
            store(to + y / 2 * next + x, (vf)((low >> 16) | (high & 0xffff0000u)));
        }
    return to;
}

template <class Number>
void copy_row(float* to, const Number* from, int64_t width) {
    int64_t x = 0;
    for (; x < width; x += W) store(to + x, load(from + x, width - x));
    for (; x < up(width, PAD); x += W) store(to + x, vf{});
}

// `count` rows from where a chunk begins, then zeros up to `height` rows
void copy_in(float* to, int64_t next, const Call& call, const Strided& from, int64_t b, int64_t t, int64_t h,
             int64_t count, int64_t height, int64_t width) {
    int64_t at = b * from.batch + t * from.time + h * from.head;
    for (int64_t y = 0; y < count; y++, at += from.time)
        if (call.half)
            copy_row(to + y * next, (const bf16*)from.data + at, width);
        else
            copy_row(to + y * next, (const float*)from.data + at, width);
    for (int64_t y = count; y < height; y++) memset(to + y * next, 0, sizeof(float) * up(width, PAD));
}

// Rows that the next chunk reads or writes. They lie apart, in memory: a few are fetched into cache at every tile of a
// product, which hides the wait.
class Ahead {
  public:
    Ahead(const Call& call, int64_t b, int64_t h) : call(call), b(b), h(h) {}

    void aim(int64_t step) {  // at the chunk that begins at this step, if there is one
        t = step, parts = at = row = each = 0;
        rows = t < 0 || t >= call.T ? 0 : call.T - t < call.L ? call.T - t : call.L;
    }
    void read(const Strided& x, int64_t width) { add(x, width, false); }
    void write(const void* x, int64_t width) {  // contiguous
        add({x, call.T * call.H * width, call.H * width, width}, width, true);
    }
    EXGATE_INLINE void fetch() {
        for (int64_t n = 0; n < each && at < parts; n++) {
            const char* line = part[at].data + row * part[at].next;
            if (part[at].written)
                for (int64_t x = 0; x < part[at].bytes; x += 64) __builtin_prefetch(line + x, 1);
            else
                for (int64_t x = 0; x < part[at].bytes; x += 64) __builtin_prefetch(line + x, 0, 2);
            if (++row == rows) row = 0, at++;
        }
    }

  private:
    const Call& call;
    int64_t b, h, t = 0, parts = 0, at = 0, row = 0, rows = 0, each = 0;
    struct {
        const char* data;
        int64_t next, bytes;
        bool written;
    } part[8];

    void add(const Strided& x, int64_t width, bool written) {
        if (rows == 0) return;
        int64_t size = call.half ? 2 : 4, place = b * x.batch + t * x.time + h * x.head;
        part[parts++] = {(const char*)x.data + place * size, x.time * size, width * size, written};
        each = rows * parts * R * N * W / (up(call.K, PAD) * up(call.V, PAD)) + 1;
    }
};

// R rows of N vectors to (B, T, H, width) at (b, t, h, x), as far as there are steps and columns
template <int vectors>
EXGATE_INLINE void put(const vf (&sum)[R][vectors], const Call& call, void* to, int64_t b, int64_t t, int64_t h,
                       int64_t x, int64_t left, int64_t width) {
    int64_t at = ((b * call.T + t) * call.H + h) * width + x;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        if (r >= left) break;
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++) {
            int64_t place = at + r * call.H * width + n * W, rest = width - x - n * W;
            if (rest <= 0) break;
            if (call.half)
                store((bf16*)to + place, sum[r][n], rest);
            else
                store((float*)to + place, sum[r][n], rest);
        }
    }
}

// --- workspace: one per thread, kept between calls -------------------------------------------------------------------

struct Workspace {
    float* base = nullptr;
    size_t size = 0, used = 0;

    ~Workspace() { free(base); }
    void reserve(size_t numbers) {
        used = 0;
        if (numbers <= size) return;
        free(base);
        size = 0;
        void* memory = nullptr;
#if defined(_WIN32)
        memory = malloc(sizeof(float) * numbers);
        if (memory == nullptr) abort();
#else
        if (posix_memalign(&memory, 64, sizeof(float) * numbers) != 0) abort();
#endif
        base = (float*)memory;
        size = numbers;
    }
    float* take(size_t numbers) {
        float* found = base + used;
        used += up(numbers, 16);
        return found;
    }
};

Workspace& workspace() {
    static thread_local Workspace mine;
    return mine;
}

// --- the scalars of a chunk ------------------------------------------------------------------------------------------

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

EXGATE_INLINE float number(const Strided& x, int64_t b, int64_t t, int64_t h) {
    return ((const float*)x.data)[b * x.batch + t * x.time + h * x.head];
}

// the gates of `count` steps from t; `size` is a multiple of W; returns m after them
float open(Gates& gates, const Call& call, int64_t b, int64_t h, int64_t t, int64_t count, int64_t size, float before) {
    const float nothing = -1e30f, shift = -0.5f * logf((float)call.K);
    float *log_f = gates.g, *log_i = gates.w;
    for (int64_t s = 0; s < count; s++) {
        log_f[s] = number(call.f, b, t + s, h);
        log_i[s] = number(call.i, b, t + s, h);
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
void weigh(float* scores, float* kept, int64_t next, const Gates& gates, int64_t count, int64_t height, float* sums) {
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
float dot_in(const float* a, const Call& call, const Strided& x, int64_t b, int64_t t, int64_t h, int64_t width) {
    int64_t at = b * x.batch + t * x.time + h * x.head;
    return call.half ? dot_row(a, (const bf16*)x.data + at, width) : dot_row(a, (const float*)x.data + at, width);
}

// nq becomes n . q of every step: `nq` holds the chunk's part, g q . n the state's. Then what num is multiplied by.
void normalizer(const Call& call, const Gates& gates, const float* q, int64_t next, const float* n, int64_t count,
                int64_t height, float* nq, float* scales) {
    for (int64_t t = 0; t < count; t++) nq[t] += gates.g[t] * dot(q + t * next, n, up(call.K, PAD));
    for (int64_t t = 0; t < height; t += W) {
        vf m = load(gates.m + t);
        vf scale = call.normalize ? 1.0f / (max(abs(load(nq + t)), exp(-m)) + call.eps) : exp(m);
        store(scales + t, scale);
    }
}

// --- states ----------------------------------------------------------------------------------------------------------

struct State {  // padded: c (K, V) with rows `apart(V)` apart, n (K)
    float *c, *n;
    float m;

    static size_t numbers(int64_t K, int64_t V) { return up(K, PAD) * apart(V) + up(K, PAD); }
    void take(Workspace& space, int64_t K, int64_t V) {
        c = space.take(up(K, PAD) * apart(V));
        n = space.take(up(K, PAD));
    }
    void read(const float* from_c, const float* from_n, int64_t K, int64_t V) {
        for (int64_t y = 0; y < K; y++) copy_row(c + y * apart(V), from_c + y * V, V);
        for (int64_t y = K; y < up(K, PAD); y++) memset(c + y * apart(V), 0, sizeof(float) * up(V, PAD));
        copy_row(n, from_n, K);
    }
    void write(float* to_c, float* to_n, int64_t K, int64_t V) const {
        for (int64_t y = 0; y < K; y++) memcpy(to_c + y * V, c + y * apart(V), sizeof(float) * V);
        memcpy(to_n, n, sizeof(float) * K);
    }
};

// to = through from + a^T b with a (count, K) and b (count, V); if `inner`, the sum of to . with
template <bool inner, bool pairs>
float advance(float* to, const float* from, float through, const float* a, int64_t a_next, const float* b,
              int64_t b_next, int64_t count, int64_t K, int64_t V, const float* with, Ahead& ahead) {
    int64_t next = apart(V);
    vf total = {};
    for (int64_t y = 0; y < up(K, PAD); y += R)
        for (int64_t x = 0; x < up(V, PAD); x += N * W) {
            ahead.fetch();
            vf sum[R][N];
            read(sum, from + y * next + x, next);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) sum[r][n] *= through;
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
void advance_n(float* to, const float* from, float through, const float* rows, int64_t next, const float* factor,
               int64_t count, int64_t K) {
    for (int64_t x = 0; x < K; x += W) {
        vf sum = load(from + x) * through;
        for (int64_t s = 0; s < count; s++) sum += load(rows + s * next + x) * factor[s];
        store(to + x, sum);
    }
}

// rows_s *= factor_s
void scale_rows(float* rows, int64_t next, const float* factor, int64_t count, int64_t width) {
    for (int64_t s = 0; s < count; s++)
        for (int64_t x = 0; x < width; x += W) store(rows + s * next + x, load(rows + s * next + x) * factor[s]);
}

// --- forward ---------------------------------------------------------------------------------------------------------

template <bool pairs>
void forward(const Call& call, int64_t item) {
    int64_t b = item / call.H, h = item % call.H, K = call.K, V = call.V, size = up(call.L, 16);
    int64_t kp = up(K, PAD), vp = up(V, PAD), k_next = apart(K), v_next = apart(V), s_next = apart(size);
    int64_t chunks = (call.T + call.L - 1) / call.L, kept = (chunks + call.segment - 1) / call.segment - 1;

    Workspace& space = workspace();
    int64_t rows = size * (k_next > v_next ? k_next : v_next);
    space.reserve(2 * State::numbers(K, V) + Gates::numbers(size) + 6 * rows + kp * s_next + 2 * size * s_next +
                  2 * size + 1024);
    State state;
    Gates gates;
    state.take(space, K, V);
    gates.take(space, size);
    float *q = space.take(size * k_next), *k = space.take(size * k_next), *v = space.take(size * v_next);
    float *kt = space.take(kp * s_next), *scores = space.take(size * s_next);
    float *nq = space.take(size), *scales = space.take(size);
    float *q_pairs = space.take(rows), *k_pairs = space.take(rows), *v_pairs = space.take(rows);
    float *c_pairs = space.take(kp * v_next), *score_pairs = space.take(size * s_next);

    state.read(call.c + item * K * V, call.n + item * K, K, V);
    state.m = call.m[item];
    Ahead ahead(call, b, h);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        int64_t t = chunk * call.L, count = call.T - t < call.L ? call.T - t : call.L, height = up(count, 16);
        if (call.cs && chunk && chunk % call.segment == 0) {
            int64_t place = item * kept + chunk / call.segment - 1;
            state.write(call.cs + place * K * V, call.ns + place * K, K, V);
            call.ms[place] = state.m;
        }
        state.m = open(gates, call, b, h, t, count, height, state.m);
        copy_in(q, k_next, call, call.q, b, t, h, count, height, K);
        copy_in(k, k_next, call, call.k, b, t, h, count, height, K);
        copy_in(v, v_next, call, call.v, b, t, h, count, height, V);
        const float* qa = along<pairs>(q_pairs, q, k_next, height, kp);
        const float* ka = along<pairs>(k_pairs, k, k_next, height, kp);
        transpose(kt, s_next, ka, k_next, height, words<pairs>(kp));
        product<pairs>(scores, s_next, qa, k_next, kt, s_next, words<pairs>(K), height, height, true);
        weigh(scores, nullptr, s_next, gates, count, height, nq);
        normalizer(call, gates, q, k_next, state.n, count, height, nq, scales);
        const float* pa = along<pairs>(score_pairs, scores, s_next, height, height);
        const float* va = across<pairs>(v_pairs, v, v_next, height, vp);
        const float* ca = across<pairs>(c_pairs, state.c, v_next, kp, vp);
        for (int64_t x = 0; x < vp; x += N * W)
            for (int64_t y = 0; y < count; y += R) {
                vf sum[R][N] = {};
                multiply<pairs>(sum, qa + y * k_next, k_next, 1, ca + x, v_next, words<pairs>(K));
                scale(sum, gates.g + y);
                multiply<pairs>(sum, pa + y * s_next, s_next, 1, va + x, v_next, words<pairs>(y + R));
                scale(sum, scales + y);
                put(sum, call, call.out, b, t + y, h, x, count - y, V);
            }
        scale_rows(k, k_next, gates.w, count, kp);
        ahead.aim(t + call.L);
        ahead.read(call.q, K), ahead.read(call.k, K), ahead.read(call.v, V), ahead.write(call.out, V);
        const float* kw = across<pairs>(k_pairs, k, k_next, height, kp);
        advance<false, pairs>(state.c, state.c, gates.through, kw, k_next, va, v_next, count, K, V, nullptr, ahead);
        for (int64_t s = 0; s < count; s++) nq[s] = 1;
        advance_n(state.n, state.n, gates.through, k, k_next, nq, count, kp);
    }
    state.write(call.c_last + item * K * V, call.n_last + item * K, K, V);
    call.m_last[item] = state.m;
}

// --- backward --------------------------------------------------------------------------------------------------------

template <bool pairs>
struct Backward {  // what backward works with: one sequence and head
    const Call& call;
    Ahead ahead;
    int64_t b, h, kp, vp, k_next, v_next, s_next;
    State* states;  // before each chunk of a segment, and after the last
    Gates* gates;
    float *q, *k, *v, *dnum, *kt, *vt, *dnum_t, *dq_t, *dk_t, *dq, *dk, *scores, *dscores, *kept;
    float *nq, *scales, *dnq, *ones, *q_dq, *k_dk, *dc, *dn;
    float *qa, *qx, *ka, *kx, *va, *vx, *dna, *dnx, *dsa, *dsx, *px, *ca, *dcx;  // operands, if they are pairs
    float boundary;  // the inner product of the state after the chunk and its gradient

    Backward(const Call& call, int64_t item)
        : call(call), ahead(call, item / call.H, item % call.H), b(item / call.H), h(item % call.H),
          kp(up(call.K, PAD)), vp(up(call.V, PAD)), k_next(apart(call.K)), v_next(apart(call.V)),
          s_next(apart(up(call.L, 16))) {}

    void read_ahead(bool all) {
        if (all) ahead.read(call.k, call.K), ahead.read(call.v, call.V);
        ahead.read(call.q, call.K), ahead.read(call.h, call.V), ahead.read(call.dh, call.V);
        ahead.write(call.dq, call.K), ahead.write(call.dk, call.K), ahead.write(call.dv, call.V);
    }
    void segment(int64_t first, int64_t chunks);
    void chunk(int64_t t, int64_t count, const State& before, const Gates& gates);
    void gate_gradients(int64_t t, int64_t count, const Gates& gates);
};

// The chunk of steps t ... t + count - 1; dc and dn are the gradients of the state after it, then of that before it.
template <bool pairs>
void Backward<pairs>::chunk(int64_t t, int64_t count, const State& before, const Gates& gates) {
    int64_t height = up(count, 16), K = call.K, V = call.V;
    copy_in(q, k_next, call, call.q, b, t, h, count, height, K);
    copy_in(k, k_next, call, call.k, b, t, h, count, height, K);
    copy_in(v, v_next, call, call.v, b, t, h, count, height, V);
    const float* q_along = along<pairs>(qa, q, k_next, height, kp);
    const float* q_across = across<pairs>(qx, q, k_next, height, kp);
    const float* k_along = along<pairs>(ka, k, k_next, height, kp);
    const float* k_across = across<pairs>(kx, k, k_next, height, kp);
    transpose(kt, s_next, k_along, k_next, height, words<pairs>(kp));
    transpose(vt, s_next, along<pairs>(va, v, v_next, height, vp), v_next, height, words<pairs>(vp));
    product<pairs>(scores, s_next, q_along, k_next, kt, s_next, words<pairs>(K), height, height, true);
    weigh(scores, kept, s_next, gates, count, height, nq);
    normalizer(call, gates, q, k_next, before.n, count, height, nq, scales);

    // through the denominator: dnum = dh / den, and dnq
    copy_in(dnum, v_next, call, call.dh, b, t, h, count, height, V);
    scale_rows(dnum, v_next, scales, count, vp);
    for (int64_t s = 0; s < height; s += W) {
        for (int n = 0; n < W; n++) {
            bool inside = call.normalize && s + n < count;
            dnq[s + n] = inside ? -dot_in(dnum + (s + n) * v_next, call, call.h, b, t + s + n, h, V) : 0;
        }
        vf x = load(nq + s), d = load(dnq + s);
        store(dnq + s, abs(x) >= exp(-load(gates.m + s)) ? (x > 0.0f ? d : -d) : vf{});
    }
    const float* dnum_along = along<pairs>(dna, dnum, v_next, height, vp);
    const float* dnum_across = across<pairs>(dnx, dnum, v_next, height, vp);
    transpose(dnum_t, s_next, dnum_along, v_next, height, words<pairs>(vp));

    product<pairs>(dscores, s_next, dnum_along, v_next, vt, s_next, words<pairs>(V), height, height, true);
    for (int64_t s = 0; s < height; s++)
        for (int64_t x = 0; x <= s; x += W)
            store(dscores + s * s_next + x, (load(dscores + s * s_next + x) + dnq[s]) * load(kept + s * s_next + x));

    // from the states: (K, count) each, then turned
    int64_t inner = words<pairs>(V);
    const float* c_along = along<pairs>(ca, before.c, v_next, kp, vp);
    product<pairs>(dq_t, s_next, c_along, v_next, dnum_t, s_next, inner, kp, height, false);
    const float* dc_along = along<pairs>(ca, dc, v_next, kp, vp);
    product<pairs>(dk_t, s_next, dc_along, v_next, vt, s_next, inner, kp, height, false);
    transpose(dq, k_next, dq_t, s_next, kp, height);
    transpose(dk, k_next, dk_t, s_next, kp, height);
    for (int64_t s = 0; s < height; s++)
        for (int64_t x = 0; x < kp; x += W) {
            float *to_q = dq + s * k_next + x, *to_k = dk + s * k_next + x;
            store(to_q, (load(to_q) + load(before.n + x) * dnq[s]) * gates.g[s]);
            store(to_k, (load(to_k) + load(dn + x)) * gates.w[s]);
        }
    const float* ds_along = along<pairs>(dsa, dscores, s_next, height, height);
    const float* ds_across = across<pairs>(dsx, dscores, s_next, height, height);
    const float* p_across = across<pairs>(px, scores, s_next, height, height);
    const float* dc_across = across<pairs>(dcx, dc, v_next, kp, vp);
    for (int64_t y = 0; y < count; y += R) {
        int64_t from = words<pairs>(y), upto = words<pairs>(y + R), rest = words<pairs>(height - y);
        vf q_sums[R] = {}, k_sums[R] = {};
        for (int64_t x = 0; x < kp; x += N * W) {
            vf sum[R][N];
            read(sum, dq + y * k_next + x, k_next);
            multiply<pairs>(sum, ds_along + y * s_next, s_next, 1, k_across + x, k_next, upto);
            put(sum, call, call.dq, b, t + y, h, x, count - y, K);
            add_inner(q_sums, sum, q + y * k_next + x, k_next);
            read(sum, dk + y * k_next + x, k_next);
            multiply<pairs>(sum, ds_across + from * s_next + y, 1, s_next, q_across + from * k_next + x, k_next, rest);
            put(sum, call, call.dk, b, t + y, h, x, count - y, K);
            add_inner(k_sums, sum, k + y * k_next + x, k_next);
        }
        for (int r = 0; r < R; r++) q_dq[y + r] = exgate::sum(q_sums[r]), k_dk[y + r] = exgate::sum(k_sums[r]);
    }
    for (int64_t x = 0; x < vp; x += N * W)
        for (int64_t y = 0; y < count; y += R) {
            int64_t from = words<pairs>(y), rest = words<pairs>(height - y);
            vf sum[R][N] = {};
            multiply<pairs>(sum, k_along + y * k_next, k_next, 1, dc_across + x, v_next, words<pairs>(K));
            scale(sum, gates.w + y);
            const float *p = p_across + from * s_next + y, *dnum_rows = dnum_across + from * v_next + x;
            multiply<pairs>(sum, p, 1, s_next, dnum_rows, v_next, rest);
            put(sum, call, call.dv, b, t + y, h, x, count - y, V);
        }
    gate_gradients(t, count, gates);

    // the gradient of the state before
    for (int64_t s = 0; s < count; s++) dnq[s] *= gates.g[s];
    advance_n(dn, dn, gates.through, q, k_next, dnq, count, kp);
    scale_rows(dnum, v_next, gates.g, count, vp);
    bool more = &gates != this->gates;  // chunks of this segment; the next begins with making states
    ahead.aim(t - call.L * (more ? 1 : call.segment));
    if (!more) ahead.read(call.k, K), ahead.read(call.v, V);
    if (more) read_ahead(true);
    dnum_across = across<pairs>(dnx, dnum, v_next, height, vp);
    boundary = advance<true, pairs>(dc, dc, gates.through, q_across, k_next, dnum_across, v_next, count, K, V, before.c,
                                    ahead);
    boundary += dot(before.n, dn, kp);
}

template <bool pairs>
void Backward<pairs>::gate_gradients(int64_t t, int64_t count, const Gates& gates) {
    float run = boundary;  // what the steps from here to the end of the document say
    for (int64_t s = count - 1; s >= 0; s--) {
        run += q_dq[s] - k_dk[s];
        q_dq[s] = run;
        if (gates.seen[s] == (float)s) run = q_dq[s] = 0;  // a reset: f does not matter, and a document ends before it
    }
    for (int64_t s = 0; s < count; s += W) {
        vf f = {}, i = {};
        for (int n = 0; n < W; n++) {
            f[n] = s + n < count ? number(call.f, b, t + s + n, h) : 0;
            i[n] = s + n < count ? number(call.i, b, t + s + n, h) : 0;
        }
        vf df = load(q_dq + s) * sigmoid(-f), di = load(k_dk + s);
        if (!call.exponential) di *= sigmoid(-i);
        for (int64_t n = 0; n < W && s + n < count; n++) {
            int64_t at = (b * call.T + t + s + n) * call.H + h;
            call.df[at] = df[n];
            call.di[at] = di[n];
        }
    }
}

template <bool pairs>
void Backward<pairs>::segment(int64_t first, int64_t chunks) {
    for (int64_t j = 0; j < chunks; j++) {  // the states again
        int64_t t = (first + j) * call.L, count = call.T - t < call.L ? call.T - t : call.L, height = up(count, 16);
        State &before = states[j], &after = states[j + 1];
        after.m = open(gates[j], call, b, h, t, count, height, before.m);
        bool last = t + count == call.T;
        if (j == chunks - 1 && !last) break;
        copy_in(k, k_next, call, call.k, b, t, h, count, height, call.K);
        copy_in(v, v_next, call, call.v, b, t, h, count, height, call.V);
        scale_rows(k, k_next, gates[j].w, count, kp);
        ahead.aim(last ? t : t + call.L);
        if (!last) ahead.read(call.k, call.K), ahead.read(call.v, call.V);
        if (j >= chunks - 2) read_ahead(false);
        const float* kw = across<pairs>(kx, k, k_next, height, kp);
        const float* v_across = across<pairs>(vx, v, v_next, height, vp);
        advance<false, pairs>(after.c, before.c, gates[j].through, kw, k_next, v_across, v_next, count, call.K, call.V,
                              nullptr, ahead);
        advance_n(after.n, before.n, gates[j].through, k, k_next, ones, count, kp);
        if (last) {
            boundary = dot(after.n, dn, kp);
            for (int64_t y = 0; y < kp; y++) boundary += dot(after.c + y * v_next, dc + y * v_next, vp);
        }
    }
    for (int64_t j = chunks - 1; j >= 0; j--) {
        int64_t t = (first + j) * call.L, count = call.T - t < call.L ? call.T - t : call.L;
        chunk(t, count, states[j], gates[j]);
    }
}

template <bool pairs>
void backward(const Call& call, int64_t item) {
    int64_t K = call.K, V = call.V, size = up(call.L, 16), kp = up(K, PAD), vp = up(V, PAD);
    int64_t k_next = apart(K), v_next = apart(V), s_next = apart(size), wide = k_next > v_next ? k_next : v_next;
    int64_t chunks = (call.T + call.L - 1) / call.L, segments = (chunks + call.segment - 1) / call.segment;
    int64_t held = chunks < call.segment ? chunks : call.segment;

    Workspace& space = workspace();
    space.reserve((held + (pairs ? 4 : 2)) * State::numbers(K, V) + held * Gates::numbers(size) +
                  size * ((pairs ? 14 : 6) * wide + (pairs ? 6 : 3) * s_next + 16) +
                  (3 * kp + 2 * vp) * s_next + 1024 + 64 * held);
    std::vector<State> states(held + 1);
    std::vector<Gates> gates(held);
    for (State& state : states) state.take(space, K, V);
    for (Gates& gate : gates) gate.take(space, size);
    Backward<pairs> work(call, item);
    work.states = states.data(), work.gates = gates.data();
    for (float** part : {&work.q, &work.k, &work.v, &work.dnum, &work.dq, &work.dk}) *part = space.take(size * wide);
    for (float** part : {&work.kt, &work.dq_t, &work.dk_t}) *part = space.take(kp * s_next);
    for (float** part : {&work.vt, &work.dnum_t}) *part = space.take(vp * s_next);
    for (float** part : {&work.scores, &work.dscores, &work.kept}) *part = space.take(size * s_next);
    for (float** part : {&work.nq, &work.scales, &work.dnq, &work.ones, &work.q_dq, &work.k_dk})
        *part = space.take(size);
    for (int64_t s = 0; s < size; s++) work.ones[s] = 1;

    if (pairs) {
        for (float** part : {&work.qa, &work.qx, &work.ka, &work.kx, &work.va, &work.vx, &work.dna, &work.dnx})
            *part = space.take(size * wide);
        for (float** part : {&work.dsa, &work.dsx, &work.px}) *part = space.take(size * s_next);
        for (float** part : {&work.ca, &work.dcx}) *part = space.take(kp * v_next);
    }

    State last;
    last.take(space, K, V);
    last.read(call.dc_last + item * K * V, call.dn_last + item * K, K, V);
    work.dc = last.c, work.dn = last.n;
    for (int64_t segment = segments - 1; segment >= 0; segment--) {
        int64_t place = item * (segments - 1) + segment - 1, first = segment * call.segment;
        const float* c = segment ? call.cs + place * K * V : call.c + item * K * V;
        const float* n = segment ? call.ns + place * K : call.n + item * K;
        states[0].read(c, n, K, V);
        states[0].m = segment ? call.ms[place] : call.m[item];
        work.segment(first, chunks - first < call.segment ? chunks - first : call.segment);
    }
    last.write(call.dc + item * K * V, call.dn + item * K, K, V);
}

#ifdef EXGATE_PAIRS
bool pairwise(const Call& call) { return call.half && __builtin_cpu_supports("avx512bf16"); }
#endif

}  // namespace

EXGATE_API void exgate_mlstm_forward(const Call* call) {
    parallel(call->B * call->H, call->threads, [&](int64_t item) {
#ifdef EXGATE_PAIRS
        if (pairwise(*call)) return forward<true>(*call, item);
#endif
        forward<false>(*call, item);
    });
}

EXGATE_API void exgate_mlstm_backward(const Call* call) {
    parallel(call->B * call->H, call->threads, [&](int64_t item) {
#ifdef EXGATE_PAIRS
        if (pairwise(*call)) return backward<true>(*call, item);
#endif
        backward<false>(*call, item);
    });
}
