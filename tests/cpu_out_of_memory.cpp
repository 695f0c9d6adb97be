// A pass over a tiny model in which one allocation fails: the first, then the second, and so on. Prints "right".

#include "kernels.cpp"

#include <cstdio>
#include <cstdlib>

namespace {

std::atomic<int64_t> until_failure{-1};  // -1: never

void* allocate(size_t size) {
    if (until_failure.load() >= 0 && until_failure.fetch_sub(1) == 0) throw std::bad_alloc();
    if (void* found = std::malloc(size ? size : 1)) return found;
    throw std::bad_alloc();
}

constexpr int64_t WIDTH = 64, TOKENS = 3, WORDS = 32;

struct TinyModel {
    std::vector<uint16_t> blocks = std::vector<uint16_t>(512 * 512), embedding, cos, sin, page;
    std::vector<float> gain = std::vector<float>(WIDTH, 1.0f);
    Layer layer;
    Model model;

    TinyModel() {
        for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = to_bf16(float(i * 37 % 101) / 500 - 0.1f);
        for (int64_t i = 0; i < WORDS * WIDTH; ++i) embedding.push_back(to_bf16(float(i * 13 % 29) / 10));
        cos.assign(TOKENS * 32, to_bf16(1)), sin.assign(TOKENS * 32, 0);
        page.assign(2 * PAGE * 32, 0);
        layer = {matrix(128, 64), matrix(64, 64), matrix(256, 64), matrix(64, 128), gain.data(), gain.data()};
        model = {1, WIDTH, 2, 1, 32, 0, 3, 1e-5, &layer, gain.data(), matrix(WORDS, 64),
                 embedding.data(), cos.data(), sin.data()};
    }

    Matrix matrix(int64_t rows, int64_t width) const {
        return {rows / LANES, width, 16, (const uint8_t*)blocks.data()};
    }

    int32_t run(std::vector<float>& logits) {
        const int64_t ids[TOKENS] = {1, 5, 9}, positions[TOKENS] = {0, 1, 2};
        uint16_t* const table[] = {page.data()};
        uint16_t* const* const pages[TOKENS] = {table, table, table};
        const Batch batch = {TOKENS, TOKENS, ids, positions, pages, positions, logits.data()};
        return cpu_forward(&model, &batch);
    }
};

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
