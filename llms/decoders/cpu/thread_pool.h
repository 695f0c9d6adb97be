// A pool of threads that lives as long as the process and runs one job at a time.
//
// It replaces OpenMP because libgomp keeps a pool for each thread that calls it, and spins for almost no time once
// these threads outnumber the cores. A program that answered in one thread and then in another, or that loaded
// PyTorch first, got its tokens at 0.4 of the speed.

#pragma once

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr int SPINS = 2000;  // about 50 us, which is longer than the gap between two loops of a pass

// A counter that threads can wait on until it changes.
class Epoch {
  public:
    uint32_t now() const { return value.load(); }

    void wait_while(uint32_t seen) {
        for (int i = 0; i < SPINS; ++i, _mm_pause())
            if (now() != seen) return;
        ++sleepers;
        while (now() == seen) futex(FUTEX_WAIT_PRIVATE, seen);
        --sleepers;
    }

    void advance() {
        ++value;
        if (sleepers.load()) futex(FUTEX_WAKE_PRIVATE, INT_MAX);
    }

  private:
    void futex(int operation, uint32_t argument) {
        syscall(SYS_futex, &value, operation, argument, nullptr, nullptr, 0);
    }

    std::atomic<uint32_t> value{0}, sleepers{0};
};

// The workers of a job wait here for each other. A broken barrier lets everyone through and holds nobody.
class Barrier {
  public:
    // Returns false if the barrier is broken.
    bool wait(uint32_t size) {
        // `epoch` is read before `broken`: a barrier that breaks in between advances it, and the wait ends at once.
        const uint32_t seen = epoch.now();
        if (broken.load()) return false;
        if (++arrived < size) {
            epoch.wait_while(seen);
        } else {
            arrived = 0;
            epoch.advance();
        }
        return !broken.load();
    }

    void break_up() {
        broken = true;
        epoch.advance();
    }

    // Only valid when no worker uses the barrier.
    void repair() {
        arrived = 0;
        broken = false;
    }

  private:
    std::atomic<uint32_t> arrived{0};
    std::atomic<bool> broken{false};
    Epoch epoch;
};

// Thrown in a worker when another worker's exception has ended the job.
struct JobAborted {};

// One thread's part in a job.
struct Worker {
    int64_t number, size;
    Barrier* barrier;

    // Runs this worker's share of `count` tasks, then waits until the other workers have finished theirs.
    template <typename Task>
    void parallel_for(int64_t count, Task task) const {
        for (int64_t i = count * number / size, end = count * (number + 1) / size; i < end; ++i) task(i);
        if (size > 1 && !barrier->wait(uint32_t(size))) throw JobAborted{};
    }
};

class ThreadPool {
  public:
    using Job = std::function<void(const Worker&)>;

    // Runs `job` in `threads` threads, of which the caller is one. While another caller uses the pool, or if there
    // is none, the job runs in the calling thread alone. Throws the first exception of any worker, once no worker
    // runs the job any more.
    static void run(ThreadPool* pool, int64_t threads, const Job& job) {
        if (pool && threads > 1) {
            std::unique_lock<std::mutex> lock(pool->busy, std::try_to_lock);
            if (lock) return pool->run_locked(threads, job);
        }
        job({0, 1, nullptr});
    }

  private:
    void run_locked(int64_t threads, const Job& job) {
        grow(threads - 1);
        size = std::min(threads, int64_t(helpers.size()) + 1);
        current = &job;
        for (int64_t i = 1; i < size; ++i) helpers[i - 1]->advance();
        work(0);  // returns when no worker runs the job any more, whatever was thrown
        if (!error) return;
        barrier.repair();
        failed = false;
        std::rethrow_exception(std::exchange(error, nullptr));
    }

    void work(int64_t number) noexcept {
        const int64_t members = size;
        try {
            (*current)({number, members, &barrier});
        } catch (...) {
            if (!failed.exchange(true)) error = std::current_exception();
            barrier.break_up();
        }
        finish.wait(uint32_t(members));
    }

    // Starts helpers until there are `count`. If the system refuses threads or memory, the pool stays smaller.
    void grow(int64_t count) {
        if (int64_t(helpers.size()) >= count) return;
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are handled by the program's own threads
        try {
            helpers.reserve(count);  // so that `push_back` cannot fail after the thread has started
            while (int64_t(helpers.size()) < count) {
                auto called = std::make_unique<Epoch>();
                std::thread(&ThreadPool::help, this, called.get(), int64_t(helpers.size()) + 1).detach();
                helpers.push_back(std::move(called));
            }
        } catch (const std::system_error&) {
        } catch (const std::bad_alloc&) {
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void help(Epoch* called, int64_t number) noexcept {
        for (uint32_t seen = 0;; ++seen) {
            called->wait_while(seen);
            work(number);
        }
    }

    std::mutex busy;
    Barrier barrier, finish;
    std::vector<std::unique_ptr<Epoch>> helpers;
    const Job* current = nullptr;
    int64_t size = 1;
    std::atomic<bool> failed{false};
    std::exception_ptr error;
};

// Returns the process's pool, or null if there was no memory for one. It is never deleted because its threads
// outlive every destructor. A forked child has none of these threads, so it starts with a new pool.
ThreadPool* thread_pool() {
    static ThreadPool* pool = [] {
        pthread_atfork(nullptr, nullptr, [] { pool = new (std::nothrow) ThreadPool; });
        return new (std::nothrow) ThreadPool;
    }();
    return pool;
}

}  // namespace
