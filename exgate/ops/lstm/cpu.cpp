// LSTM, with peepholes: its gates. The loop is in recurrence.h. For backward i, f, z and o are kept; tanh(c) is computed again.
#include "../recurrence.h"

using namespace exgate;

namespace {

struct LSTM {
    static constexpr int CELLS = 1, KEPT = 1;
    static constexpr bool PEEPHOLES = true;
    static constexpr float EMPTY[CELLS] = {0.0f};

    template <bool SAVES>
    static EXGATE_INLINE vf forward(const Call&, const Peep& p, const vf (&raw)[4], vf (&c)[1], vf (&gates)[4]) {
        vf i = sigmoid(raw[0] + p.i * c[0]), f = sigmoid(raw[1] + p.f * c[0]), z = tanh(raw[2]);
        c[0] = f * c[0] + i * z;
        vf o = sigmoid(raw[3] + p.o * c[0]);
        gates[0] = i, gates[1] = f, gates[2] = z, gates[3] = o;
        return o * tanh(c[0]);
    }

    static EXGATE_INLINE void again(const vf (&gates)[4], vf (&c)[1]) { c[0] = gates[1] * c[0] + gates[0] * gates[2]; }

    static EXGATE_INLINE void backward(const Peep& p, const vf (&gates)[4], const vf (&before)[1], const vf (&after)[1], vf dh,
                                       vf (&dc)[1], vf (&d)[4]) {
        const vf i = gates[0], f = gates[1], z = gates[2], o = gates[3], u = tanh(after[0]);
        d[3] = dh * u * o * (1.0f - o);
        vf dc1 = dc[0] + dh * o * (1.0f - u * u) + p.o * d[3];
        d[0] = dc1 * z * i * (1.0f - i);
        d[1] = dc1 * before[0] * f * (1.0f - f);
        d[2] = dc1 * i * (1.0f - z * z);
        dc[0] = dc1 * f + (p.i * d[0] + p.f * d[1]);
    }
};

}  // namespace

EXGATE_API int64_t exgate_lstm_space(const Call* call, int64_t back) { return space_of<LSTM>(*call, back); }
EXGATE_API void exgate_lstm_forward(const Call* call) { forward_call<LSTM>(*call); }
EXGATE_API void exgate_lstm_backward(const Call* call) { backward_call<LSTM>(*call); }
