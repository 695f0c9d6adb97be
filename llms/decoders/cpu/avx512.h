// What `matmul.h` needs, with AVX-512 (F, BW, VNNI): one register holds 16 lanes.
//
// If the set includes BF16 (AMD from Zen 4 on, Intel from Cooper Lake on), one instruction multiplies weights in bf16;
// otherwise they are widened to fp32 first.

#pragma once

#include <immintrin.h>

namespace {

constexpr int MAX_ROWS = 8;  // rows of activations at once; their sums fill half of the 32 registers

using Lanes = __m512;

ALWAYS_INLINE Lanes broadcast(float x) { return _mm512_set1_ps(x); }
ALWAYS_INLINE Lanes load(const float* from) { return _mm512_loadu_ps(from); }
ALWAYS_INLINE void store(float* to, Lanes x) { _mm512_storeu_ps(to, x); }
ALWAYS_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
ALWAYS_INLINE Lanes multiply_lanes(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
ALWAYS_INLINE Lanes divide(Lanes a, Lanes b) { return _mm512_div_ps(a, b); }

ALWAYS_INLINE Lanes fma_negated(Lanes a, Lanes b, Lanes c) { return _mm512_fnmadd_ps(a, b, c); }

ALWAYS_INLINE Lanes load_fp16(const uint8_t* from) {  // 16 numbers in fp16
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
}

ALWAYS_INLINE Lanes load_bf16(const uint16_t* from) {  // 16 numbers in bf16
    return (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16);
}

// Returns the sum of the lanes of each of 16 registers.
ALWAYS_INLINE Lanes sum_lanes(const Lanes* part) {
    Lanes two[8], four[4];
    for (int i = 0; i < 8; ++i)
        two[i] = _mm512_add_ps(_mm512_unpacklo_ps(part[2 * i], part[2 * i + 1]),
                               _mm512_unpackhi_ps(part[2 * i], part[2 * i + 1]));
    for (int i = 0; i < 4; ++i) {
        const __m512d x = (__m512d)two[2 * i], y = (__m512d)two[2 * i + 1];
        four[i] = _mm512_add_ps((Lanes)_mm512_unpacklo_pd(x, y), (Lanes)_mm512_unpackhi_pd(x, y));
    }
    const Lanes a = _mm512_add_ps(_mm512_shuffle_f32x4(four[0], four[1], 0x44),
                                  _mm512_shuffle_f32x4(four[0], four[1], 0xee));
    const Lanes b = _mm512_add_ps(_mm512_shuffle_f32x4(four[2], four[3], 0x44),
                                  _mm512_shuffle_f32x4(four[2], four[3], 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

using Ints = __m512i;
using Codes = __m512i;

ALWAYS_INLINE Ints zero_ints() { return _mm512_setzero_si512(); }
ALWAYS_INLINE Lanes to_float(Ints x) { return _mm512_cvtepi32_ps(x); }

float from_fp16(uint16_t x) { return _cvtsh_ss(x); }
uint16_t to_fp16(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

ALWAYS_INLINE Ints load_ints(const uint8_t* from) { return _mm512_loadu_si512(from); }
ALWAYS_INLINE Ints broadcast_int(int32_t x) { return _mm512_set1_epi32(x); }
ALWAYS_INLINE Ints and_bytes(Ints x, char mask) { return _mm512_and_si512(x, _mm512_set1_epi8(mask)); }
ALWAYS_INLINE Ints or_ints(Ints a, Ints b) { return _mm512_or_si512(a, b); }
ALWAYS_INLINE Ints shift_down(Ints x, int bits) { return _mm512_srli_epi16(x, bits); }
ALWAYS_INLINE Ints shift_up(Ints x, int bits) { return _mm512_slli_epi16(x, bits); }

// Returns byte `i` of each of 16 words.
ALWAYS_INLINE Ints byte_of(Ints x, int i) { return _mm512_and_si512(_mm512_srli_epi32(x, 8 * i), broadcast_int(255)); }

ALWAYS_INLINE Ints load_signed_bytes(const uint8_t* from) {  // 16 of them
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from));
}

// Adds the products of four unsigned codes of each of 16 rows with four activations.
ALWAYS_INLINE Ints dot_quads(Ints sum, Ints codes, const int8_t* four) {
    int32_t word;
    std::memcpy(&word, four, 4);
    return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(word));
}

ALWAYS_INLINE Codes int4_codes(const uint8_t* words, int p) {
    return _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(words), 4 * p), _mm512_set1_epi16(15));
}

ALWAYS_INLINE Codes int8_codes(const uint8_t* from) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from));
}

ALWAYS_INLINE Ints dot(Ints sum, const int16_t* two, Codes codes) {
    int32_t pair;
    std::memcpy(&pair, two, 4);
    return _mm512_dpwssd_epi32(sum, codes, _mm512_set1_epi32(pair));
}

}  // namespace

#ifdef __AVX512BF16__

namespace {

using Real = uint16_t;
using Wide = __m512bh;
using Pairs = __m512bh;

ALWAYS_INLINE Real to_real(float x) { return to_bf16(x); }
ALWAYS_INLINE Wide load_columns(const uint16_t* from) { return (Wide)_mm512_loadu_si512(from); }
ALWAYS_INLINE Pairs pair_up(const float* x) { return _mm512_cvtne2ps_pbh(load(x + LANES), load(x)); }
ALWAYS_INLINE Lanes dot(Lanes sum, Pairs x, Wide weights) { return _mm512_dpbf16_ps(sum, weights, x); }

ALWAYS_INLINE Pairs broadcast_pair(const Real* two) {
    int32_t pair;
    std::memcpy(&pair, two, 4);
    return (Pairs)_mm512_set1_epi32(pair);
}

}  // namespace

#else

#include "widened.h"

namespace {

ALWAYS_INLINE Wide load_columns(const uint16_t* from) {
    const __m512i words = _mm512_loadu_si512(from);
    return {(Lanes)_mm512_slli_epi32(words, 16),
            (Lanes)_mm512_and_si512(words, _mm512_set1_epi32(int32_t(0xffff0000)))};
}

}  // namespace

#endif
