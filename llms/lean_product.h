// Products of packed weights and rows of activations.
//
// Weights of 16 rows lie side by side, so that a vector register holds one pair of columns of all of them and
// no sum runs across it. A block is 32 columns of 16 rows:
//   4 bits: 64 words of 32 bits, word 16 q + row = codes of columns 8 q + 2 p + j in bits 4 p + 16 j;
//           then 16 scales and 16 offsets in fp16: weight = scale x code + offset;
//   8 bits: byte 32 p + 2 row + j = signed code of column 2 p + j; then 16 scales in fp16;
//   16 bits: word 32 p + 2 row + j = weight of column 2 p + j in bf16.
// Codes are small integers, which bf16 holds exactly; products are summed in fp32 and scaled once a block.
// Activations in 8 bits (one scale for 32, as llama.cpp has them) took 0.6 of the time of a prompt's products,
// and lost a chat model's answers: 9 % off the logits after a chat template, of which bf16 loses 1 %.
//
// Every output is summed in one order, whatever else is in the batch and however many threads run.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <vector>

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace {

constexpr int LANES = 16, BLOCK = 32, MOST = 8;
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

// Rows of activations, as a product reads them: values, and the sum of every 32 of them.
struct Rows {
    int64_t width;
    std::vector<uint16_t> values;
    std::vector<float> sums;
    Rows(int64_t count, int64_t width) : width(width), values(count * width), sums(count * (width / BLOCK)) {}
    uint16_t* row(int64_t i) { return values.data() + i * width; }
    float* sum(int64_t i) { return sums.data() + i * (width / BLOCK); }
    void put(int64_t i, int64_t block, const float* x) {  // 32 of them
        uint16_t* to = row(i) + block * BLOCK;
        float total = 0;
        for (int k = 0; k < BLOCK; ++k) to[k] = narrow(x[k]);
        for (int k = 0; k < BLOCK; ++k) total += wide(to[k]);
        sum(i)[block] = total;
    }
};

__m512 halves(const uint8_t* from) {  // 16 of fp16
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
}

__m512i pair(const uint16_t* x, int64_t at) {
    int32_t two;
    std::memcpy(&two, x + 2 * at, 4);
    return _mm512_set1_epi32(two);
}

alignas(64) const uint16_t NIBBLES[32] = {  // 0 to 15 in bf16, twice: bits above the nibble's are ignored
    0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150,
    0x4160, 0x4170, 0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100, 0x4110, 0x4120, 0x4130,
    0x4140, 0x4150, 0x4160, 0x4170};

template <int T>
ALWAYS_INLINE void four(const uint8_t* codes, const uint16_t* const* x, int64_t block, __m512* sum) {
    const __m512i table = _mm512_load_si512(NIBBLES);
    for (int q = 0; q < 4; ++q) {
        const __m512i words = _mm512_loadu_si512(codes + 64 * q);
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) {
            const __m512bh w = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4 * p), table);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t)
                sum[t] = _mm512_dpbf16_ps(sum[t], w, (__m512bh)pair(x[t], 16 * block + 4 * q + p));
        }
    }
}

template <int T>
ALWAYS_INLINE void eight(const uint8_t* codes, const uint16_t* const* x, int64_t block, __m512* sum) {
    for (int p = 0; p < 16; ++p) {
        const __m128i *at = (const __m128i*)(codes + 32 * p);
        const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at)));
        const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at + 1)));
        const __m512bh w = _mm512_cvtne2ps_pbh(high, low);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum[t] = _mm512_dpbf16_ps(sum[t], w, (__m512bh)pair(x[t], 16 * block + p));
    }
}

template <int T>
ALWAYS_INLINE void sixteen(const uint8_t* weights, const uint16_t* const* x, int64_t block, __m512* sum) {
    for (int p = 0; p < 16; ++p) {
        const __m512bh w = (__m512bh)_mm512_loadu_si512(weights + 64 * p);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum[t] = _mm512_dpbf16_ps(sum[t], w, (__m512bh)pair(x[t], 16 * block + p));
    }
}

struct Matrix {
    int64_t groups, width, bits;  // of 16 rows; columns; 4, 8 or 16
    const uint8_t* blocks;
};

// 16 rows of a matrix times T <= 8 rows of activations from `first` on, to out[t][16], `stride` floats apart.
template <int T>
void multiply(const Matrix& m, int64_t group, Rows& rows, int64_t first, float* out, int64_t stride) {
    const int64_t blocks = m.width / BLOCK, bytes = m.bits == 4 ? FOUR : (m.bits == 8 ? EIGHT : SIXTEEN);
    const uint8_t* at = m.blocks + group * blocks * bytes;
    const uint16_t* x[T];
    const float* sums[T];
    __m512 total[T], sum[T];
    for (int t = 0; t < T; ++t) {
        x[t] = rows.row(first + t), sums[t] = rows.sum(first + t);
        total[t] = _mm512_setzero_ps();
    }
    for (int64_t b = 0; b < blocks; ++b, at += bytes) {
        for (int t = 0; t < T; ++t) sum[t] = _mm512_setzero_ps();
        if (m.bits == 4) {
            four<T>(at, x, b, sum);
            const __m512 scale = halves(at + 256), low = halves(at + 288);
            for (int t = 0; t < T; ++t)
                total[t] = _mm512_fmadd_ps(low, _mm512_set1_ps(sums[t][b]),
                                           _mm512_fmadd_ps(scale, sum[t], total[t]));
        } else if (m.bits == 8) {
            eight<T>(at, x, b, sum);
            const __m512 scale = halves(at + 512);
            for (int t = 0; t < T; ++t) total[t] = _mm512_fmadd_ps(scale, sum[t], total[t]);
        } else {
            sixteen<T>(at, x, b, sum);
            for (int t = 0; t < T; ++t) total[t] = _mm512_add_ps(total[t], sum[t]);
        }
    }
    for (int t = 0; t < T; ++t) _mm512_storeu_ps(out + t * stride, total[t]);
}

void some(const Matrix& m, int64_t group, Rows& rows, int64_t first, int64_t count, float* out, int64_t stride) {
    switch (count) {
        case 1: return multiply<1>(m, group, rows, first, out, stride);
        case 2: return multiply<2>(m, group, rows, first, out, stride);
        case 3: return multiply<3>(m, group, rows, first, out, stride);
        case 4: return multiply<4>(m, group, rows, first, out, stride);
        case 5: return multiply<5>(m, group, rows, first, out, stride);
        case 6: return multiply<6>(m, group, rows, first, out, stride);
        case 7: return multiply<7>(m, group, rows, first, out, stride);
        default: return multiply<8>(m, group, rows, first, out, stride);
    }
}

// A whole product, to out [count, 16 x groups]; adds where that is asked. Called by all threads of a team.
void product(const Matrix& m, Rows& rows, int64_t count, float* out, bool add) {
    const int64_t stride = m.groups * LANES;
#pragma omp for schedule(static)
    for (int64_t g = 0; g < m.groups; ++g)
        for (int64_t first = 0; first < count; first += MOST) {
            const int64_t n = count - first < MOST ? count - first : MOST;
            float part[MOST * LANES];
            some(m, g, rows, first, n, part, LANES);
            for (int64_t t = 0; t < n; ++t) {
                float* to = out + (first + t) * stride + g * LANES;
                for (int i = 0; i < LANES; ++i) to[i] = add ? to[i] + part[t * LANES + i] : part[t * LANES + i];
            }
        }
}

// silu(gate) x up, 32 columns at a time: what the product after it reads as one block.
void gated(const Matrix& m, Rows& rows, int64_t count, Rows& out) {
    const int64_t half = m.groups / 2;
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < half / 2; ++unit)
        for (int64_t first = 0; first < count; first += MOST) {
            const int64_t n = count - first < MOST ? count - first : MOST;
            float gate[MOST * BLOCK], up[MOST * BLOCK];
            for (int side = 0; side < 2; ++side) {
                some(m, 2 * unit + side, rows, first, n, gate + side * LANES, BLOCK);
                some(m, half + 2 * unit + side, rows, first, n, up + side * LANES, BLOCK);
            }
            for (int64_t i = 0; i < n * BLOCK; ++i) gate[i] = gate[i] / (1 + exponential(-gate[i])) * up[i];
            for (int64_t t = 0; t < n; ++t) out.put(first + t, unit, gate + t * BLOCK);
        }
}

}  // namespace
