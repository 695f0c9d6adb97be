// Several threads, each with a sequence of its own, prefill, fork and decode with one model at once, and all of it again
// in a forked child. Every logit is that of a single thread. Built with a sanitizer, it looks for races and for reads
// and writes out of bounds. Prints "right".

#include "cpu_tiny_model.h"

#include <sys/wait.h>

#include <cstdio>

namespace {

constexpr int64_t PROMPT = PAGE + 5, STEPS = 2 * PAGE;

// Prefills a prompt, shares its first page with a fork, and decodes both in one batch. Returns the logits of every step.
std::vector<float> decode(const Model& model, int64_t seed) {
    std::vector<std::vector<uint16_t>> memory(8, std::vector<uint16_t>(PAGE_VALUES, 0));
    uint16_t* table[4] = {memory[0].data(), memory[1].data(), memory[2].data(), memory[3].data()};
    uint16_t* forked[4] = {memory[0].data(), memory[5].data(), memory[6].data(), memory[7].data()};
    std::vector<float> found, logits(2 * WORDS);
    std::vector<int64_t> ids, positions;
    std::vector<uint16_t* const*> pages(PROMPT, table);
    for (int64_t i = 0; i < PROMPT; ++i) ids.push_back((seed + 7 * i) % WORDS), positions.push_back(i);
    const int64_t last = PROMPT - 1;
    bool right = true;
    Batch prompt = {PROMPT, 1, ids.data(), positions.data(), pages.data(), &last, logits.data()};
    right &= cpu_forward(&model, &prompt) == OK;
    memory[5] = memory[1];
    found = logits;
    for (int64_t step = 0; step < STEPS; ++step) {
        const int64_t keep[2] = {0, 1}, at[2] = {PROMPT + step, PROMPT + step};
        const int64_t next[2] = {(seed + step) % WORDS, (seed + 3 * step + 1) % WORDS};
        uint16_t* const* both[2] = {table, forked};
        Batch batch = {2, 2, next, at, both, keep, logits.data()};
        right &= cpu_forward(&model, &batch) == OK;
        found.insert(found.end(), logits.begin(), logits.end());
    }
    return right ? found : std::vector<float>{};
}

bool at_once(Model model, const std::vector<std::vector<float>>& expected) {
    std::atomic<bool> right{true};
    std::vector<std::thread> callers;
    for (size_t caller = 0; caller < expected.size(); ++caller)
        callers.emplace_back([&, caller] {
            Model own = model;
            for (int round = 0; round < 5; ++round) {
                own.threads = 1 + (round + int64_t(caller)) % 4;
                if (decode(own, int64_t(caller)) != expected[caller]) right = false;
            }
        });
    for (auto& caller : callers) caller.join();
    return right;
}

}  // namespace

int main() {
    alarm(110);
    TinyModel tiny;
    tiny.model.threads = 1;
    std::vector<std::vector<float>> expected;
    for (int64_t caller = 0; caller < 4; ++caller) expected.push_back(decode(tiny.model, caller));
    bool right = !expected[0].empty() && at_once(tiny.model, expected);
    if (const pid_t child = fork(); child == 0) {
        alarm(60);
        tiny.model.threads = 3;
        _exit(decode(tiny.model, 2) == expected[2] ? 0 : 1);
    } else {
        int status = 0;
        right &= waitpid(child, &status, 0) == child && status == 0;
    }
    std::puts(right ? "right" : "wrong");
}
