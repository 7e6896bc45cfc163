// Threads for the kernels: items 0 ... count-1 are dealt out in turn, thread t takes t, t + threads, ...
//
// What an item computes does not depend on who computes it, so any number of threads gives the same bits. Workers sleep
// between calls. After a fork the child has none of its parent's threads: it sees that its process is another and
// starts its own. A call that finds the pool busy (another Python thread is in a kernel) works alone.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>
#if defined(_WIN32)
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

namespace exgate {

class Pool {
  public:
    typedef void (*Work)(void* what, int64_t item);

    static void run(int64_t count, int64_t threads, Work work, void* what) {
        if (threads > count) threads = count;
        if (threads > 1) {
            Pool* pool = mine();
            if (pool->busy.try_lock()) {
                pool->share(count, threads, work, what);
                pool->busy.unlock();
                return;
            }
        }
        for (int64_t item = 0; item < count; item++) work(what, item);
    }

  private:
    std::mutex busy, lock;
    std::condition_variable begin, end;
    std::vector<std::thread*> workers;  // never joined: the pool lives as long as its process
    int64_t round = 0, left = 0, count = 0, threads = 0;
    Work work = nullptr;
    void* what = nullptr;
    int owner = getpid();

    static Pool* mine() {
        static Pool* pool = nullptr;  // left behind, not destroyed, after a fork: its locks may be held by nobody
        static std::mutex* making = new std::mutex;
        static int maker = getpid();
        if (maker != getpid()) {
            making = new std::mutex;
            maker = getpid();
        }
        std::lock_guard<std::mutex> hold(*making);
        if (pool == nullptr || pool->owner != getpid()) pool = new Pool;
        return pool;
    }

    void share(int64_t items, int64_t wanted, Work task, void* argument) {
        while ((int64_t)workers.size() < wanted - 1) {
            int64_t rank = (int64_t)workers.size() + 1;
            try {
                workers.push_back(new std::thread(&Pool::serve, this, rank, round));
            } catch (...) {
                break;  // the machine gives no more threads: those there are share the work
            }
        }
        if (wanted > (int64_t)workers.size() + 1) wanted = (int64_t)workers.size() + 1;
        {
            std::lock_guard<std::mutex> hold(lock);
            count = items, threads = wanted, work = task, what = argument;
            left = (int64_t)workers.size();
            round++;
        }
        begin.notify_all();
        for (int64_t item = 0; item < items; item += wanted) task(argument, item);
        std::unique_lock<std::mutex> hold(lock);
        end.wait(hold, [this] { return left == 0; });
    }

    void serve(int64_t rank, int64_t seen) {
        for (;;) {
            std::unique_lock<std::mutex> hold(lock);
            begin.wait(hold, [&] { return round != seen; });
            seen = round;
            hold.unlock();
            if (rank < threads)
                for (int64_t item = rank; item < count; item += threads) work(what, item);
            hold.lock();
            if (--left == 0) end.notify_one();
        }
    }
};

// parallel(count, threads, [&](int64_t item) { ... })
template <class F>
inline void parallel(int64_t count, int64_t threads, F&& f) {
    Pool::run(count, threads, [](void* what, int64_t item) { (*(F*)what)(item); }, (void*)&f);
}

}  // namespace exgate
