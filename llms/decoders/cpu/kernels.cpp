// One forward pass of a Mistral-like model on the CPU: embedding, layers, final norm and logits in one call.
//
// setup.py compiles this file once for each instruction set. `llms/decoders/cpu/native.py` declares the same structures
// to Python; INTERFACE is to be counted up in both files when one of them changes. A token's logits have the same bits
// in any batch and with any number of threads, because every value is summed in one order.

#include <new>
#include <vector>

#include "matmul.h"

constexpr int32_t INTERFACE = 2;
constexpr int64_t PAGE = 32;  // tokens of a page of the KV cache

#define EXPORTED extern "C" __attribute__((visibility("default")))

extern "C" {

struct Layer {
    Matrix qkv, out, gate_up, down;
    const float *attention_norm, *mlp_norm;  // gains [width]
};

struct Model {
    int64_t layers, width, heads, kv_heads, head_dim, sliding_window, threads;  // sliding_window: 0 if there is none
    double epsilon;
    const Layer* layer;
    const float* norm;  // gains [width]
    Matrix head;
    const uint16_t* embedding;   // bf16 [vocabulary, width]
    const uint16_t *cos, *sin;   // bf16 [positions, head_dim]; the first half of the sines is negated
};

struct Batch {
    int64_t count, kept;                       // tokens; how many of them give logits
    const int64_t *ids, *positions;            // [count]: the token, its position in its sequence
    uint16_t* const* const* pages;             // [count]: the pages of its sequence, bf16, see `PagedCache`
    const int64_t* keep;                       // [kept]: indexes of the tokens that give logits
    float* logits;                             // [kept, 16 x head.groups]
};

enum Status : int32_t { OK = 0, OUT_OF_MEMORY = 1, FAILED = 2 };

}

namespace {

// Normalizes a row by its root mean square and stores it for the matrix `reader`.
void normalize(const Model& model, const float* x, const float* gain, const Matrix& reader, Activations& out,
               int64_t i) {
    float square = 0;
    for (int64_t k = 0; k < model.width; ++k) square += x[k] * x[k];
    const float factor = 1 / std::sqrt(square / model.width + float(model.epsilon));
    float part[BLOCK];
    for (int64_t b = 0; b < model.width / BLOCK; ++b) {
        for (int k = 0; k < BLOCK; ++k) part[k] = x[b * BLOCK + k] * factor * gain[b * BLOCK + k];
        out.set_block(reader, i, b, part);
    }
}

// The keys (side 0) or values (side 1) of one head of one layer of one sequence. A page is bf16
// [layers, 2, kv_heads, PAGE, head_dim].
struct PagedCache {
    uint16_t* const* pages;
    int64_t offset, dim;

    PagedCache(const Model& model, const Batch& batch, int64_t layer, int64_t i, int64_t side, int64_t kv_head)
        : pages(batch.pages[i]), offset(((2 * layer + side) * model.kv_heads + kv_head) * PAGE * model.head_dim),
          dim(model.head_dim) {}

    uint16_t* at(int64_t position) const { return pages[position / PAGE] + offset + position % PAGE * dim; }

    // The end of the run of positions from `start` to `end` that lies in one page.
    static int64_t run_end(int64_t start, int64_t end) { return std::min(end, (start | (PAGE - 1)) + 1); }
};

// Rotates and scales the queries of a token in place, and writes its rotated keys and its values to the KV cache.
void rotate_and_cache(const Model& model, const Batch& batch, int64_t layer, int64_t i, float* qkv) {
    const int64_t dim = model.head_dim, half = dim / 2, rotated = model.heads + model.kv_heads;
    const uint16_t *cos = model.cos + batch.positions[i] * dim, *sin = model.sin + batch.positions[i] * dim;
    const float scale = 1 / std::sqrt(float(dim));
    for (int64_t h = 0; h < rotated + model.kv_heads; ++h) {
        float* x = qkv + h * dim;
        for (int64_t k = 0; h < rotated && k < half; ++k) {
            const float low = x[k], high = x[k + half];
            x[k] = low * from_bf16(cos[k]) + high * from_bf16(sin[k]);
            x[k + half] = high * from_bf16(cos[k + half]) + low * from_bf16(sin[k + half]);
        }
        if (h < model.heads) {
            for (int64_t k = 0; k < dim; ++k) x[k] *= scale;
            continue;
        }
        const int64_t kv_head = (h - model.heads) % model.kv_heads;
        uint16_t* to = PagedCache(model, batch, layer, i, h >= rotated, kv_head).at(batch.positions[i]);
        for (int64_t k = 0; k < dim; ++k) to[k] = to_bf16(x[k]);
    }
}

// Scores the keys from `start` to `end` with one query of 32 W dimensions. It fills `scores` up to a multiple of 16
// after the last page. The next page is prefetched because the CPU's own prefetchers do not follow a page table.
template <int W>
void score(const float* query, const PagedCache& keys, int64_t start, int64_t end, float* scores) {
    Pairs q[W];
    for (int w = 0; w < W; ++w) q[w] = pair_up(query + BLOCK * w);
    for (int64_t next; start < end; scores += next - start, start = next) {
        next = PagedCache::run_end(start, end);
        const int64_t count = next - start;
        const uint16_t *run = keys.at(start), *ahead = keys.at(next < end ? next : start);
        for (int64_t first = 0; first < count; first += LANES) {
            Lanes part[LANES];
            for (int i = 0; i < LANES; ++i) {
                const uint16_t* key = run + std::min(first + i, count - 1) * BLOCK * W;
                for (int w = 0; w < W; ++w) __builtin_prefetch(ahead + (first + i) * BLOCK * W + BLOCK * w);
                part[i] = broadcast(0);
                for (int w = 0; w < W; ++w) part[i] = dot(part[i], q[w], load_columns(key + BLOCK * w));
            }
            store(scores + first, sum_lanes(part));
        }
    }
}

// Adds up the values from `start` to `end`, each times its weight, and divides the sum by `total`.
template <int W>
void average(const float* weights, const PagedCache& values, int64_t start, int64_t end, float total, float* out) {
    Lanes sum[2 * W];
    for (int w = 0; w < 2 * W; ++w) sum[w] = broadcast(0);
    for (int64_t next; start < end; weights += next - start, start = next) {
        next = PagedCache::run_end(start, end);
        const int64_t count = next - start;
        const uint16_t *run = values.at(start), *ahead = values.at(next < end ? next : start);
        for (int64_t j = 0; j < count; ++j) {
            const Lanes weight = broadcast(weights[j]);
            for (int w = 0; w < W; ++w) __builtin_prefetch(ahead + j * BLOCK * W + BLOCK * w);
            for (int w = 0; w < 2 * W; ++w)
                sum[w] = fma(weight, load_bf16(run + j * BLOCK * W + LANES * w), sum[w]);
        }
    }
    for (int w = 0; w < 2 * W; ++w) store(out + LANES * w, divide(sum[w], broadcast(total)));
}

// First position that the token at `position` attends to.
int64_t attention_start(const Model& model, int64_t position) {
    const int64_t end = position + 1;
    return model.sliding_window && end > model.sliding_window ? end - model.sliding_window : 0;
}

// Attention of one head of one token over the tokens up to itself. The result replaces the query; `scores` belongs to
// the worker.
void attend(const Model& model, const Batch& batch, int64_t layer, int64_t i, int64_t h, float* query, float* scores) {
    const int64_t kv_head = h / (model.heads / model.kv_heads);
    const int64_t end = batch.positions[i] + 1, start = attention_start(model, batch.positions[i]), count = end - start;
    const PagedCache keys(model, batch, layer, i, 0, kv_head), values(model, batch, layer, i, 1, kv_head);
    switch (model.head_dim / BLOCK) {
        case 1: score<1>(query, keys, start, end, scores); break;
        case 2: score<2>(query, keys, start, end, scores); break;
        case 3: score<3>(query, keys, start, end, scores); break;
        default: score<4>(query, keys, start, end, scores);
    }
    float most = -INFINITY, total = 0;
    for (int64_t j = 0; j < count; ++j) most = scores[j] > most ? scores[j] : most;
    for (int64_t j = 0; j < count; ++j) scores[j] = fast_exp(scores[j] - most);
    for (int64_t j = 0; j < count; ++j) total += scores[j];
    switch (model.head_dim / BLOCK) {
        case 1: return average<1>(scores, values, start, end, total, query);
        case 2: return average<2>(scores, values, start, end, total, query);
        case 3: return average<3>(scores, values, start, end, total, query);
        default: return average<4>(scores, values, start, end, total, query);
    }
}

// Runs the pass. All memory is allocated before the first thread starts, so a pass that runs out of it has changed
// nothing in the KV cache.
void forward(const Model& model, const Batch& batch) {
    const int64_t n = batch.count, width = model.width, query_width = model.heads * model.head_dim;
    const int64_t qkv_width = (model.heads + 2 * model.kv_heads) * model.head_dim;
    int64_t longest = 0;
    for (int64_t i = 0; i < n; ++i)
        longest = std::max(longest, batch.positions[i] + 1 - attention_start(model, batch.positions[i]));
    const int64_t span = (longest + 2 * LANES) / LANES * LANES;  // `score` fills up to a multiple of 16
    std::vector<float> x(n * width), qkv(n * qkv_width);
    const std::unique_ptr<float[]> scores(new float[span * std::max<int64_t>(1, model.threads)]);
    Activations rows(n, width), heads(n, query_width), inner(n, model.layer[0].down.width);
    ThreadPool::run(thread_pool(), model.threads, [&](const Worker& worker) {
        worker.parallel_for(n, [&](int64_t i) {
            const uint16_t* row = model.embedding + batch.ids[i] * width;
            for (int64_t k = 0; k < width; ++k) x[i * width + k] = from_bf16(row[k]);
        });
        for (int64_t l = 0; l < model.layers; ++l) {
            const Layer& layer = model.layer[l];
            worker.parallel_for(n, [&](int64_t i) {
                normalize(model, &x[i * width], layer.attention_norm, layer.qkv, rows, i);
            });
            matmul(worker, layer.qkv, rows, n, qkv.data(), false);
            worker.parallel_for(n, [&](int64_t i) { rotate_and_cache(model, batch, l, i, &qkv[i * qkv_width]); });
            worker.parallel_for(n * model.heads, [&](int64_t task) {
                const int64_t i = task / model.heads, h = task % model.heads;
                attend(model, batch, l, i, h, &qkv[i * qkv_width + h * model.head_dim], &scores[worker.number * span]);
            });
            worker.parallel_for(n, [&](int64_t i) {
                for (int64_t k = 0; k < query_width / BLOCK; ++k)
                    heads.set_block(layer.out, i, k, &qkv[i * qkv_width + k * BLOCK]);
            });
            matmul(worker, layer.out, heads, n, x.data(), true);
            worker.parallel_for(n, [&](int64_t i) {
                normalize(model, &x[i * width], layer.mlp_norm, layer.gate_up, rows, i);
            });
            gated_matmul(worker, layer.gate_up, layer.down, rows, n, inner);
            matmul(worker, layer.down, inner, n, x.data(), true);
        }
        worker.parallel_for(batch.kept, [&](int64_t i) {
            normalize(model, &x[batch.keep[i] * width], model.norm, model.head, rows, i);
        });
        if (batch.kept) matmul(worker, model.head, rows, batch.kept, batch.logits, false);
    });
}

}  // namespace

EXPORTED int32_t cpu_interface() noexcept { return INTERFACE; }

// No exception may leave this function: its caller is Python's ctypes, and the process would end.
EXPORTED int32_t cpu_forward(const Model* model, const Batch* batch) noexcept {
    try {
        forward(*model, *batch);
        return OK;
    } catch (const std::bad_alloc&) {
        return OUT_OF_MEMORY;
    } catch (...) {
        return FAILED;
    }
}
