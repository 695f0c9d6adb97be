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
#include <immintrin.h>
#include <memory>

#include "thread_pool.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace {

constexpr int LANES = 16, BLOCK = 32;
constexpr int64_t BYTES_4BIT = 320, BYTES_8BIT = 544, BYTES_16BIT = 1024;  // of a block

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

namespace {

struct Matrix {
    int64_t groups, width, bits;  // groups of 16 rows; columns; 4, 8 or 16 bits a weight
    const uint8_t* blocks;
};

// Rows of activations in the form that the next matrix reads: values for a matrix in 16 bits, else codes with a scale
// and a sum for every 32 of them.
class Activations {
    int64_t width;
    std::unique_ptr<int16_t[]> codes;
    std::unique_ptr<Real[]> values;
    std::unique_ptr<float[]> scales, sums;

  public:
    Activations(int64_t count, int64_t width)
        : width(width), codes(new int16_t[count * width]), values(new Real[count * width]),
          scales(new float[count * (width / BLOCK)]), sums(new float[count * (width / BLOCK)]) {}

    const int16_t* code(int64_t i) const { return codes.get() + i * width; }
    const Real* value(int64_t i) const { return values.get() + i * width; }
    const float* scale(int64_t i) const { return scales.get() + i * (width / BLOCK); }
    const float* sum(int64_t i) const { return sums.get() + i * (width / BLOCK); }

    // Stores 32 activations of row `i` for the matrix `reader`.
    void set_block(const Matrix& reader, int64_t i, int64_t block, const float* x) {
        const int64_t first = i * width + block * BLOCK, at = i * (width / BLOCK) + block;
        if (reader.bits == 16) {
            for (int k = 0; k < BLOCK; ++k) values[first + k] = to_real(x[k]);
            return;
        }
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

// Multiplies 16 rows of a matrix by T <= MAX_ROWS rows of activations from `first` on, into out[t][16], `stride`
// floats apart. It is never inlined, because it would be compiled twice then, in 3.6 s instead of 1.6.
template <int T>
__attribute__((noinline)) void multiply(const Matrix& m, int64_t group, const Activations& rows, int64_t first,
                                        float* out, int64_t stride) {
    const int64_t blocks = m.width / BLOCK,
                  bytes = m.bits == 4 ? BYTES_4BIT : (m.bits == 8 ? BYTES_8BIT : BYTES_16BIT);
    const uint8_t* at = m.blocks + group * blocks * bytes;
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
        if (m.bits == 16) {
            dot_16bit<T>(at, values, b, total);
            continue;
        }
        Ints sum[T];
        for (int t = 0; t < T; ++t) sum[t] = zero_ints();
        if (m.bits == 4) {
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

// Calls `multiply` for a number of rows that is known at run time.
template <int T = MAX_ROWS>
void multiply_rows(const Matrix& m, int64_t group, const Activations& rows, int64_t first, int64_t count, float* out,
                   int64_t stride) {
    if (count == T) return multiply<T>(m, group, rows, first, out, stride);
    if constexpr (T > 1) multiply_rows<T - 1>(m, group, rows, first, count, out, stride);
}

// Writes a whole product to out [count, 16 x groups], or adds it to what is there. All workers call it.
void matmul(const Worker& worker, const Matrix& m, const Activations& rows, int64_t count, float* out, bool add) {
    const int64_t stride = m.groups * LANES;
    worker.parallel_for(m.groups, [&](int64_t g) {
        for (int64_t first = 0; first < count; first += MAX_ROWS) {
            const int64_t n = count - first < MAX_ROWS ? count - first : MAX_ROWS;
            float part[MAX_ROWS * LANES];
            multiply_rows(m, g, rows, first, n, part, LANES);
            for (int64_t t = 0; t < n; ++t) {
                float* to = out + (first + t) * stride + g * LANES;
                for (int i = 0; i < LANES; ++i) to[i] = add ? to[i] + part[t * LANES + i] : part[t * LANES + i];
            }
        }
    });
}

// Computes silu(gate) x up in steps of 32 columns, which is one block of what the next product, `reader`, reads.
void gated_matmul(const Worker& worker, const Matrix& m, const Matrix& reader, const Activations& rows, int64_t count,
                  Activations& out) {
    const int64_t half = m.groups / 2;
    worker.parallel_for(half / 2, [&](int64_t unit) {
        for (int64_t first = 0; first < count; first += MAX_ROWS) {
            const int64_t n = count - first < MAX_ROWS ? count - first : MAX_ROWS;
            float gate[MAX_ROWS * BLOCK], up[MAX_ROWS * BLOCK];
            for (int side = 0; side < 2; ++side) {
                multiply_rows(m, 2 * unit + side, rows, first, n, gate + side * LANES, BLOCK);
                multiply_rows(m, half + 2 * unit + side, rows, first, n, up + side * LANES, BLOCK);
            }
            for (int64_t i = 0; i < n * BLOCK; ++i) gate[i] = gate[i] / (1 + fast_exp(-gate[i])) * up[i];
            for (int64_t t = 0; t < n; ++t) out.set_block(reader, first + t, unit, gate + t * BLOCK);
        }
    });
}

}  // namespace
