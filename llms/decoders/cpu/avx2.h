// What `matmul.h` needs, with AVX2, FMA and F16C: two registers hold 16 lanes.

#pragma once

#include <immintrin.h>

namespace {

constexpr int MAX_ROWS = 4;  // rows of activations at once; their sums fill half of the 16 registers

struct Lanes {
    __m256 low, high;
};

ALWAYS_INLINE Lanes broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
ALWAYS_INLINE Lanes load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }

ALWAYS_INLINE void store(float* to, Lanes x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
}

ALWAYS_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

ALWAYS_INLINE Lanes fma_negated(Lanes a, Lanes b, Lanes c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}

ALWAYS_INLINE Lanes multiply_lanes(Lanes a, Lanes b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

ALWAYS_INLINE Lanes divide(Lanes a, Lanes b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}

ALWAYS_INLINE Lanes load_fp16(const uint8_t* from) {  // 16 numbers in fp16
    const __m128i* at = (const __m128i*)from;
    return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
}

ALWAYS_INLINE __m256 load_bf16_8(const uint16_t* from) {
    return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from)), 16);
}

ALWAYS_INLINE Lanes load_bf16(const uint16_t* from) { return {load_bf16_8(from), load_bf16_8(from + 8)}; }

ALWAYS_INLINE __m256 sum_lanes_8(const Lanes* part) {
    __m256 one[8], two[4];
    for (int i = 0; i < 8; ++i) one[i] = _mm256_add_ps(part[i].low, part[i].high);
    for (int i = 0; i < 4; ++i) two[i] = _mm256_hadd_ps(one[2 * i], one[2 * i + 1]);
    const __m256 a = _mm256_hadd_ps(two[0], two[1]), b = _mm256_hadd_ps(two[2], two[3]);
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

// Returns the sum of the lanes of each of 16 values.
ALWAYS_INLINE Lanes sum_lanes(const Lanes* part) { return {sum_lanes_8(part), sum_lanes_8(part + 8)}; }

struct Ints {
    __m256i low, high;
};
using Codes = Ints;

ALWAYS_INLINE Ints zero_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
ALWAYS_INLINE Lanes to_float(Ints x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }

float from_fp16(uint16_t x) { return _cvtsh_ss(x); }
uint16_t to_fp16(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

ALWAYS_INLINE Ints load_ints(const uint8_t* from) {
    return {_mm256_loadu_si256((const __m256i*)from), _mm256_loadu_si256((const __m256i*)from + 1)};
}

ALWAYS_INLINE Ints broadcast_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }

ALWAYS_INLINE Ints and_bytes(Ints x, char mask) {
    const __m256i all = _mm256_set1_epi8(mask);
    return {_mm256_and_si256(x.low, all), _mm256_and_si256(x.high, all)};
}

ALWAYS_INLINE Ints or_ints(Ints a, Ints b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}

ALWAYS_INLINE Ints shift_down(Ints x, int bits) {
    return {_mm256_srli_epi16(x.low, bits), _mm256_srli_epi16(x.high, bits)};
}

ALWAYS_INLINE Ints shift_up(Ints x, int bits) {
    return {_mm256_slli_epi16(x.low, bits), _mm256_slli_epi16(x.high, bits)};
}

// Returns byte `i` of each of 16 words.
ALWAYS_INLINE Ints byte_of(Ints x, int i) {
    const __m256i byte = _mm256_set1_epi32(255);
    return {_mm256_and_si256(_mm256_srli_epi32(x.low, 8 * i), byte),
            _mm256_and_si256(_mm256_srli_epi32(x.high, 8 * i), byte)};
}

ALWAYS_INLINE Ints load_signed_bytes(const uint8_t* from) {  // 16 of them
    const __m128i all = _mm_loadu_si128((const __m128i*)from);
    return {_mm256_cvtepi8_epi32(all), _mm256_cvtepi8_epi32(_mm_srli_si128(all, 8))};
}

// Adds the products of four unsigned codes below 64 of each of 16 rows with four activations; a pair of products fits
// in 16 bits.
ALWAYS_INLINE Ints dot_quads(Ints sum, Ints codes, const int8_t* four) {
    int32_t word;
    std::memcpy(&word, four, 4);
    const __m256i x = _mm256_set1_epi32(word), one = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(_mm256_maddubs_epi16(codes.low, x), one)),
            _mm256_add_epi32(sum.high, _mm256_madd_epi16(_mm256_maddubs_epi16(codes.high, x), one))};
}

ALWAYS_INLINE __m256i int4_codes_8(const uint8_t* words, int p) {
    const __m256i shifted = _mm256_srli_epi16(_mm256_loadu_si256((const __m256i*)words), 4 * p);
    return p == 3 ? shifted : _mm256_and_si256(shifted, _mm256_set1_epi16(15));
}

ALWAYS_INLINE Codes int4_codes(const uint8_t* words, int p) {
    return {int4_codes_8(words, p), int4_codes_8(words + 32, p)};
}

ALWAYS_INLINE Codes int8_codes(const uint8_t* from) {
    const __m128i* at = (const __m128i*)from;
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(at)), _mm256_cvtepi8_epi16(_mm_loadu_si128(at + 1))};
}

ALWAYS_INLINE Ints dot(Ints sum, const int16_t* two, Codes codes) {
    int32_t pair;
    std::memcpy(&pair, two, 4);
    const __m256i x = _mm256_set1_epi32(pair);
    sum.low = _mm256_add_epi32(sum.low, _mm256_madd_epi16(codes.low, x));
    sum.high = _mm256_add_epi32(sum.high, _mm256_madd_epi16(codes.high, x));
    asm("" : "+x"(sum.low), "+x"(sum.high));  // without this, g++ multiplies far ahead and spills registers: 1.2 times the time
    return sum;
}

}  // namespace

#include "widened.h"

namespace {

ALWAYS_INLINE Wide load_columns(const uint16_t* from) {
    const __m256i low = _mm256_loadu_si256((const __m256i*)from);
    const __m256i high = _mm256_loadu_si256((const __m256i*)from + 1);
    const __m256i upper = _mm256_set1_epi32(int32_t(0xffff0000));
    return {{(__m256)_mm256_slli_epi32(low, 16), (__m256)_mm256_slli_epi32(high, 16)},
            {(__m256)_mm256_and_si256(low, upper), (__m256)_mm256_and_si256(high, upper)}};
}

}  // namespace
