// Products of packed weights and rows of activations, for any instruction set.
//
// Knows blocks and sums; what a register holds is the set's own, in the header that the compiler is told (see
// `llms.lean.compiler`): `Lanes` (16 of fp32, one for each of 16 rows), `Ints` (16 sums of int32), `Codes` and
// `Wide` (a pair of columns of 16 rows, as int16 and as weights in bf16), `Pairs` (16 pairs of activations).
//
// Weights of 16 rows lie side by side, so that a register holds one pair of columns of all of them and no sum
// runs across it. A block is 32 columns of 16 rows:
//   4 bits: 64 words of 32 bits, word 16 q + row = codes of columns 8 q + 2 p + j in bits 4 p + 16 j;
//           then 16 scales and 16 offsets in fp16: weight = scale x code + offset;
//   8 bits: byte 32 p + 2 row + j = signed code of column 2 p + j; then 16 scales in fp16;
//   16 bits: word 32 p + 2 row + j = weight of column 2 p + j in bf16.
// Codes meet activations in 16 bits, one scale for 32 of them: a block's sum is exact in int32, and its error is
// 2^-16 of the largest activation, where bf16 leaves 2^-9 of each. Activations in 8 bits, as llama.cpp has them,
// lost a chat model's answers: 9 % off the logits after a chat template, of which bf16 loses 1 %.
//
// Every output is summed in one order, whatever else is in the batch and however many threads run.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <memory>

#include "team.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace {

constexpr int LANES = 16, BLOCK = 32;
constexpr int64_t FOUR = 320, EIGHT = 544, SIXTEEN = 1024;  // bytes of a block

float wide(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

uint16_t narrow(float x) {  // to bf16, to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return x == x ? uint16_t(rounded) : uint16_t(0x7fc0);
}

float exponential(float x) {  // Cody and Waite's reduction, Taylor's terms up to the sixth: 2e-7 relative
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
    int64_t groups, width, bits;  // of 16 rows; columns; 4, 8 or 16
    const uint8_t* blocks;
};

// Rows of activations, as the matrix that reads them needs them: codes with a scale and a sum for every 32, or
// values.
class Rows {
    int64_t width;
    std::unique_ptr<int16_t[]> codes;
    std::unique_ptr<Real[]> values;
    std::unique_ptr<float[]> scales, sums;

  public:
    Rows(int64_t count, int64_t width)
        : width(width), codes(new int16_t[count * width]), values(new Real[count * width]),
          scales(new float[count * (width / BLOCK)]), sums(new float[count * (width / BLOCK)]) {}

    const int16_t* code(int64_t i) const { return codes.get() + i * width; }
    const Real* value(int64_t i) const { return values.get() + i * width; }
    const float* scale(int64_t i) const { return scales.get() + i * (width / BLOCK); }
    const float* sum(int64_t i) const { return sums.get() + i * (width / BLOCK); }

    void put(const Matrix& reader, int64_t i, int64_t block, const float* x) {  // 32 of them
        const int64_t first = i * width + block * BLOCK, at = i * (width / BLOCK) + block;
        if (reader.bits == 16) {
            for (int k = 0; k < BLOCK; ++k) values[first + k] = real(x[k]);
            return;
        }
        int32_t bits[BLOCK], most = 0, total = 0;  // magnitudes order like their bits, infinity and NaN last
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
        scales[at] = most < 0x7f800000 ? largest / 32767 : NAN;  // damage must show in the logits
        sums[at] = scales[at] * float(total);
    }
};

template <int T>
ALWAYS_INLINE void four(const uint8_t* at, const int16_t* const* x, int64_t block, Ints* sum) {
    for (int q = 0; q < 4; ++q) {
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) {
            const Codes codes = nibbles(at + 64 * q, p);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) sum[t] = dot(sum[t], x[t] + BLOCK * block + 8 * q + 2 * p, codes);
        }
    }
}

template <int T>
ALWAYS_INLINE void eight(const uint8_t* at, const int16_t* const* x, int64_t block, Ints* sum) {
    for (int p = 0; p < 16; ++p) {
        const Codes codes = bytes(at + 32 * p);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum[t] = dot(sum[t], x[t] + BLOCK * block + 2 * p, codes);
    }
}

template <int T>
ALWAYS_INLINE void sixteen(const uint8_t* at, const Real* const* x, int64_t block, Lanes* sum) {
    for (int p = 0; p < 16; ++p) {
        const Wide weights = columns((const uint16_t*)(at + 64 * p));
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum[t] = dot(sum[t], twice(x[t] + BLOCK * block + 2 * p), weights);
    }
}

// 16 rows of a matrix times T <= MOST rows of activations from `first` on, to out[t][16], `stride` floats apart.
// Never inlined: it would be compiled twice, in 3.6 s instead of 1.6.
template <int T>
__attribute__((noinline)) void multiply(const Matrix& m, int64_t group, const Rows& rows, int64_t first, float* out,
                                        int64_t stride) {
    const int64_t blocks = m.width / BLOCK, bytes = m.bits == 4 ? FOUR : (m.bits == 8 ? EIGHT : SIXTEEN);
    const uint8_t* at = m.blocks + group * blocks * bytes;
    const int16_t* codes[T];
    const Real* values[T];
    const float *scales[T], *sums[T];
    Lanes total[T];
    for (int t = 0; t < T; ++t) {
        codes[t] = rows.code(first + t), values[t] = rows.value(first + t);
        scales[t] = rows.scale(first + t), sums[t] = rows.sum(first + t);
        total[t] = all(0);
    }
    for (int64_t b = 0; b < blocks; ++b, at += bytes) {
        if (m.bits == 16) {
            sixteen<T>(at, values, b, total);
            continue;
        }
        Ints sum[T];
        for (int t = 0; t < T; ++t) sum[t] = none();
        if (m.bits == 4) {
            four<T>(at, codes, b, sum);
            const Lanes scale = halves(at + 256), low = halves(at + 288);
            for (int t = 0; t < T; ++t)
                total[t] = fma(scale, times(lanes(sum[t]), all(scales[t][b])),
                               fma(low, all(sums[t][b]), total[t]));
        } else {
            eight<T>(at, codes, b, sum);
            const Lanes scale = halves(at + 512);
            for (int t = 0; t < T; ++t)
                total[t] = fma(scale, times(lanes(sum[t]), all(scales[t][b])), total[t]);
        }
    }
    for (int t = 0; t < T; ++t) store(out + t * stride, total[t]);
}

template <int T = MOST>
void some(const Matrix& m, int64_t group, const Rows& rows, int64_t first, int64_t count, float* out,
          int64_t stride) {
    if (count == T) return multiply<T>(m, group, rows, first, out, stride);
    if constexpr (T > 1) some<T - 1>(m, group, rows, first, count, out, stride);
}

// A whole product, to out [count, 16 x groups]; adds where that is asked. Called by all threads of a team.
void product(const Member& me, const Matrix& m, const Rows& rows, int64_t count, float* out, bool add) {
    const int64_t stride = m.groups * LANES;
    me.each(m.groups, [&](int64_t g) {
        for (int64_t first = 0; first < count; first += MOST) {
            const int64_t n = count - first < MOST ? count - first : MOST;
            float part[MOST * LANES];
            some(m, g, rows, first, n, part, LANES);
            for (int64_t t = 0; t < n; ++t) {
                float* to = out + (first + t) * stride + g * LANES;
                for (int i = 0; i < LANES; ++i) to[i] = add ? to[i] + part[t * LANES + i] : part[t * LANES + i];
            }
        }
    });
}

// silu(gate) x up, 32 columns at a time: what the product after it, by `reader`, reads as one block.
void gated(const Member& me, const Matrix& m, const Matrix& reader, const Rows& rows, int64_t count, Rows& out) {
    const int64_t half = m.groups / 2;
    me.each(half / 2, [&](int64_t unit) {
        for (int64_t first = 0; first < count; first += MOST) {
            const int64_t n = count - first < MOST ? count - first : MOST;
            float gate[MOST * BLOCK], up[MOST * BLOCK];
            for (int side = 0; side < 2; ++side) {
                some(m, 2 * unit + side, rows, first, n, gate + side * LANES, BLOCK);
                some(m, half + 2 * unit + side, rows, first, n, up + side * LANES, BLOCK);
            }
            for (int64_t i = 0; i < n * BLOCK; ++i) gate[i] = gate[i] / (1 + exponential(-gate[i])) * up[i];
            for (int64_t t = 0; t < n; ++t) out.put(reader, first + t, unit, gate + t * BLOCK);
        }
    });
}

}  // namespace
