// The functions of vector.h over arrays: what the accuracy tests call.
#include "vector.h"

using namespace exgate;

EXGATE_API int exgate_width() { return W; }

EXGATE_API int exgate_map(const char* name, const float* x, float* y, int64_t count) {
    vf (*f)(vf) = nullptr;
    if (!strcmp(name, "exp")) f = [](vf v) { return exp(v); };
    if (!strcmp(name, "log1p")) f = [](vf v) { return log1p(v); };
    if (!strcmp(name, "tanh")) f = [](vf v) { return tanh(v); };
    if (!strcmp(name, "sigmoid")) f = [](vf v) { return sigmoid(v); };
    if (!strcmp(name, "logsigmoid")) f = [](vf v) { return logsigmoid(v); };
    if (f == nullptr) return 1;
    for (int64_t i = 0; i < count; i += W) store(y + i, f(load(x + i, count - i)), count - i);
    return 0;
}

EXGATE_API void exgate_round_trip(const float* x, uint16_t* half, float* back, int64_t count) {  // to bfloat16 and back
    for (int64_t i = 0; i < count; i += W) {
        store((bf16*)half + i, load(x + i, count - i), count - i);
        store(back + i, load((const bf16*)half + i, count - i), count - i);
    }
}
