// A pass over a tiny model in which one allocation fails: the first, then the second, and so on. Prints "right".

#include "cpu_tiny_model.h"

#include <cstdio>
#include <cstdlib>

namespace {

std::atomic<int64_t> until_failure{-1};  // -1: never

void* allocate(size_t size) {
    if (until_failure.load() >= 0 && until_failure.fetch_sub(1) == 0) throw std::bad_alloc();
    if (void* found = std::malloc(size ? size : 1)) return found;
    throw std::bad_alloc();
}

bool same(TinyModel& tiny, const std::vector<float>& expected) {
    std::vector<float> found(expected.size());
    return tiny.run(found) == OK && found == expected;
}

}  // namespace

void* operator new(size_t size) { return allocate(size); }
void* operator new[](size_t size) { return allocate(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept {
    try {
        return allocate(size);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
void operator delete(void* what) noexcept { std::free(what); }
void operator delete(void* what, size_t) noexcept { std::free(what); }
void operator delete[](void* what) noexcept { std::free(what); }
void operator delete[](void* what, size_t) noexcept { std::free(what); }

int main() {
    alarm(100);
    TinyModel tiny;
    std::vector<float> expected(TOKENS * WORDS), found(TOKENS * WORDS);
    tiny.model.threads = 1;
    bool right = tiny.run(expected) == OK;
    int64_t failures = 0, first = 0;
    for (; right; ++first) {  // with a growing pool at first: its own allocations fail as well
        tiny.model.threads = 2 + first % 3;
        until_failure = first;
        const int32_t status = tiny.run(found);
        const bool all_succeeded = until_failure.load() >= 0;
        until_failure = -1;
        failures += status == OUT_OF_MEMORY;
        right = (status == OUT_OF_MEMORY || (status == OK && found == expected)) && same(tiny, expected);
        if (all_succeeded) break;
    }
    std::puts(right && failures >= 14 ? "right" : "wrong");
}
