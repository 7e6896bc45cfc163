// What kernels share whose channels know nothing of each other: units of work, and memory to work in.
#pragma once

#include <vector>

#include "pool.h"
#include "vector.h"

namespace exgate {

// f(row, first channel, how many channels) for every row and strip of at most `width` of its D channels, in threads
template <class F>
void strips(int64_t rows, int64_t D, int64_t width, int64_t threads, F&& f) {
    const int64_t count = (D + width - 1) / width;
    parallel(rows * count, threads, [&](int64_t item) {
        const int64_t d = item % count * width;
        f(item / count, d, D - d < width ? D - d : width);
    });
}

// At least so many numbers, the thread's own, until it asks again
inline float* scratch(int64_t numbers) {
    static thread_local std::vector<float> space;
    if ((int64_t)space.size() < numbers) space.resize(numbers);
    return space.data();
}

}  // namespace exgate
