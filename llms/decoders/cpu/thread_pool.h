// A pool of threads that lives as long as the process and runs one job at a time.
//
// It replaces OpenMP because libgomp keeps a pool for each thread that calls it, and spins for almost no time once
// these threads outnumber the cores. A program that answered in one thread and then in another, or that loaded
// PyTorch first, got its tokens at 0.4 of the speed.

#pragma once

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

// Tells the CPU that this thread waits for another.
inline void pause() {
#ifdef __x86_64__
    __builtin_ia32_pause();
#else
    asm volatile("yield");
#endif
}

// A counter that threads can wait on until it changes. They spin before they sleep, for a shorter time after waits that
// ended asleep: on a machine that other programs keep busy, a spinning thread takes the core from the one it waits for.
class Epoch {
  public:
    uint32_t now() const { return value.load(); }

    void wait_while(uint32_t seen) {
        thread_local int spins = SPINS;
        for (int i = 0; i < spins; ++i, pause())
            if (now() != seen) {
                spins = std::min(SPINS, 2 * spins);
                return;
            }
        spins = std::max(SPINS / 16, spins / 2);
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

// Thrown in a worker when another worker's exception has ended the job.
struct JobAborted {};

// Splits the loops of a job between its workers. Each worker begins with a share of its own, which it takes in four
// pieces, and then takes pieces of the others' shares. A loop ends when all its tasks are done, whoever did them: a
// worker that the system holds back delays a loop by the piece that it has taken, and by nothing if it has none.
class Loops {
  public:
    // Makes room for shares of `size` workers. Throws bad_alloc. Only valid when no job runs.
    void reserve(int64_t size) {
        if (size <= capacity) return;
        shares.reset(new Share[size]);
        capacity = size;
    }

    // Prepares a job, and returns the number of its first loop. Only valid when no worker is in a job.
    uint32_t begin() {
        const uint32_t first = over.now();
        for (int64_t i = 0; i < capacity; ++i) shares[i].taken = uint64_t(first - 1) << 32;
        done = 0;
        broken = false;
        return first;
    }

    // Ends the job: every worker that waits for a loop, or starts one, throws JobAborted.
    void break_up() {
        broken = true;
        over.advance();
    }

    template <typename Task>
    void run(uint32_t loop, int64_t number, int64_t size, int64_t count, Task& task) {
        if (broken.load()) throw JobAborted{};
        int64_t ran = 0;
        for (int64_t k = 0; k < size; ++k) {
            const int64_t owner = (number + k) % size, first = count * owner / size, last = count * (owner + 1) / size;
            for (int64_t i = first, end; take(shares[owner].taken, loop, first, last, i, end); ran += end - i)
                for (int64_t task_number = i; task_number < end; ++task_number) task(task_number);
        }
        if (ran && done.fetch_add(ran) + ran == count) {
            done = 0;
            over.advance();
        } else {
            over.wait_while(loop);
        }
        if (broken.load()) throw JobAborted{};
    }

  private:
    struct alignas(64) Share {
        std::atomic<uint64_t> taken{0};  // the loop in the high half, its first task that nobody has taken in the low one
    };

    // Takes a piece [i, end) of the tasks [first, last) of one share. Returns false if none is left, or the loop is over.
    static bool take(std::atomic<uint64_t>& taken, uint32_t loop, int64_t first, int64_t last, int64_t& i, int64_t& end) {
        uint64_t seen = taken.load();
        do {
            const int32_t later = int32_t(uint32_t(seen >> 32) - loop);
            i = later == 0 ? int64_t(uint32_t(seen)) : first;
            if (later > 0 || i >= last) return false;
            end = std::min(last, i + (last - first + 3) / 4);
        } while (!taken.compare_exchange_weak(seen, uint64_t(loop) << 32 | uint64_t(end)));
        return true;
    }

    std::unique_ptr<Share[]> shares;
    int64_t capacity = 0;
    std::atomic<int64_t> done{0};
    std::atomic<bool> broken{false};
    Epoch over;  // its value is the number of the loop that runs
};

// One thread's part in a job. All workers of a job run the same loops in the same order, and nothing outside of them
// that others could see: a worker that comes late skips the loops that are over.
struct Worker {
    int64_t number, size;
    Loops* loops;
    mutable uint32_t loop;

    // Runs `count` tasks together with the other workers. Returns when all of them are done.
    template <typename Task>
    void parallel_for(int64_t count, Task task) const {
        if (size == 1)
            for (int64_t i = 0; i < count; ++i) task(i);
        else if (count > 0)
            loops->run(loop++, number, size, count, task);
    }
};

class ThreadPool {
  public:
    using Job = std::function<void(const Worker&)>;

    // Runs `job` in up to `threads` threads, of which the caller is one. While another caller uses the pool, or if there
    // is none, the job runs in the calling thread alone. Throws the first exception of any worker, once no worker
    // runs the job any more.
    static void run(ThreadPool* pool, int64_t threads, const Job& job) {
        if (pool && threads > 1) {
            std::unique_lock<std::mutex> lock(pool->busy, std::try_to_lock);
            if (lock) return pool->run_locked(threads, job);
        }
        job({0, 1, nullptr, 0});
    }

  private:
    static constexpr uint32_t OPEN = 1u << 31;

    void run_locked(int64_t threads, const Job& job) {
        grow(threads - 1);
        size = std::min(threads, int64_t(helpers.size()) + 1);
        loops.reserve(size);
        first_loop = loops.begin();
        current = &job;
        inside = OPEN;
        for (int64_t i = 1; i < size; ++i) helpers[i - 1]->advance();
        work(0);
        // Helpers that have not entered stay outside; the others end, as all loops are over.
        inside &= ~OPEN;
        for (uint32_t seen = left.now(); inside.load(); seen = left.now()) left.wait_while(seen);
        failed = false;
        if (error) std::rethrow_exception(std::exchange(error, nullptr));
    }

    void work(int64_t number) noexcept {
        try {
            (*current)({number, size, &loops, first_loop});
        } catch (...) {
            if (!failed.exchange(true)) error = std::current_exception();
            loops.break_up();
        }
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
            if (!enter()) continue;
            if (number < size) work(number);  // a late helper may find a job that needs fewer
            if (--inside == 0) left.advance();
        }
    }

    // Enters the job that runs. Returns false if there is none, or it has ended.
    bool enter() {
        uint32_t seen = inside.load();
        do {
            if (!(seen & OPEN)) return false;
        } while (!inside.compare_exchange_weak(seen, seen + 1));
        return true;
    }

    std::mutex busy;
    Loops loops;
    std::vector<std::unique_ptr<Epoch>> helpers;
    const Job* current = nullptr;
    int64_t size = 1;
    uint32_t first_loop = 0;
    std::atomic<uint32_t> inside{0};  // helpers that are in the job, and OPEN while more may enter
    Epoch left;
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
