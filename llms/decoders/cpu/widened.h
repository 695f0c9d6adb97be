// What `matmul.h` needs for weights in bf16 if the instruction set cannot multiply them: both columns of a pair are
// widened to fp32. The set's header defines `Lanes` before it includes this file, and `load_columns` after it.

#pragma once

namespace {

using Real = float;

struct Wide {
    Lanes even, odd;
};
using Pairs = Wide;

ALWAYS_INLINE Real to_real(float x) { return x; }

ALWAYS_INLINE Pairs pair_up(const float* x) {
    float even[LANES], odd[LANES];
    for (int i = 0; i < LANES; ++i) even[i] = x[2 * i], odd[i] = x[2 * i + 1];
    return {load(even), load(odd)};
}

ALWAYS_INLINE Pairs broadcast_pair(const Real* two) { return {broadcast(two[0]), broadcast(two[1])}; }

ALWAYS_INLINE Lanes dot(Lanes sum, Pairs x, Wide weights) {
    return fma(x.odd, weights.odd, fma(x.even, weights.even, sum));
}

}  // namespace
