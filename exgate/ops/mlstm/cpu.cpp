// mLSTM, chunk by chunk, forward and backward: one pass per sequence and head, everything of a chunk in cache.
//
// From the bottom: tiles.h multiplies, memory.h brings rows in and out, chunk.h has gates, scores and states, and
// forward.h and backward.h the passes.
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

#include "../pool.h"
#include "backward.h"
#include "forward.h"

using namespace exgate;
using namespace exgate::mlstm;

namespace {

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
