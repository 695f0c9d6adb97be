// One forward pass of a Mistral-like model on the CPU: embedding, layers, final norm and logits in one call.
//
// setup.py compiles this file once for each instruction set. `llms/decoders/cpu/native.py` declares the same structures
// to Python; INTERFACE is to be counted up in both files when one of them changes. A token's logits have the same bits
// in any batch and with any number of threads, because every value is summed in one order.

#include <new>
#include <vector>

#include "matmul.h"

constexpr int32_t INTERFACE = 3;
constexpr int64_t PAGE = 32;  // tokens of a page of the KV cache

#define EXPORTED extern "C" __attribute__((visibility("default")))

extern "C" {

struct Layer {
    Matrix qkv[3], out, gate, up, down;      // `qkv` is one matrix and two without groups, or three
    const float *attention_norm, *mlp_norm;  // gains [width]
    const float* bias;                       // [rows of qkv], or null
    const float *query_norm, *key_norm;      // gains [head_dim], or null
};

struct Model {
    int64_t layers, width, heads, kv_heads, head_dim, sliding_window, threads;  // sliding_window: 0 if there is none
    double epsilon;
    const Layer* layer;
    const float* norm;  // gains [width]
    Matrix head;
    const uint8_t* embedding;  // [vocabulary, width], as `embedding_type` says
    int64_t embedding_type;
    const float *cos, *sin;    // [positions, head_dim / 2]
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

// Returns the factor that gives a row the root mean square 1.
float norm_factor(const Model& model, const float* x, int64_t width) {
    float square = 0;
    for (int64_t k = 0; k < width; ++k) square += x[k] * x[k];
    return 1 / std::sqrt(square / width + float(model.epsilon));
}

// Normalizes a row by its root mean square and stores it in `forms`.
void normalize(const Model& model, const float* x, const float* gain, int64_t forms, Activations& out, int64_t i) {
    const float factor = norm_factor(model, x, model.width);
    float part[BLOCK];
    for (int64_t b = 0; b < model.width / BLOCK; ++b) {
        for (int k = 0; k < BLOCK; ++k) part[k] = x[b * BLOCK + k] * factor * gain[b * BLOCK + k];
        out.set_block(forms, i, b, part);
    }
    out.finish(forms, i);
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

// Adds the bias to the queries, keys and values of a token, then rotates and scales the queries in place, and writes
// its rotated keys and its values to the KV cache.
void rotate_and_cache(const Model& model, const Batch& batch, int64_t layer, int64_t i, float* qkv) {
    const int64_t dim = model.head_dim, half = dim / 2, rotated = model.heads + model.kv_heads;
    const float *cos = model.cos + batch.positions[i] * half, *sin = model.sin + batch.positions[i] * half;
    const float scale = 1 / std::sqrt(float(dim)), *bias = model.layer[layer].bias;
    for (int64_t h = 0; h < rotated + model.kv_heads; ++h) {
        float* x = qkv + h * dim;
        for (int64_t k = 0; bias && k < dim; ++k) x[k] += bias[h * dim + k];
        const float* gain = h < model.heads ? model.layer[layer].query_norm : model.layer[layer].key_norm;
        if (gain && h < rotated) {
            const float factor = norm_factor(model, x, dim);
            for (int64_t k = 0; k < dim; ++k) x[k] *= factor * gain[k];
        }
        for (int64_t k = 0; h < rotated && k < half; ++k) {
            const float low = x[k], high = x[k + half];
            x[k] = low * cos[k] - high * sin[k];
            x[k + half] = high * cos[k] + low * sin[k];
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
    int64_t forms[3] = {form_of(model.head), 0, 0};
    for (int64_t l = 0; l < model.layers; ++l) {
        const Layer& layer = model.layer[l];
        forms[0] |= Stack{layer.qkv, 3}.forms() | form_of(layer.gate) | form_of(layer.up);
        forms[1] |= form_of(layer.out), forms[2] |= form_of(layer.down);
    }
    Activations rows(n, width, forms[0]), heads(n, query_width, forms[1]);
    Activations inner(n, model.layer[0].down.width, forms[2]);
    ThreadPool::run(thread_pool(), model.threads, [&](const Worker& worker) {
        worker.parallel_for(n, [&](int64_t i) {
            const int64_t type = model.embedding_type;
            dequantize(type, model.embedding + batch.ids[i] * row_bytes(type, width), width, &x[i * width]);
        });
        for (int64_t l = 0; l < model.layers; ++l) {
            const Layer& layer = model.layer[l];
            const Stack qkv_stack{layer.qkv, 3};
            const int64_t mlp_forms = form_of(layer.gate) | form_of(layer.up);
            worker.parallel_for(n, [&](int64_t i) {
                normalize(model, &x[i * width], layer.attention_norm, qkv_stack.forms(), rows, i);
            });
            matmul(worker, qkv_stack, rows, n, qkv.data(), false);
            worker.parallel_for(n, [&](int64_t i) { rotate_and_cache(model, batch, l, i, &qkv[i * qkv_width]); });
            worker.parallel_for(n * model.heads, [&](int64_t task) {
                const int64_t i = task / model.heads, h = task % model.heads;
                attend(model, batch, l, i, h, &qkv[i * qkv_width + h * model.head_dim], &scores[worker.number * span]);
            });
            worker.parallel_for(n, [&](int64_t i) {
                for (int64_t k = 0; k < query_width / BLOCK; ++k)
                    heads.set_block(form_of(layer.out), i, k, &qkv[i * qkv_width + k * BLOCK]);
                heads.finish(form_of(layer.out), i);
            });
            matmul(worker, {&layer.out, 1}, heads, n, x.data(), true);
            worker.parallel_for(n, [&](int64_t i) {
                normalize(model, &x[i * width], layer.mlp_norm, mlp_forms, rows, i);
            });
            gated_matmul(worker, layer.gate, layer.up, form_of(layer.down), rows, n, inner);
            matmul(worker, {&layer.down, 1}, inner, n, x.data(), true);
        }
        worker.parallel_for(batch.kept, [&](int64_t i) {
            normalize(model, &x[batch.keep[i] * width], model.norm, form_of(model.head), rows, i);
        });
        if (batch.kept) matmul(worker, {&model.head, 1}, rows, batch.kept, batch.logits, false);
    });
}

}  // namespace

EXPORTED int32_t cpu_interface() noexcept { return INTERFACE; }

// Writes rows of a GGUF matrix as floats.
EXPORTED void cpu_dequantize(int64_t type, const uint8_t* rows, int64_t count, int64_t width, float* out) noexcept {
    for (int64_t i = 0; i < count; ++i) dequantize(type, rows + i * row_bytes(type, width), width, out + i * width);
}

// Multiplies a matrix by rows of floats [count, width] into out [count, 16 x groups].
EXPORTED int32_t cpu_multiply(const Matrix* m, const float* x, int64_t count, float* out) noexcept {
    try {
        Activations rows(count, m->width, form_of(*m));
        for (int64_t i = 0; i < count * (m->width / BLOCK); ++i)
            rows.set_block(form_of(*m), i / (m->width / BLOCK), i % (m->width / BLOCK), x + i * BLOCK);
        for (int64_t i = 0; i < count; ++i) rows.finish(form_of(*m), i);
        matmul({0, 1, nullptr}, {m, 1}, rows, count, out, false);
        return OK;
    } catch (const std::bad_alloc&) {
        return OUT_OF_MEMORY;
    }
}

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
