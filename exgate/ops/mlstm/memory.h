// From the caller's tensors to padded rows and back, what is fetched ahead, and the memory that is worked in.
#pragma once

#include <stdlib.h>

#include "tiles.h"

namespace exgate::mlstm {

struct Strided {  // (B, T, H, size): a number's place, in numbers
    const void* data;
    int64_t batch, time, head;
};

struct Call {
    Strided q, k, v, i, f, h, dh;  // h and dh: backward only
    const float *c, *n, *m;        // the state before, (B, H, K, V), (B, H, K), (B, H); null: empty
    const uint8_t* reset;          // (B, T) or null
    // forward writes; all contiguous
    void* out;                     // (B, T, H, V)
    float *c_last, *n_last, *m_last;
    float *cs, *ns, *ms;           // the states before segments 1, 2, ...: (B, H, segments - 1, ...), or null
    // backward reads the gradients of the last state, null if nobody used it, and writes; dc and dn null with c
    const float *dc_last, *dn_last;
    void *dq, *dk, *dv;
    float *di, *df, *dc, *dn;
    int64_t B, T, H, K, V, L, segment;                // L steps per chunk, `segment` chunks per segment
    int64_t half, exponential, normalize, threads;  // half: q, k, v, out, h, dh and their gradients are bfloat16
    float eps;
};

template <class Number>
void copy_row(float* to, const Number* from, int64_t width) {
    int64_t x = 0;
    for (; x < width; x += W) store(to + x, load(from + x, width - x));
    for (; x < up(width, PAD); x += W) store(to + x, vf{});
}

// `count` rows from where a chunk begins, then zeros up to `height` rows
inline void copy_in(float* to, int64_t next, const Call& call, const Strided& from, int64_t b, int64_t t, int64_t h,
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

    // at the chunk that begins at this step, if there is one, while `products` of the size of a state are made
    void aim(int64_t step, int64_t products) {
        t = step, parts = at = row = owed = 0;
        rows = t < 0 || t >= call.T ? 0 : call.T - t < call.L ? call.T - t : call.L;
        steps = products * up(call.K, PAD) * up(call.V, PAD) * call.L / (R * N * W);
    }
    void read(const Strided& x, int64_t width) { add(x, width, false); }
    void write(const void* x, int64_t width) {  // contiguous
        add({x, call.T * call.H * width, call.H * width, width}, width, true);
    }
    EXGATE_INLINE void fetch(int64_t count) {  // before a tile of `count` steps
        owed += count * parts * rows;
        for (; owed > 0 && at < parts; owed -= steps) {
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
    int64_t b, h, t = 0, parts = 0, at = 0, row = 0, rows = 0, steps = 0, owed = 0;
    struct {
        const char* data;
        int64_t next, bytes;
        bool written;
    } part[8];

    void add(const Strided& x, int64_t width, bool written) {
        if (rows == 0) return;
        int64_t size = call.half ? 2 : 4, place = b * x.batch + t * x.time + h * x.head;
        part[parts++] = {(const char*)x.data + place * size, x.time * size, width * size, written};
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

// One per thread, kept between calls
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

inline Workspace& workspace() {
    static thread_local Workspace mine;
    return mine;
}

}  // namespace exgate::mlstm
