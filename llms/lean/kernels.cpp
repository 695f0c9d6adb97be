// One pass of a Mistral-like model on the CPU: embedding, layers, final norm, logits, in one call.
//
// Knows the slots' cache as `llms.decoders.reference` lays it out, and arguments as `llms.lean.machine` does. Every
// value is summed in one order, whatever else is in the batch and however many threads run: a token's logits
// have the same bits in any batch.

#include <vector>

#include "product.h"

extern "C" {

struct Layer {
    Matrix qkv, out, gate_up, down;
    const float *before_attention, *before_mlp;  // gains
};

struct Model {
    int64_t layers, width, heads, kv_heads, dim, sliding, threads;  // sliding: 0, or the window
    double epsilon;
    const Layer* layer;
    const float* gain;
    Matrix head;
    const uint16_t *embedding, *cos, *sin;  // bf16 [vocabulary, width], [positions, dim]; sines signed to be
};                                          // multiplied by the rotated half

struct Batch {
    int64_t count, kept;                    // tokens; how many of them give logits
    const int64_t *ids, *rows, *places;     // [count]: token, row of the cache, position in it
    const int64_t* keep;                    // [kept], index of a token
    uint16_t *keys, *values;                // bf16, the first layer's
    int64_t layer_stride, row_stride, head_stride;
    float* logits;                          // [kept, 16 x head.groups]
};

}

namespace {

void normalize(const Model& model, const float* x, const float* gain, const Matrix& reader, Rows& out, int64_t i) {
    float square = 0;
    for (int64_t k = 0; k < model.width; ++k) square += x[k] * x[k];
    const float factor = 1 / std::sqrt(square / model.width + float(model.epsilon));
    float part[BLOCK];
    for (int64_t b = 0; b < model.width / BLOCK; ++b) {
        for (int k = 0; k < BLOCK; ++k) part[k] = x[b * BLOCK + k] * factor * gain[b * BLOCK + k];
        out.put(reader, i, b, part);
    }
}

// Rotates queries in place (scaled), writes rotated keys and values to the cache.
void place(const Model& model, const Batch& batch, int64_t layer, int64_t i, float* qkv) {
    const int64_t dim = model.dim, half = dim / 2, turned = model.heads + model.kv_heads;
    const uint16_t *cos = model.cos + batch.places[i] * dim, *sin = model.sin + batch.places[i] * dim;
    const float scale = 1 / std::sqrt(float(dim));
    for (int64_t h = 0; h < turned + model.kv_heads; ++h) {
        float* x = qkv + h * dim;
        for (int64_t k = 0; h < turned && k < half; ++k) {
            const float low = x[k], high = x[k + half];
            x[k] = low * wide(cos[k]) + high * wide(sin[k]);
            x[k + half] = high * wide(cos[k + half]) + low * wide(sin[k + half]);
        }
        if (h < model.heads) {
            for (int64_t k = 0; k < dim; ++k) x[k] *= scale;
            continue;
        }
        const int64_t kv = (h - model.heads) % model.kv_heads;
        const int64_t at = layer * batch.layer_stride + batch.rows[i] * batch.row_stride + kv * batch.head_stride;
        uint16_t* to = (h < turned ? batch.keys : batch.values) + at + batch.places[i] * dim;
        for (int64_t k = 0; k < dim; ++k) to[k] = narrow(x[k]);
    }
}

// Scores of `count` keys with one query of 32 W dimensions; filled up to a multiple of 16.
template <int W>
void score(const float* query, const uint16_t* keys, int64_t count, float* scores) {
    Pairs q[W];
    for (int w = 0; w < W; ++w) q[w] = pairs(query + BLOCK * w);
    for (int64_t first = 0; first < count; first += LANES) {
        Lanes part[LANES];
        for (int i = 0; i < LANES; ++i) {
            const uint16_t* key = keys + std::min(first + i, count - 1) * BLOCK * W;
            part[i] = all(0);
            for (int w = 0; w < W; ++w) part[i] = dot(part[i], q[w], columns(key + BLOCK * w));
        }
        store(scores + first, across(part));
    }
}

// The sum of `count` values, each times its share, divided by `total`.
template <int W>
void gather(const float* shares, const uint16_t* values, int64_t count, float total, float* out) {
    Lanes sum[2 * W];
    for (int w = 0; w < 2 * W; ++w) sum[w] = all(0);
    for (int64_t j = 0; j < count; ++j) {
        const Lanes share = all(shares[j]);
        for (int w = 0; w < 2 * W; ++w) sum[w] = fma(share, widened(values + j * BLOCK * W + LANES * w), sum[w]);
    }
    for (int w = 0; w < 2 * W; ++w) store(out + LANES * w, over(sum[w], all(total)));
}

// One head of one token over what is before it, in the query's place; `scores` is the thread's own.
void attend(const Model& model, const Batch& batch, int64_t layer, int64_t i, int64_t h, float* query,
            std::vector<float>& scores) {
    const int64_t kv = h / (model.heads / model.kv_heads), end = batch.places[i] + 1;
    const int64_t start = model.sliding && end > model.sliding ? end - model.sliding : 0, count = end - start;
    const int64_t at = layer * batch.layer_stride + batch.rows[i] * batch.row_stride + kv * batch.head_stride;
    const uint16_t *keys = batch.keys + at + start * model.dim, *values = batch.values + at + start * model.dim;
    if (int64_t(scores.size()) < count + LANES) scores.resize(2 * count + LANES);
    switch (model.dim / BLOCK) {
        case 1: score<1>(query, keys, count, scores.data()); break;
        case 2: score<2>(query, keys, count, scores.data()); break;
        case 3: score<3>(query, keys, count, scores.data()); break;
        default: score<4>(query, keys, count, scores.data());
    }
    float most = -INFINITY, total = 0;
    for (int64_t j = 0; j < count; ++j) most = scores[j] > most ? scores[j] : most;
    for (int64_t j = 0; j < count; ++j) scores[j] = exponential(scores[j] - most);
    for (int64_t j = 0; j < count; ++j) total += scores[j];
    switch (model.dim / BLOCK) {
        case 1: return gather<1>(scores.data(), values, count, total, query);
        case 2: return gather<2>(scores.data(), values, count, total, query);
        case 3: return gather<3>(scores.data(), values, count, total, query);
        default: return gather<4>(scores.data(), values, count, total, query);
    }
}

}  // namespace

extern "C" void lean_pass(const Model* m, const Batch* b) {
    const Model& model = *m;
    const Batch& batch = *b;
    const int64_t n = batch.count, width = model.width, all = model.heads * model.dim;
    const int64_t columns = (model.heads + 2 * model.kv_heads) * model.dim;
    std::vector<float> x(n * width), qkv(n * columns);
    Rows rows(n, width), heads(n, all), inner(n, model.layer[0].down.width);
    team()->run(model.threads, [&](const Member& me) {
        std::vector<float> scores;
        me.each(n, [&](int64_t i) {
            for (int64_t k = 0; k < width; ++k) x[i * width + k] = wide(model.embedding[batch.ids[i] * width + k]);
        });
        for (int64_t l = 0; l < model.layers; ++l) {
            const Layer& layer = model.layer[l];
            me.each(n, [&](int64_t i) {
                normalize(model, &x[i * width], layer.before_attention, layer.qkv, rows, i);
            });
            product(me, layer.qkv, rows, n, qkv.data(), false);
            me.each(n, [&](int64_t i) { place(model, batch, l, i, &qkv[i * columns]); });
            me.each(n * model.heads, [&](int64_t task) {
                const int64_t i = task / model.heads, h = task % model.heads;
                attend(model, batch, l, i, h, &qkv[i * columns + h * model.dim], scores);
            });
            me.each(n, [&](int64_t i) {
                for (int64_t k = 0; k < all / BLOCK; ++k) heads.put(layer.out, i, k, &qkv[i * columns + k * BLOCK]);
            });
            product(me, layer.out, heads, n, x.data(), true);
            me.each(n, [&](int64_t i) {
                normalize(model, &x[i * width], layer.before_mlp, layer.gate_up, rows, i);
            });
            gated(me, layer.gate_up, layer.down, rows, n, inner);
            product(me, layer.down, inner, n, x.data(), true);
        }
        me.each(batch.kept, [&](int64_t i) {
            normalize(model, &x[batch.keep[i] * width], model.gain, model.head, rows, i);
        });
        if (batch.kept) product(me, model.head, rows, batch.kept, batch.logits, false);
    });
}
