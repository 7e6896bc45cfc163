// Threads for the kernels: each takes the next of the items 0 ... count-1 until there is none left.
//
// What an item computes does not depend on who computes it, so any number of threads gives the same bits. The threads are
// PyTorch's own where its OpenMP library lends them (`exgate_team`): after an operation of PyTorch they stay awake for a
// while, and threads of ours would have to share the cores with them. Elsewhere, and after a fork, which no OpenMP
// library survives, they are our own: a worker waits for the next call awake for a moment, and then asleep. A call that
// finds them busy (another Python thread is in a kernel) works alone.
#pragma once

#include <atomic>
#include <chrono>
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

    // OpenMP's: run `work(what)` on a team of so many threads. As GCC calls it, and LLVM and Intel understand.
    typedef void (*Team)(void (*work)(void*), void* what, unsigned threads, unsigned flags);

    static void lend(Team team) { lent() = {team, getpid()}; }

    static void run(int64_t count, int64_t threads, Work work, void* what) {
        if (threads > count) threads = count;
        if (threads > 1 && lent().team && lent().process == getpid()) {
            Job job(work, what, count);
            lent().team([](void* own) { ((Job*)own)->take(); }, &job, (unsigned)threads, 0);
            return;
        }
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
    struct Lent {
        Team team = nullptr;
        int process = 0;
    };
    static Lent& lent() {
        static Lent threads;
        return threads;
    }

    struct Job {
        Work work;
        void* what;
        int64_t count;
        std::atomic<int64_t> next{0};

        Job(Work work, void* what, int64_t count) : work(work), what(what), count(count) {}
        void take() {
            for (int64_t item; (item = next++) < count;) work(what, item);
        }
    };

    std::mutex busy, lock;
    std::condition_variable begin, end;
    std::vector<std::thread*> workers;  // never joined: the pool lives as long as its process
    std::atomic<int64_t> round{0}, left{0};
    Job* job = nullptr;
    int64_t threads = 0;
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

    void share(int64_t count, int64_t wanted, Work work, void* what) {
        Job mine(work, what, count);
        while ((int64_t)workers.size() < wanted - 1) {
            int64_t rank = (int64_t)workers.size() + 1;
            try {
                workers.push_back(new std::thread(&Pool::serve, this, rank, round.load()));
            } catch (...) {
                break;  // the machine gives no more threads: those there are share the work
            }
        }
        if (wanted > (int64_t)workers.size() + 1) wanted = (int64_t)workers.size() + 1;
        {
            std::lock_guard<std::mutex> hold(lock);
            job = &mine, threads = wanted;
            left = (int64_t)workers.size();
            round++;
        }
        begin.notify_all();
        mine.take();
        await(end, [this] { return left == 0; });
    }

    void serve(int64_t rank, int64_t seen) {
        for (;;) {
            await(begin, [&] { return round != seen; });
            seen = round;
            if (rank < threads) job->take();
            if (--left == 0) {
                std::lock_guard<std::mutex> hold(lock);
                end.notify_one();
            }
        }
    }

    template <class F>
    void await(std::condition_variable& news, F&& done) {
        const auto late = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
        while (std::chrono::steady_clock::now() < late)
            if (done()) return;
        std::unique_lock<std::mutex> hold(lock);
        news.wait(hold, done);
    }
};

// parallel(count, threads, [&](int64_t item) { ... })
template <class F>
inline void parallel(int64_t count, int64_t threads, F&& f) {
    Pool::run(count, threads, [](void* what, int64_t item) { (*(F*)what)(item); }, (void*)&f);
}

}  // namespace exgate
