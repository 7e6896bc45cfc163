// One sequence and head, from the first chunk to the last.
#pragma once

#include "chunk.h"

namespace exgate::mlstm {

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

    state.read(call.c ? call.c + item * K * V : nullptr, call.n + item * K, K, V);
    state.m = call.c ? call.m[item] : 0;
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
        ahead.aim(t + call.L, 2);
        ahead.read(call.q, K), ahead.read(call.k, K), ahead.read(call.v, V), ahead.write(call.out, V);
        const float* qa = along<pairs>(q_pairs, q, k_next, height, kp);
        const float* ka = along<pairs>(k_pairs, k, k_next, height, kp);
        transpose(kt, s_next, ka, k_next, height, words<pairs>(kp));
        product<pairs>(scores, s_next, qa, k_next, kt, s_next, words<pairs>(K), height, height, true, ahead);
        weigh(scores, nullptr, s_next, gates, count, height, nq);
        normalizer(call, gates, q, k_next, state.empty ? nullptr : state.n, count, height, nq, scales);
        const float* pa = along<pairs>(score_pairs, scores, s_next, height, height);
        const float* va = across<pairs>(v_pairs, v, v_next, height, vp);
        const float* ca = state.empty ? nullptr : across<pairs>(c_pairs, state.c, v_next, kp, vp);
        for (int64_t x = 0; x < vp; x += N * W)
            for (int64_t y = 0; y < count; y += R) {
                ahead.fetch(K);
                vf sum[R][N] = {};
                if (ca) {
                    multiply<pairs>(sum, qa + y * k_next, k_next, 1, ca + x, v_next, words<pairs>(K));
                    scale(sum, gates.g + y);
                }
                multiply<pairs>(sum, pa + y * s_next, s_next, 1, va + x, v_next, words<pairs>(y + R));
                scale(sum, scales + y);
                put(sum, call, call.out, b, t + y, h, x, count - y, V);
            }
        scale_rows(k, k_next, gates.w, count, kp);
        const float* kw = across<pairs>(k_pairs, k, k_next, height, kp);
        advance<false, pairs>(state.c, state.known(), gates.through, kw, k_next, va, v_next, count, K, V, nullptr,
                              ahead);
        for (int64_t s = 0; s < count; s++) nq[s] = 1;
        advance_n(state.n, state.n, gates.through, k, k_next, nq, count, kp);
        state.empty = false;
    }
    state.write(call.c_last + item * K * V, call.n_last + item * K, K, V);
    call.m_last[item] = state.m;
}

}  // namespace exgate::mlstm
