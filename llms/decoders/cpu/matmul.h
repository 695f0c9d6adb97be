// Products of packed weights and rows of activations, for any instruction set.
//
// The header named by INSTRUCTIONS (`avx2.h` or `avx512.h`) defines what a register holds: `Lanes` (16 floats, one
// for each of 16 rows), `Ints` (16 sums of int32), `Codes` (a pair of columns of 16 rows as int16), `Wide` (the same
// as weights in bf16) and `Pairs` (16 pairs of activations).
//
// The weights of 16 rows lie next to each other, so that one register holds a pair of columns of all 16 rows and no
// sum runs across a register. A block is 32 columns of 16 rows:
//   4 bits:  64 words of 32 bits; word 16 q + row holds the codes of columns 8 q + 2 p + j in bits 4 p + 16 j;
//            then 16 scales and 16 offsets in fp16: weight = scale x code + offset;
//   8 bits:  byte 32 p + 2 row + j is the signed code of column 2 p + j; then 16 scales in fp16;
//   16 bits: word 32 p + 2 row + j is the weight of column 2 p + j in bf16.
// Activations that meet codes are rounded to 16 bits, with one scale for 32 of them. The sum of a block is then exact
// in int32, and the error is 2^-16 of the largest activation; bf16 leaves 2^-9 of each. With activations in 8 bits,
// as in llama.cpp, a chat model lost its answers: after a chat template the logits were off by 9 %, against 1 % in
// bf16.
//
// Every output is summed in the same order, whatever else is in the batch and however many threads run.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#include "thread_pool.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace {

constexpr int LANES = 16, BLOCK = 32;

float from_bf16(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

uint16_t to_bf16(float x) {  // rounds to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return x == x ? uint16_t(rounded) : uint16_t(0x7fc0);
}

constexpr int64_t AHEAD = 2048;  // bytes between what is multiplied and what is fetched

ALWAYS_INLINE void prefetch(const uint8_t* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

// e^x by Cody and Waite's range reduction and a Taylor series up to x^6; the relative error is 2e-7.
float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = std::nearbyint(x * 1.44269504f), r = x - n * 0.693145752f - n * 1.42860677e-6f;
    float p = 1 + r * (1 + r * (0.5f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r / 720.f)))));
    int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

}  // namespace

#include INSTRUCTIONS
#include "quads.h"

namespace {

// Forms of activations, as bits.
enum Form : int64_t { CODES = 1, VALUES = 2, QUADS = 4, FLOATS = 8 };

// The form that a matrix reads.
int64_t form_of(const Matrix& m) {
    switch (m.format) {
        case PAIRS_4: case PAIRS_8: return CODES;
        case PAIRS_16: return VALUES;
        case HALVES: case SINGLES: return FLOATS;
        default: return QUADS;
    }
}

// Rows of activations in the forms that the next matrices read: 16-bit codes with a scale and a sum for every 32 of
// them, values for weights in bf16, 8-bit codes for quads, or floats.
class Activations {
    int64_t width, forms;
    std::unique_ptr<int16_t[]> codes;
    std::unique_ptr<Real[]> values;
    std::unique_ptr<float[]> scales, sums, floats;

  public:
    QuadRows quads;

    Activations(int64_t count, int64_t width, int64_t forms)
        : width(width), forms(forms), codes(new int16_t[forms & CODES ? count * width : 0]),
          values(new Real[forms & VALUES ? count * width : 0]),
          scales(new float[forms & CODES ? count * (width / BLOCK) : 0]),
          sums(new float[forms & CODES ? count * (width / BLOCK) : 0]),
          floats(new float[forms & FLOATS ? count * width : 0]), quads(forms & QUADS ? count : 0, width) {}

    const int16_t* code(int64_t i) const { return codes.get() + i * width; }
    const Real* value(int64_t i) const { return values.get() + i * width; }
    const float* scale(int64_t i) const { return scales.get() + i * (width / BLOCK); }
    const float* sum(int64_t i) const { return sums.get() + i * (width / BLOCK); }
    const float* row(int64_t i) const { return floats.get() + i * width; }

    // Stores 32 activations of row `i` in the given forms.
    void set_block(int64_t wanted, int64_t i, int64_t block, const float* x) {
        const int64_t first = i * width + block * BLOCK;
        if (wanted & QUADS) quads.set_block(i, block, x);
        if (wanted & FLOATS) std::memcpy(&floats[first], x, sizeof(float) * BLOCK);
        if (wanted & VALUES)
            for (int k = 0; k < BLOCK; ++k) values[first + k] = to_real(x[k]);
        if (wanted & CODES) set_codes(first, i * (width / BLOCK) + block, x);
    }

    // Ends a row whose blocks are all set.
    void finish(int64_t wanted, int64_t i) {
        if (wanted & QUADS) quads.finish(i);
    }

  private:
    void set_codes(int64_t first, int64_t at, const float* x) {
        // The bits of magnitudes compare like the magnitudes; infinity and NaN come last.
        int32_t bits[BLOCK], most = 0, total = 0;
        std::memcpy(bits, x, sizeof bits);
        for (int k = 0; k < BLOCK; ++k) most = std::max(most, bits[k] & 0x7fffffff);
        float largest;
        std::memcpy(&largest, &most, 4);
        const bool counts = largest > 1e-30f && most < 0x7f800000;
        const float step = counts ? 32767 / largest : 0;
        for (int k = 0; k < BLOCK; ++k) {
            const int32_t code = counts ? int32_t(std::nearbyint(x[k] * step)) : 0;
            codes[first + k] = int16_t(code), total += code;
        }
        scales[at] = most < 0x7f800000 ? largest / 32767 : NAN;  // infinity and NaN must reach the logits
        sums[at] = scales[at] * float(total);
    }
};

template <int T>
ALWAYS_INLINE void dot_4bit(const uint8_t* at, const int16_t* const* x, int64_t block, Ints* sum) {
    for (int q = 0; q < 4; ++q) {
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) {
            const Codes codes = int4_codes(at + 64 * q, p);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) sum[t] = dot(sum[t], x[t] + BLOCK * block + 8 * q + 2 * p, codes);
        }
    }
}

template <int T>
ALWAYS_INLINE void dot_8bit(const uint8_t* at, const int16_t* const* x, int64_t block, Ints* sum) {
    for (int p = 0; p < 16; ++p) {
        const Codes codes = int8_codes(at + 32 * p);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum[t] = dot(sum[t], x[t] + BLOCK * block + 2 * p, codes);
    }
}

template <int T>
ALWAYS_INLINE void dot_16bit(const uint8_t* at, const Real* const* x, int64_t block, Lanes* sum) {
    for (int p = 0; p < 16; ++p) {
        const Wide weights = load_columns((const uint16_t*)(at + 64 * p));
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum[t] = dot(sum[t], broadcast_pair(x[t] + BLOCK * block + 2 * p), weights);
    }
}

// Multiplies 16 rows of a matrix in floats by rows of activations: column after column in fp16 or fp32.
template <int T>
__attribute__((noinline)) void multiply_floats(const Matrix& m, int64_t group, const Activations& rows, int64_t first,
                                               float* out, int64_t stride) {
    const uint8_t* at = m.blocks + group * m.stride();
    Lanes total[T];
    for (int t = 0; t < T; ++t) total[t] = broadcast(0);
    for (int64_t k = 0; k < m.width; ++k) {
        const Lanes weights = m.format == HALVES ? load_fp16(at + 32 * k) : load((const float*)at + 16 * k);
        for (int t = 0; t < T; ++t) total[t] = fma(weights, broadcast(rows.row(first + t)[k]), total[t]);
    }
    for (int t = 0; t < T; ++t) store(out + t * stride, total[t]);
}

// Multiplies 16 rows of a matrix by T <= MAX_ROWS rows of activations from `first` on, into out[t][16], `stride`
// floats apart. It is never inlined, because it would be compiled twice then, in 3.6 s instead of 1.6.
template <int T>
__attribute__((noinline)) void multiply(const Matrix& m, int64_t group, const Activations& rows, int64_t first,
                                        float* out, int64_t stride) {
    const int64_t blocks = m.width / BLOCK, bytes = block_bytes(m.format);
    const uint8_t* at = m.blocks + group * m.stride();
    const int16_t* codes[T];
    const Real* values[T];
    const float *scales[T], *sums[T];
    Lanes total[T];
    for (int t = 0; t < T; ++t) {
        codes[t] = rows.code(first + t), values[t] = rows.value(first + t);
        scales[t] = rows.scale(first + t), sums[t] = rows.sum(first + t);
        total[t] = broadcast(0);
    }
    for (int64_t b = 0; b < blocks; ++b, at += bytes) {
        if (m.format == PAIRS_16) {
            dot_16bit<T>(at, values, b, total);
            continue;
        }
        Ints sum[T];
        for (int t = 0; t < T; ++t) sum[t] = zero_ints();
        if (m.format == PAIRS_4) {
            dot_4bit<T>(at, codes, b, sum);
            const Lanes scale = load_fp16(at + 256), low = load_fp16(at + 288);
            for (int t = 0; t < T; ++t)
                total[t] = fma(scale, multiply_lanes(to_float(sum[t]), broadcast(scales[t][b])),
                               fma(low, broadcast(sums[t][b]), total[t]));
        } else {
            dot_8bit<T>(at, codes, b, sum);
            const Lanes scale = load_fp16(at + 512);
            for (int t = 0; t < T; ++t)
                total[t] = fma(scale, multiply_lanes(to_float(sum[t]), broadcast(scales[t][b])), total[t]);
        }
    }
    for (int t = 0; t < T; ++t) store(out + t * stride, total[t]);
}

// Calls `multiply` or `multiply_floats` for a number of rows that is known at run time.
template <int T = MAX_ROWS>
void multiply_rows(const Matrix& m, int64_t group, const Activations& rows, int64_t first, int64_t count, float* out,
                   int64_t stride) {
    if (count == T) {
        if (m.format == HALVES || m.format == SINGLES) return multiply_floats<T>(m, group, rows, first, out, stride);
        return multiply<T>(m, group, rows, first, out, stride);
    }
    if constexpr (T > 1) multiply_rows<T - 1>(m, group, rows, first, count, out, stride);
}

// Multiplies a group by up to MAX_ROWS rows of activations, in any format.
void multiply_group(const Matrix& m, int64_t group, const Activations& rows, int64_t first, int64_t count, float* out,
                    int64_t stride) {
    switch (m.format) {
        case QUADS_5_0: return multiply_all<QUADS_5_0>(m, group, rows.quads, first, count, out, stride);
        case QUADS_5_1: return multiply_all<QUADS_5_1>(m, group, rows.quads, first, count, out, stride);
        case QUADS_4_K: return multiply_all<QUADS_4_K>(m, group, rows.quads, first, count, out, stride);
        case QUADS_5_K: return multiply_all<QUADS_5_K>(m, group, rows.quads, first, count, out, stride);
        case QUADS_6_K: return multiply_all<QUADS_6_K>(m, group, rows.quads, first, count, out, stride);
        default: return multiply_rows(m, group, rows, first, count, out, stride);
    }
}

// Matrices of one width, one below the other.
struct Stack {
    const Matrix* parts;
    int count;

    int64_t groups() const {
        int64_t total = 0;
        for (int i = 0; i < count; ++i) total += parts[i].groups;
        return total;
    }

    int64_t forms() const {
        int64_t found = 0;
        for (int i = 0; i < count; ++i) found |= parts[i].groups ? form_of(parts[i]) : 0;
        return found;
    }

    const Matrix& holding(int64_t& group) const {  // also makes `group` the number within that matrix
        int i = 0;
        for (; group >= parts[i].groups; ++i) group -= parts[i].groups;
        return parts[i];
    }
};

// Writes a whole product to out [count, 16 x groups], or adds it to what is there. All workers call it.
void matmul(const Worker& worker, Stack stack, const Activations& rows, int64_t count, float* out, bool add) {
    const int64_t stride = stack.groups() * LANES;
    worker.parallel_for(stack.groups(), [&](int64_t g) {
        int64_t within = g;
        const Matrix& m = stack.holding(within);
        ensure_packed(m, within);
        for (int64_t first = 0; first < count; first += MAX_ROWS) {
            const int64_t n = count - first < MAX_ROWS ? count - first : MAX_ROWS;
            float part[MAX_ROWS * LANES];
            multiply_group(m, within, rows, first, n, part, LANES);
            for (int64_t t = 0; t < n; ++t) {
                float* to = out + (first + t) * stride + g * LANES;
                for (int i = 0; i < LANES; ++i) to[i] = add ? to[i] + part[t * LANES + i] : part[t * LANES + i];
            }
        }
    });
}

// Computes silu(gate) x up in steps of 32 columns, which is one block of what the next product reads in `forms`.
void gated_matmul(const Worker& worker, const Matrix& gates, const Matrix& ups, int64_t forms, const Activations& rows,
                  int64_t count, Activations& out) {
    worker.parallel_for(gates.groups / 2, [&](int64_t unit) {
        for (int side = 0; side < 2; ++side)
            ensure_packed(gates, 2 * unit + side), ensure_packed(ups, 2 * unit + side);
        for (int64_t first = 0; first < count; first += MAX_ROWS) {
            const int64_t n = count - first < MAX_ROWS ? count - first : MAX_ROWS;
            float gate[MAX_ROWS * BLOCK], up[MAX_ROWS * BLOCK];
            for (int side = 0; side < 2; ++side) {
                multiply_group(gates, 2 * unit + side, rows, first, n, gate + side * LANES, BLOCK);
                multiply_group(ups, 2 * unit + side, rows, first, n, up + side * LANES, BLOCK);
            }
            for (int64_t i = 0; i < n * BLOCK; ++i) gate[i] = gate[i] / (1 + fast_exp(-gate[i])) * up[i];
            for (int64_t t = 0; t < n; ++t) out.set_block(forms, first + t, unit, gate + t * BLOCK);
        }
    });
    if (forms & QUADS) worker.parallel_for(count, [&](int64_t i) { out.finish(forms, i); });
}

}  // namespace
