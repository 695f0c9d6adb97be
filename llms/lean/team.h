// A team of threads that lives as long as the process: loops are shared out, and nobody waits busily for long.
//
// Knows threads and ranges; refuses to know what is computed. It is not OpenMP's, since libgomp has a team for
// each thread that calls it and hardly waits once these are more than the cores: a program that answers in one
// thread and then in another, or that loaded PyTorch first, got its tokens at 0.4 of the speed.

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
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {

constexpr int TURNS = 2000;  // before sleeping, some 50 us: longer than between two loops of a pass

// A number that only grows, and those who wait for its next value.
class Turn {
  public:
    uint32_t now() const { return value.load(); }

    void wait_while(uint32_t seen) {
        for (int i = 0; i < TURNS; ++i, _mm_pause())
            if (now() != seen) return;
        ++sleepers;
        while (now() == seen) futex(FUTEX_WAIT_PRIVATE, seen);
        --sleepers;
    }

    void next() {
        ++value;
        if (sleepers.load()) futex(FUTEX_WAKE_PRIVATE, INT_MAX);
    }

  private:
    void futex(int what, uint32_t argument) { syscall(SYS_futex, &value, what, argument, nullptr, nullptr, 0); }

    std::atomic<uint32_t> value{0}, sleepers{0};
};

// Where the threads of a run wait for each other.
class Barrier {
  public:
    void meet(uint32_t size) {
        const uint32_t seen = turn.now();
        if (++arrived < size) return turn.wait_while(seen);
        arrived = 0;
        turn.next();
    }

  private:
    std::atomic<uint32_t> arrived{0};
    Turn turn;
};

// One thread's part in a run.
struct Member {
    int64_t number, size;
    Barrier* barrier;

    // Does this thread's share of `count` tasks, then waits for the others'.
    template <typename Task>
    void each(int64_t count, Task task) const {
        for (int64_t i = count * number / size, end = count * (number + 1) / size; i < end; ++i) task(i);
        if (size > 1) barrier->meet(uint32_t(size));
    }
};

class Team {
  public:
    using Work = std::function<void(const Member&)>;

    // Runs `work` in `threads` threads, the caller's among them; in the caller's alone while the team is taken.
    void run(int64_t threads, const Work& work) {
        std::unique_lock<std::mutex> taken(busy, std::defer_lock);
        if (threads < 2 || !taken.try_lock()) return work({0, 1, nullptr});
        grow(threads - 1);
        size = std::min(threads, int64_t(helpers.size()) + 1);
        job = &work;
        for (int64_t i = 1; i < size; ++i) helpers[i - 1]->next();
        work({0, size, &barrier});
        barrier.meet(uint32_t(size));  // `work` is the caller's: nobody may be in it any more
    }

  private:
    // A system that gives no more threads leaves a smaller team.
    void grow(int64_t count) {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the threads of the program
        try {
            while (int64_t(helpers.size()) < count) {
                auto called = std::make_unique<Turn>();
                std::thread(&Team::help, this, called.get(), int64_t(helpers.size()) + 1).detach();
                helpers.push_back(std::move(called));
            }
        } catch (const std::system_error&) {
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void help(Turn* called, int64_t number) {
        for (uint32_t seen = 0;; ++seen) {
            called->wait_while(seen);
            (*job)({number, size, &barrier});
            barrier.meet(uint32_t(size));
        }
    }

    std::mutex busy;
    Barrier barrier;
    std::vector<std::unique_ptr<Turn>> helpers;
    const Work* job = nullptr;
    int64_t size = 1;
};

Team* team() {
    // Never deleted: its threads outlive every destructor. A forked child has none of them, and begins anew.
    static Team* one = [] {
        pthread_atfork(nullptr, nullptr, [] { one = new Team; });
        return new Team;
    }();
    return one;
}

}  // namespace
