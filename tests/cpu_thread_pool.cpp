// Jobs of `thread_pool.h`: many sizes in turn, several callers at once, tasks that throw, a helper that is held back,
// and all of it again in a forked child. Prints "right".

#include "thread_pool.h"

#include <sys/wait.h>

#include <cstdio>
#include <stdexcept>
#include <string>

namespace {

// Every loop of a job must have ended before the next one begins, or the sums come out wrong.
bool sums(int64_t threads, int64_t count, int loops) {
    std::vector<int64_t> at(count, 1), before(count, 0);
    ThreadPool::run(thread_pool(), threads, [&](const Worker& worker) {
        for (int loop = 0; loop < loops; ++loop) {
            worker.parallel_for(count, [&](int64_t i) { before[i] = at[(i + 1) % count]; });
            worker.parallel_for(count, [&](int64_t i) { at[i] += before[i]; });
        }
    });
    for (int64_t i = 0; i < count; ++i)
        if (at[i] != int64_t(1) << loops) return false;
    return true;
}

bool in_turn() {
    bool right = true;
    for (int i = 0; i < 2000; ++i) right &= sums(1 + i % 7, 1 + i % 50, 1 + i % 9);
    return right;
}

bool at_once() {
    std::atomic<bool> right{true};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller)
        callers.emplace_back([&right, caller] {
            for (int i = 0; i < 500; ++i) {
                if (!sums(2 + (i + caller) % 3, 5 + i % 20, 5)) right = false;
                if (i % 50 == 0) usleep(200);  // long enough for the others to fall asleep
            }
        });
    for (auto& caller : callers) caller.join();
    return right;
}

// A task throws in one loop of a job, or the caller does between two loops (`task` < 0). The exception must reach the
// caller, and only when no other worker runs the job any more: the job's own variables are gone afterwards, and the pool
// serves the next job.
bool thrown_by(int64_t task, int64_t threads, int in_loop) {
    std::atomic<int64_t> running{0};
    bool caught = false;
    try {
        std::vector<int64_t> at(100, 0);
        ThreadPool::run(thread_pool(), threads, [&](const Worker& worker) {
            struct Count {
                std::atomic<int64_t>& running;
                explicit Count(std::atomic<int64_t>& running) : running(running) { ++running; }
                ~Count() { --running; }
            } count(running);
            for (int loop = 0; loop < 8; ++loop) {
                if (loop == in_loop && task < 0 && worker.number == 0) throw std::runtime_error("thrown");
                worker.parallel_for(100, [&](int64_t i) {
                    if (i % 25 == 0) usleep(20);  // so that others still run when one throws
                    if (loop == in_loop && i == task) throw std::runtime_error("thrown");
                    at[i] += i;
                });
            }
        });
    } catch (const std::runtime_error& error) {
        caught = std::string(error.what()) == "thrown" && running.load() == 0;
    }
    return caught && sums(threads, 20, 5);
}

bool thrown() {
    bool right = true;
    for (int64_t threads = 1; threads <= 4; ++threads)
        for (int64_t task : {-1, 0, 1, 24, 25, 26, 50, 99})
            for (int loop = 0; loop < 8; ++loop) right &= thrown_by(task, threads, loop);
    return right;
}

// A helper that the system holds back delays nothing but the piece that it has taken.
bool held_back() {
    std::vector<int64_t> at(400, 0);
    std::atomic<int64_t> by_caller{0};
    std::atomic<bool> held{false};
    ThreadPool::run(thread_pool(), 2, [&](const Worker& worker) {
        worker.parallel_for(400, [&](int64_t i) {
            if (worker.number == 1 && !held.exchange(true)) usleep(100'000);
            if (worker.number == 0) usleep(1), ++by_caller;
            ++at[i];
        });
    });
    for (int64_t one : at)
        if (one != 1) return false;
    return by_caller.load() >= 300;
}

bool all_throw() {
    for (int i = 0; i < 200; ++i) {
        try {
            ThreadPool::run(thread_pool(), 4, [](const Worker&) { throw std::bad_alloc(); });
            return false;
        } catch (const std::bad_alloc&) {
        }
    }
    return sums(4, 20, 5);
}

bool in_a_child() {
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);  // a child that waits for ever would outlive the test
        _exit(in_turn() && thrown() ? 0 : 1);
    }
    int status = 0;
    return waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace

int main() {
    alarm(110);
    std::puts(in_turn() && at_once() && thrown() && all_throw() && held_back() && in_a_child() ? "right" : "wrong");
}
