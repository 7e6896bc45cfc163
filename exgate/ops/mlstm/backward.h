// One sequence and head, segment by segment from the last: its states again, then its chunks, the last one first.
#pragma once

#include <vector>

#include "chunk.h"

namespace exgate::mlstm {

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
    float boundary = 0;  // the inner product of the state after the chunk and its gradient
    bool unused;  // nothing after the chunk sees the state after it: dc and dn are zero

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
    bool more = &gates != this->gates;  // chunks of this segment; the next begins with making states
    ahead.aim(t - call.L * (more ? 1 : call.segment), 4);
    if (!more) ahead.read(call.k, K), ahead.read(call.v, V);
    if (more) read_ahead(true);
    const float* q_along = along<pairs>(qa, q, k_next, height, kp);
    const float* q_across = across<pairs>(qx, q, k_next, height, kp);
    const float* k_along = along<pairs>(ka, k, k_next, height, kp);
    const float* k_across = across<pairs>(kx, k, k_next, height, kp);
    transpose(kt, s_next, k_along, k_next, height, words<pairs>(kp));
    transpose(vt, s_next, along<pairs>(va, v, v_next, height, vp), v_next, height, words<pairs>(vp));
    product<pairs>(scores, s_next, q_along, k_next, kt, s_next, words<pairs>(K), height, height, true, ahead);
    weigh(scores, kept, s_next, gates, count, height, nq);
    normalizer(call, gates, q, k_next, before.empty ? nullptr : before.n, count, height, nq, scales);

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

    product<pairs>(dscores, s_next, dnum_along, v_next, vt, s_next, words<pairs>(V), height, height, true, ahead);
    for (int64_t s = 0; s < height; s++)
        for (int64_t x = 0; x <= s; x += W)
            store(dscores + s * s_next + x, (load(dscores + s * s_next + x) + dnq[s]) * load(kept + s * s_next + x));

    // from the states: (K, count) each, then turned
    int64_t inner = words<pairs>(V);
    if (before.empty) {
        memset(dq, 0, sizeof(float) * height * k_next);
    } else {
        const float* c_along = along<pairs>(ca, before.c, v_next, kp, vp);
        product<pairs>(dq_t, s_next, c_along, v_next, dnum_t, s_next, inner, kp, height, false, ahead);
        transpose(dq, k_next, dq_t, s_next, kp, height);
        for (int64_t s = 0; s < height; s++)
            for (int64_t x = 0; x < kp; x += W) {
                float* to = dq + s * k_next + x;
                store(to, (load(to) + load(before.n + x) * dnq[s]) * gates.g[s]);
            }
    }
    if (unused) {
        memset(dk, 0, sizeof(float) * height * k_next);
    } else {
        const float* dc_along = along<pairs>(ca, dc, v_next, kp, vp);
        product<pairs>(dk_t, s_next, dc_along, v_next, vt, s_next, inner, kp, height, false, ahead);
        transpose(dk, k_next, dk_t, s_next, kp, height);
        for (int64_t s = 0; s < height; s++)
            for (int64_t x = 0; x < kp; x += W) {
                float* to = dk + s * k_next + x;
                store(to, (load(to) + load(dn + x)) * gates.w[s]);
            }
    }
    const float* ds_along = along<pairs>(dsa, dscores, s_next, height, height);
    const float* ds_across = across<pairs>(dsx, dscores, s_next, height, height);
    const float* p_across = across<pairs>(px, scores, s_next, height, height);
    const float* dc_across = unused ? nullptr : across<pairs>(dcx, dc, v_next, kp, vp);
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
            ahead.fetch(K);
            vf sum[R][N] = {};
            if (dc_across) {
                multiply<pairs>(sum, k_along + y * k_next, k_next, 1, dc_across + x, v_next, words<pairs>(K));
                scale(sum, gates.w + y);
            }
            const float *p = p_across + from * s_next + y, *dnum_rows = dnum_across + from * v_next + x;
            multiply<pairs>(sum, p, 1, s_next, dnum_rows, v_next, rest);
            put(sum, call, call.dv, b, t + y, h, x, count - y, V);
        }
    gate_gradients(t, count, gates);

    if (before.empty) return;
    // the gradient of the state before
    for (int64_t s = 0; s < count; s++) dnq[s] *= gates.g[s];
    advance_n(dn, dn, gates.through, q, k_next, dnq, count, kp);
    scale_rows(dnum, v_next, gates.g, count, vp);
    dnum_across = across<pairs>(dnx, dnum, v_next, height, vp);
    boundary = advance<true, pairs>(dc, unused ? nullptr : dc, gates.through, q_across, k_next, dnum_across, v_next,
                                    count, K, V, before.c, ahead);
    boundary += dot(before.n, dn, kp);
    unused = false;
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
            f[n] = s + n < count ? gate(call.f, b, t + s + n, h) : 0;
            i[n] = s + n < count ? gate(call.i, b, t + s + n, h) : 0;
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
        if (j == chunks - 1 && (unused || !last)) break;
        copy_in(k, k_next, call, call.k, b, t, h, count, height, call.K);
        copy_in(v, v_next, call, call.v, b, t, h, count, height, call.V);
        scale_rows(k, k_next, gates[j].w, count, kp);
        ahead.aim(last ? t : t + call.L, 1);
        if (!last) ahead.read(call.k, call.K), ahead.read(call.v, call.V);
        if (j >= chunks - 2) read_ahead(false);
        const float* kw = across<pairs>(kx, k, k_next, height, kp);
        const float* v_across = across<pairs>(vx, v, v_next, height, vp);
        advance<false, pairs>(after.c, before.known(), gates[j].through, kw, k_next, v_across, v_next, count, call.K,
                              call.V, nullptr, ahead);
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
    last.read(call.dc_last ? call.dc_last + item * K * V : nullptr, call.dn_last + item * K, K, V);
    work.dc = last.c, work.dn = last.n, work.unused = last.empty;
    for (int64_t segment = segments - 1; segment >= 0; segment--) {
        int64_t place = item * (segments - 1) + segment - 1, first = segment * call.segment;
        const float* c = segment ? call.cs + place * K * V : call.c ? call.c + item * K * V : nullptr;
        const float* n = segment ? call.ns + place * K : call.n + item * K;
        states[0].read(c, n, K, V);
        states[0].m = segment ? call.ms[place] : call.c ? call.m[item] : 0;
        work.segment(first, chunks - first < call.segment ? chunks - first : call.segment);
    }
    if (call.dc) last.write(call.dc + item * K * V, call.dn + item * K, K, V);
}

}  // namespace exgate::mlstm
