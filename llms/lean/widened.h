// What `product.h` needs for weights in bf16, of any set that cannot multiply them: both columns of a pair are
// widened to fp32. The set before it has `Lanes`; after it, `columns` makes a `Wide` of 32 words.

#pragma once

namespace {

using Real = float;

struct Wide {
    Lanes even, odd;
};
using Pairs = Wide;

ALWAYS_INLINE Real real(float x) { return x; }

ALWAYS_INLINE Pairs pairs(const float* x) {
    float even[LANES], odd[LANES];
    for (int i = 0; i < LANES; ++i) even[i] = x[2 * i], odd[i] = x[2 * i + 1];
    return {load(even), load(odd)};
}

ALWAYS_INLINE Pairs twice(const Real* two) { return {all(two[0]), all(two[1])}; }

ALWAYS_INLINE Lanes dot(Lanes sum, Pairs x, Wide weights) {
    return fma(x.odd, weights.odd, fma(x.even, weights.even, sum));
}

}  // namespace
