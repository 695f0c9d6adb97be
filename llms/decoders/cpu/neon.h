// What `matmul.h` needs, written with the compiler's vectors of 64 bytes and, for products of quads, NEON's dot
// products. It compiles for 64-bit ARM (ARMv8.2 with dotprod). Without these it compiles for any CPU.

#pragma once

#ifdef __ARM_FEATURE_DOTPROD
#include <arm_neon.h>
#endif

namespace {

constexpr int MAX_ROWS = 4;  // rows of activations at once; their sums fill 16 of the 32 registers

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Shorts __attribute__((vector_size(64)));
typedef int16_t Codes __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(64)));

template <typename T, typename From>
ALWAYS_INLINE T loaded(const From* from) {
    T x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

ALWAYS_INLINE Lanes broadcast(float x) { return x - Lanes{}; }
ALWAYS_INLINE Lanes load(const float* from) { return loaded<Lanes>(from); }
ALWAYS_INLINE void store(float* to, Lanes x) { std::memcpy(to, &x, sizeof x); }
ALWAYS_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) { return a * b + c; }
ALWAYS_INLINE Lanes fma_negated(Lanes a, Lanes b, Lanes c) { return c - a * b; }
ALWAYS_INLINE Lanes multiply_lanes(Lanes a, Lanes b) { return a * b; }
ALWAYS_INLINE Lanes divide(Lanes a, Lanes b) { return a / b; }

#ifdef __aarch64__
using Half = __fp16;
#else
using Half = _Float16;
#endif

ALWAYS_INLINE Lanes load_fp16(const uint8_t* from) {  // 16 numbers in fp16
    Half halves[LANES];
    float found[LANES];
    std::memcpy(halves, from, sizeof halves);
    for (int i = 0; i < LANES; ++i) found[i] = float(halves[i]);
    return load(found);
}

ALWAYS_INLINE Lanes load_bf16(const uint16_t* from) {  // 16 numbers in bf16
    typedef uint16_t Upper __attribute__((vector_size(32)));
    return (Lanes)(__builtin_convertvector(loaded<Upper>(from), Words) << 16);
}

// Returns the sum of the lanes of each of 16 values.
ALWAYS_INLINE Lanes sum_lanes(const Lanes* part) {
    Lanes found;
    for (int i = 0; i < LANES; ++i) {
        float sum[8];
        for (int k = 0; k < 8; ++k) sum[k] = part[i][k] + part[i][k + 8];
        for (int k = 0; k < 4; ++k) sum[k] += sum[k + 4];
        found[i] = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    }
    return found;
}

ALWAYS_INLINE Ints zero_ints() { return Ints{}; }
ALWAYS_INLINE Ints broadcast_int(int32_t x) { return x - Ints{}; }
ALWAYS_INLINE Lanes to_float(Ints x) { return __builtin_convertvector(x, Lanes); }
ALWAYS_INLINE Ints load_ints(const uint8_t* from) { return loaded<Ints>(from); }
ALWAYS_INLINE Ints and_bytes(Ints x, uint8_t mask) { return (Ints)((Bytes)x & mask); }
ALWAYS_INLINE Ints or_ints(Ints a, Ints b) { return a | b; }
ALWAYS_INLINE Ints shift_down(Ints x, int bits) { return (Ints)((Shorts)x >> bits); }
ALWAYS_INLINE Ints shift_up(Ints x, int bits) { return (Ints)((Shorts)x << bits); }
ALWAYS_INLINE Ints byte_of(Ints x, int i) { return (Ints)((Words)x >> (8 * i)) & 255; }

ALWAYS_INLINE Ints load_signed_bytes(const uint8_t* from) {  // 16 of them
    typedef int8_t Signed __attribute__((vector_size(16)));
    return __builtin_convertvector(loaded<Signed>(from), Ints);
}

// Adds the products of four codes below 64 of each of 16 rows with four activations.
ALWAYS_INLINE Ints dot_quads(Ints sum, Ints codes, const int8_t* four) {
#ifdef __ARM_FEATURE_DOTPROD
    int32_t word;
    std::memcpy(&word, four, 4);
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(word));
    int8x16_t part[4];
    int32x4_t total[4];
    std::memcpy(part, &codes, sizeof part);
    std::memcpy(total, &sum, sizeof total);
    for (int i = 0; i < 4; ++i) total[i] = vdotq_s32(total[i], part[i], x);
    std::memcpy(&sum, total, sizeof sum);
    return sum;
#else
    for (int i = 0; i < 4; ++i) sum += byte_of(codes, i) * int32_t(four[i]);
    return sum;
#endif
}

ALWAYS_INLINE Codes int4_codes(const uint8_t* words, int p) { return (Codes)((loaded<Shorts>(words) >> (4 * p)) & 15); }

ALWAYS_INLINE Codes int8_codes(const uint8_t* from) {
    typedef int8_t Signed __attribute__((vector_size(32)));
    return __builtin_convertvector(loaded<Signed>(from), Codes);
}

ALWAYS_INLINE Ints dot(Ints sum, const int16_t* two, Codes codes) {
    const Ints pairs = (Ints)codes;
    return sum + ((pairs << 16) >> 16) * int32_t(two[0]) + (pairs >> 16) * int32_t(two[1]);
}

float from_fp16(uint16_t x) {
    Half half;
    std::memcpy(&half, &x, 2);
    return float(half);
}

uint16_t to_fp16(float x) {
    const Half half = Half(x);
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}

}  // namespace

#include "widened.h"

namespace {

ALWAYS_INLINE Wide load_columns(const uint16_t* from) {
    const Words words = loaded<Words>(from);
    return {(Lanes)(words << 16), (Lanes)(words & 0xffff0000u)};
}

}  // namespace
