// Runs of `team.h`: many sizes in turn, several callers at once, and again in a forked child. Prints "right".

#include "team.h"

#include <sys/wait.h>

#include <cstdio>

namespace {

// Every loop of a run must have ended before the next one begins, or the sums come out wrong.
bool sums(int64_t threads, int64_t count, int loops) {
    std::vector<int64_t> at(count, 1), before(count, 0);
    team()->run(threads, [&](const Member& me) {
        for (int loop = 0; loop < loops; ++loop) {
            me.each(count, [&](int64_t i) { before[i] = at[(i + 1) % count]; });
            me.each(count, [&](int64_t i) { at[i] += before[i]; });
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

bool in_a_child() {
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);  // or a child that waits for ever would outlive the test
        _exit(in_turn() ? 0 : 1);
    }
    int status = 0;
    return waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace

int main() {
    std::puts(in_turn() && at_once() && in_a_child() ? "right" : "wrong");
}
