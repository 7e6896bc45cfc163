// sLSTM: its gates. The loop is in recurrence.h.
//
// Of i' = exp(i - m) and f' = exp(log f + m_prev - m) one is 1 and the other exp(-|d|), d = i - (log f + m_prev): one
// exponential gives both. The four numbers kept for backward are u, exp(-|d|) with the sign of d in its sign bit, the
// slope d log f / d f, z and o. So backward computes no exponentials.
#include "../recurrence.h"

using namespace exgate;

namespace {

constexpr int32_t SIGN = (int32_t)0x80000000;

EXGATE_INLINE vf input_of(vf u) { return bits(u) < 0 ? abs(u) : splat(1.0f); }
EXGATE_INLINE vf forget_of(vf u) { return bits(u) < 0 ? splat(1.0f) : u; }
EXGATE_INLINE vf minus_abs(vf x) { return number(bits(x) | SIGN); }

struct SLSTM {
    static constexpr int CELLS = 3, KEPT = 2;  // c, n and m; m is a gauge and has no gradient
    static constexpr bool PEEPHOLES = false;
    static constexpr float EMPTY[CELLS] = {0.0f, 0.0f, -__builtin_inff()};

    template <bool SAVES>
    static EXGATE_INLINE vf forward(const Call& a, const Peep&, const vf (&raw)[4], vf (&cell)[3], vf (&gates)[4]) {
        vf log_f = raw[1];
        gates[1] = splat(1.0f);
        if (!a.exp_f) {
            vf e = exp_down(minus_abs(raw[1]));
            log_f = min(raw[1], vf{}) - log1p_of_unit(e);
            if (SAVES) gates[1] = (raw[1] < 0.0f ? splat(1.0f) : e) / (1.0f + e);
        }
        log_f += cell[2];
        vf d = raw[0] - log_f;
        vf u = number(bits(exp(minus_abs(d))) | (bits(d) & SIGN));
        vf i = input_of(u), f = forget_of(u), z = tanh(raw[2]);
        cell[0] = f * cell[0] + i * z;
        cell[1] = f * cell[1] + i;
        cell[2] = max(raw[0], log_f);
        vf e = exp_down(minus_abs(raw[3])), top = raw[3] < 0.0f ? e : splat(1.0f);
        if (SAVES) gates[0] = u, gates[2] = z, gates[3] = top / (1.0f + e);
        return top * cell[0] / ((1.0f + e) * cell[1]);
    }

    static EXGATE_INLINE void again(const vf (&gates)[4], vf (&cell)[2]) {
        const vf u = gates[0], f = forget_of(u), i = input_of(u);
        cell[0] = f * cell[0] + i * gates[2];
        cell[1] = f * cell[1] + i;
    }

    static EXGATE_INLINE void backward(const Peep&, const vf (&gates)[4], const vf (&before)[2], const vf (&after)[2], vf dh,
                                       vf (&dcell)[2], vf (&d)[4]) {
        const vf u = gates[0], slope = gates[1], z = gates[2], o = gates[3], i = input_of(u), f = forget_of(u);
        vf over_n = 1.0f / after[1], ratio = after[0] * over_n, above = dh * o * over_n;
        vf dc = dcell[0] + above, dn = dcell[1] - above * ratio;
        d[0] = (dc * z + dn) * i;
        d[1] = (dc * before[0] + dn * before[1]) * f * slope;
        d[2] = dc * i * (1.0f - z * z);
        d[3] = dh * ratio * o * (1.0f - o);
        dcell[0] = dc * f;
        dcell[1] = dn * f;
    }
};

}  // namespace

EXGATE_API int64_t exgate_slstm_space(const Call* call, int64_t back) { return space_of<SLSTM>(*call, back); }
EXGATE_API void exgate_slstm_forward(const Call* call) { forward_call<SLSTM>(*call); }
EXGATE_API void exgate_slstm_backward(const Call* call) { backward_call<SLSTM>(*call); }
