// The selective scan, forward and backward: W channels at a time, so that no sum runs across a vector but those over D.
//
// A (N, D), h and all that has their shape are N before D. Equations and names are those of eager.py. Backward computes the
// states of a segment again, from the one that forward kept before it, and walks the segment back; a channel's N states
// stay in cache. The gradients of B and C, sums over D, are gathered as vectors over the tiles of W channels first.

#include "../channels.h"

using namespace exgate;

namespace {

// N rows of W channels, between an array of rows D apart and a tile.
EXGATE_INLINE void bring(float* tile, const float* from, int64_t N, int64_t D, int64_t left) {
    for (int64_t n = 0; n < N; n++) store(tile + n * W, load(from + n * D, left));
}
EXGATE_INLINE void put(float* to, const float* tile, int64_t N, int64_t D, int64_t left) {
    for (int64_t n = 0; n < N; n++) store(to + n * D, load(tile + n * W), left);
}

}  // namespace

// u, delta, y (B, T, D), b, c (B, T, N), skip (D) or null, start, last (B, N, D), reset (B, T) or null,
// kept (B, segments, N, D) or null: h before each segment.
EXGATE_API void exgate_ssm_forward(const float* u, const float* delta, const float* a, const float* b, const float* c,
                                   const float* skip, const float* start, const uint8_t* reset, float* y, float* last,
                                   float* kept, int64_t B, int64_t T, int64_t D, int64_t N, int64_t segment,
                                   int64_t threads) {
    const int64_t segments = (T + segment - 1) / segment;
    strips(B, D, W, threads, [&](int64_t row, int64_t d, int64_t left) {
        float *h = scratch(2 * N * W), *rate = h + N * W;
        bring(h, start + row * N * D + d, N, D, left);
        bring(rate, a + d, N, D, left);
        const vf through = skip ? load(skip + d, left) : vf{};
        for (int64_t t = 0; t < T; t++) {
            if (kept && t % segment == 0) put(kept + (row * segments + t / segment) * N * D + d, h, N, D, left);
            const int64_t place = row * T + t;
            const float *write = b + place * N, *read = c + place * N;
            const vf x = load(u + place * D + d, left), step = load(delta + place * D + d, left), w = step * x;
            const bool begins = reset && reset[place];
            vf out = through * x;
            for (int64_t n = 0; n < N; n++) {
                vf now = w * write[n];
                if (!begins) now += exp(step * load(rate + n * W)) * load(h + n * W);
                store(h + n * W, now);
                out += now * read[n];
            }
            store(y + place * D + d, out, left);
        }
        put(last + row * N * D + d, h, N, D, left);
    });
}

// As above; dlast, dstart (B, N, D); da (B, N, D) and dskip (B, D) for each row of the batch.
EXGATE_API void exgate_ssm_backward(const float* dy, const float* dlast, const float* u, const float* delta, const float* a,
                                    const float* b, const float* c, const float* skip, const uint8_t* reset,
                                    const float* kept, float* du, float* ddelta, float* da, float* db, float* dc,
                                    float* dskip, float* dstart, int64_t B, int64_t T, int64_t D, int64_t N,
                                    int64_t segment, int64_t threads) {
    const int64_t segments = (T + segment - 1) / segment, state = N * W, all = segment * state;
    parallel(B, threads, [&](int64_t row) {
        float *decay = scratch(4 * all + 4 * state), *hs = decay + all, *to_b = hs + all + state, *to_c = to_b + all;
        float *rate = to_c + all, *dh = rate + state, *drate = dh + state;
        const int64_t row_state = row * N * D;
        for (int64_t k = 0; k < N * D; k++) dstart[row_state + k] = dlast[row_state + k], da[row_state + k] = 0;
        for (int64_t k = 0; k < D; k++) dskip[row * D + k] = 0;
        for (int64_t part = segments - 1; part >= 0; part--) {
            const int64_t begin = part * segment, count = T - begin < segment ? T - begin : segment;
            for (int64_t k = 0; k < 2 * all; k++) to_b[k] = 0;
            for (int64_t d = 0; d < D; d += W) {
                const int64_t left = D - d;
                bring(rate, a + d, N, D, left);
                bring(dh, dstart + row_state + d, N, D, left);
                bring(drate, da + row_state + d, N, D, left);
                bring(hs, kept + (row * segments + part) * N * D + d, N, D, left);
                for (int64_t t = 0; t < count; t++) {
                    const int64_t place = row * T + begin + t;
                    const vf step = load(delta + place * D + d, left), w = step * load(u + place * D + d, left);
                    const bool begins = reset && reset[place];
                    for (int64_t n = 0, k = t * state; n < N; n++, k += W) {
                        const vf keep = begins ? vf{} : exp(step * load(rate + n * W));
                        store(decay + k, keep);
                        store(hs + k + state, keep * load(hs + k) + w * b[place * N + n]);
                    }
                }
                const vf through = skip ? load(skip + d, left) : vf{};
                vf skipped = load(dskip + row * D + d, left);
                for (int64_t t = count - 1; t >= 0; t--) {
                    const int64_t place = row * T + begin + t;
                    const vf x = load(u + place * D + d, left), step = load(delta + place * D + d, left), w = step * x;
                    const vf dout = load(dy + place * D + d, left);
                    vf dw = {}, dstep = {};
                    for (int64_t n = 0, k = t * state; n < N; n++, k += W) {
                        const vf now = load(dh + n * W) + dout * c[place * N + n], back = now * load(decay + k);
                        const vf e = back * load(hs + k);
                        store(to_c + k, load(to_c + k) + load(hs + k + state) * dout);
                        store(to_b + k, load(to_b + k) + now * w);
                        dw += now * b[place * N + n];
                        dstep += e * load(rate + n * W);
                        store(drate + n * W, load(drate + n * W) + e * step);
                        store(dh + n * W, back);
                    }
                    store(du + place * D + d, dw * step + through * dout, left);
                    store(ddelta + place * D + d, dstep + dw * x, left);
                    skipped += dout * x;
                }
                store(dskip + row * D + d, skipped, left);
                put(dstart + row_state + d, dh, N, D, left);
                put(da + row_state + d, drate, N, D, left);
            }
            const int64_t place = (row * T + begin) * N;
            for (int64_t k = 0; k < count * N; k++) {
                db[place + k] = sum(load(to_b + k * W));
                dc[place + k] = sum(load(to_c + k * W));
            }
        }
    });
}
