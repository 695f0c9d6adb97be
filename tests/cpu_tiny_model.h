// The kernels, and a model of one layer of 64 columns with weights of 16 bits.

#pragma once

#include "kernels.cpp"

namespace {

constexpr int64_t WIDTH = 64, TOKENS = 3, WORDS = 32, POSITIONS = 4 * PAGE, PAGE_VALUES = 2 * PAGE * 32;

struct TinyModel {
    std::vector<uint16_t> blocks = std::vector<uint16_t>(512 * 512), embedding, page;
    std::vector<float> gain = std::vector<float>(WIDTH, 1.0f), cos, sin;
    Layer layer;
    Model model;

    TinyModel() {
        for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = to_bf16(float(i * 37 % 101) / 500 - 0.1f);
        for (int64_t i = 0; i < WORDS * WIDTH; ++i) embedding.push_back(to_bf16(float(i * 13 % 29) / 10));
        cos.assign(POSITIONS * 16, 1.0f), sin.assign(POSITIONS * 16, 0.0f);
        page.assign(PAGE_VALUES, 0);
        layer = {};
        layer.qkv[0] = matrix(128, 64), layer.out = matrix(64, 64);
        layer.gate = matrix(128, 64), layer.up = matrix(128, 64), layer.down = matrix(64, 128);
        layer.attention_norm = layer.mlp_norm = gain.data();
        model = {1, WIDTH, 2, 1, 32, 0, 3, 1e-5, &layer, gain.data(), matrix(WORDS, 64),
                 (const uint8_t*)embedding.data(), BF16, cos.data(), sin.data()};
    }

    Matrix matrix(int64_t rows, int64_t width) {
        Matrix found{};
        found.groups = rows / LANES, found.width = width, found.format = PAIRS_16, found.rows = rows;
        found.blocks = (uint8_t*)blocks.data();
        return found;
    }

    int32_t run(std::vector<float>& logits) {
        const int64_t ids[TOKENS] = {1, 5, 9}, positions[TOKENS] = {0, 1, 2};
        uint16_t* const table[] = {page.data()};
        uint16_t* const* const pages[TOKENS] = {table, table, table};
        const Batch batch = {TOKENS, TOKENS, ids, positions, pages, positions, logits.data()};
        return cpu_forward(&model, &batch);
    }
};

}  // namespace
