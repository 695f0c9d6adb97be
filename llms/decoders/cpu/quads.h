// Products of GGUF's 5- and 6-bit and K formats with rows of activations in 8 bits.
//
// Four columns of 16 rows meet four activations in one instruction. Each 32 activations share a scale. Blocks with an
// activation far larger than the token's others use a second byte for each, which is added in a pass of its own: after
// a chat's markers there are activations a thousand times larger than the rest, and 8 bits lose their neighbours.
// Which blocks these are depends on the token's own activations only, so a token has the same bits in any batch.

#pragma once

#include "gguf_blocks.h"

namespace {

constexpr float OUTLIER = 64;  // times the mean magnitude of a token's activations

// Rows of activations for quads.
class QuadRows {
    int64_t width;
    std::unique_ptr<int8_t[]> codes, fine;    // activation = scale x (code + fine / 256), where `fine` counts
    std::unique_ptr<float[]> scales, sums;    // for each 32; `sums` are those of the codes, times the scale
    std::unique_ptr<float[]> magnitudes;      // for each 32: the sum of the activations' magnitudes
    std::unique_ptr<int32_t[]> halves;        // sums of 16 codes
    std::unique_ptr<uint8_t[]> wide;          // for each 32: whether `fine` counts

  public:
    QuadRows(int64_t count, int64_t width)
        : width(width), codes(new int8_t[count * width]), fine(new int8_t[count * width]),
          scales(new float[count * (width / BLOCK)]), sums(new float[count * (width / BLOCK)]),
          magnitudes(new float[count * (width / BLOCK)]), halves(new int32_t[count * (width / 16)]), wide(new uint8_t[count * (width / BLOCK)]) {}

    const int8_t* code(int64_t i) const { return codes.get() + i * width; }
    const int8_t* rest(int64_t i) const { return fine.get() + i * width; }
    const float* scale(int64_t i) const { return scales.get() + i * (width / BLOCK); }
    const float* sum(int64_t i) const { return sums.get() + i * (width / BLOCK); }
    const int32_t* half(int64_t i) const { return halves.get() + i * (width / 16); }
    const uint8_t* is_wide(int64_t i) const { return wide.get() + i * (width / BLOCK); }

    void set_block(int64_t i, int64_t block, const float* x) {
        const int64_t first = i * width + block * BLOCK, at = i * (width / BLOCK) + block;
        int32_t bits[BLOCK], most = 0;
        std::memcpy(bits, x, sizeof bits);
        for (int k = 0; k < BLOCK; ++k) most = std::max(most, bits[k] & 0x7fffffff);
        float largest, total = 0;
        std::memcpy(&largest, &most, 4);
        const bool counts = largest > 1e-30f && most < 0x7f800000;
        for (int k = 0; k < BLOCK; ++k) total += std::fabs(x[k]);
        magnitudes[at] = total;
        const float step = counts ? 127 * 256 / largest : 0;
        int32_t half[2] = {0, 0};
        for (int k = 0; k < BLOCK; ++k) {
            const int32_t code = counts ? int32_t(std::nearbyint(x[k] * step)) : 0, upper = (code + 128) >> 8;
            codes[first + k] = int8_t(upper), fine[first + k] = int8_t(code - 256 * upper), half[k / 16] += upper;
        }
        scales[at] = most < 0x7f800000 ? largest / 127 : NAN;
        sums[at] = scales[at] * float(half[0] + half[1]);
        halves[2 * at] = half[0], halves[2 * at + 1] = half[1];
    }

    // Decides which blocks of a row are wide, once all of them are set.
    void finish(int64_t i) {
        const int64_t blocks = width / BLOCK;
        const float *scale = scales.get() + i * blocks, *magnitude = magnitudes.get() + i * blocks;
        float total = 0;
        for (int64_t b = 0; b < blocks; ++b) total += magnitude[b];
        const float most = OUTLIER / 127 * total / float(width);
        for (int64_t b = 0; b < blocks; ++b) wide[i * blocks + b] = scale[b] > most;
    }
};

// Quad `k` of 32 columns. EXTRA: bits of a code beyond 4.
template <int EXTRA>
ALWAYS_INLINE Ints quad_of(const uint8_t* at, int k) {
    const Ints word = load_ints(at + 64 * (k / 2));
    const Ints low = and_bytes(k % 2 ? shift_down(word, 4) : word, 15);
    if constexpr (EXTRA == 0) {
        return low;
    } else if constexpr (EXTRA == 1) {
        const Ints upper = load_ints(at + 256);
        return or_ints(low, and_bytes(k < 4 ? shift_up(upper, 4 - k) : shift_down(upper, k - 4), 16));
    } else {
        const Ints upper = load_ints(at + 256 + 64 * (k / 4));
        const int place = 2 * (k % 4);
        return or_ints(low, and_bytes(place < 4 ? shift_up(upper, 4 - place) : shift_down(upper, place - 4), 48));
    }
}

// Adds the products of quads FIRST to END - 1 of a block with the activations of T rows.
template <int EXTRA, int T, int FIRST = 0, int END = 8>
ALWAYS_INLINE void dot_block(const uint8_t* at, const int8_t* const* x, int64_t column, Ints* sum) {
#pragma GCC unroll 8
    for (int k = FIRST; k < END; ++k) {
        const Ints codes = quad_of<EXTRA>(at, k);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum[t] = dot_quads(sum[t], codes, x[t] + column + 4 * k);
    }
}

// The scales and offsets of 16 rows in one superblock of Q4_K or Q5_K.
struct ScalesK {
    Ints scale[2], low[2];  // four sub-blocks each, one in each byte
    Lanes d, dmin;

    ALWAYS_INLINE explicit ScalesK(const uint8_t* at) : d(load_fp16(at + 192)), dmin(load_fp16(at + 224)) {
        const Ints a = load_ints(at), b = load_ints(at + 64), c = load_ints(at + 128);
        scale[0] = and_bytes(a, 63), low[0] = and_bytes(b, 63);
        scale[1] = or_ints(and_bytes(c, 15), and_bytes(shift_down(a, 2), 48));
        low[1] = or_ints(and_bytes(shift_down(c, 4), 15), and_bytes(shift_down(b, 2), 48));
    }

    ALWAYS_INLINE Lanes of(int s) const { return multiply_lanes(to_float(byte_of(scale[s / 4], s % 4)), d); }
    ALWAYS_INLINE Lanes low_of(int s) const { return multiply_lanes(to_float(byte_of(low[s / 4], s % 4)), dmin); }
};

// What the products of one group with T rows of activations read and write.
template <int T>
struct QuadTile {
    const int8_t* x[T];
    const float *scales[T], *sums[T];
    const int32_t* halves[T];
    Lanes total[T];
};

// Adds block `b` to the sums. FINE: the activations are second bytes, with their own sums.
template <int64_t FORMAT, int T>
ALWAYS_INLINE void add_32(const uint8_t* at, int64_t b, QuadTile<T>& tile) {
    Ints sum[T];
    for (int t = 0; t < T; ++t)
        sum[t] = FORMAT == QUADS_5_0 ? broadcast_int(-16 * (tile.halves[t][2 * b] + tile.halves[t][2 * b + 1]))
                                     : zero_ints();
    dot_block<1, T>(at, tile.x, BLOCK * b, sum);
    const Lanes scale = load_fp16(at + 320);
    for (int t = 0; t < T; ++t)
        tile.total[t] = fma(multiply_lanes(scale, broadcast(tile.scales[t][b])), to_float(sum[t]), tile.total[t]);
    if (FORMAT == QUADS_5_1) {
        const Lanes low = load_fp16(at + 352);
        for (int t = 0; t < T; ++t) tile.total[t] = fma(low, broadcast(tile.sums[t][b]), tile.total[t]);
    }
}

template <int EXTRA, int T>
ALWAYS_INLINE void add_k(const uint8_t* at, const ScalesK& scales, int s, int64_t b, QuadTile<T>& tile) {
    Ints sum[T];
    for (int t = 0; t < T; ++t) sum[t] = zero_ints();
    dot_block<EXTRA, T>(at, tile.x, BLOCK * b, sum);
    const Lanes scale = scales.of(s), low = scales.low_of(s);
    for (int t = 0; t < T; ++t) {
        tile.total[t] = fma(multiply_lanes(scale, broadcast(tile.scales[t][b])), to_float(sum[t]), tile.total[t]);
        tile.total[t] = fma_negated(low, broadcast(tile.sums[t][b]), tile.total[t]);
    }
}

template <int H, int T>
ALWAYS_INLINE void add_6_k_half(const uint8_t* at, const uint8_t* scale, Lanes d, int64_t b, QuadTile<T>& tile) {
    Ints sum[T];
    for (int t = 0; t < T; ++t) sum[t] = broadcast_int(-32 * tile.halves[t][2 * b + H]);
    dot_block<2, T, 4 * H, 4 * H + 4>(at, tile.x, BLOCK * b, sum);
    const Lanes factor = multiply_lanes(to_float(load_signed_bytes(scale + 16 * H)), d);
    for (int t = 0; t < T; ++t)
        tile.total[t] = fma(multiply_lanes(factor, broadcast(tile.scales[t][b])), to_float(sum[t]), tile.total[t]);
}

// Adds the blocks from `first` to `end` - 1 of a group, which starts at `group`.
template <int64_t FORMAT, int T>
ALWAYS_INLINE void add_blocks(const uint8_t* group, int64_t first, int64_t end, QuadTile<T>& tile) {
    if constexpr (FORMAT == QUADS_5_0 || FORMAT == QUADS_5_1) {
        constexpr int64_t size = FORMAT == QUADS_5_0 ? 352 : 384;
        const uint8_t* at = group + first * size;
        for (int64_t b = first; b < end; ++b, at += size) {
            prefetch(at + AHEAD, size);
            add_32<FORMAT, T>(at, b, tile);
        }
    } else {
        constexpr int extra = FORMAT == QUADS_4_K ? 0 : (FORMAT == QUADS_5_K ? 1 : 2);
        constexpr int64_t codes = 256 + 64 * extra, size = FORMAT == QUADS_6_K ? 3360 : 8 * codes + 256;
        for (int64_t b = first; b < end;) {
            const uint8_t *at = group + b / 8 * size, *scales = at + 8 * codes;
            const int64_t stop = std::min(end, (b / 8 + 1) * 8);
            if constexpr (FORMAT == QUADS_6_K) {
                const Lanes d = load_fp16(scales + 256);
                for (; b < stop; ++b) {
                    const int64_t s = b % 8;
                    prefetch(at + codes * s + AHEAD, codes + 32);
                    add_6_k_half<0, T>(at + codes * s, scales + 32 * s, d, b, tile);
                    add_6_k_half<1, T>(at + codes * s, scales + 32 * s, d, b, tile);
                }
            } else {
                const ScalesK all(scales);
                for (; b < stop; ++b) {
                    const int s = int(b % 8);
                    prefetch(at + codes * s + AHEAD, codes + 32);
                    add_k<extra, T>(at + codes * s, all, s, b, tile);
                }
            }
        }
    }
}

// Multiplies 16 rows of a matrix by T rows of activations from `first` on, into out[t][16], `stride` floats apart.
template <int64_t FORMAT, int T>
__attribute__((noinline)) void multiply_quads(const Matrix& m, int64_t group, const QuadRows& rows, int64_t first,
                                              float* out, int64_t stride) {
    const uint8_t* at = m.blocks + group * m.stride();
    const int64_t blocks = m.width / BLOCK;
    QuadTile<T> tile;
    for (int t = 0; t < T; ++t) {
        tile.x[t] = rows.code(first + t), tile.scales[t] = rows.scale(first + t);
        tile.sums[t] = rows.sum(first + t), tile.halves[t] = rows.half(first + t);
        tile.total[t] = broadcast(0);
    }
    add_blocks<FORMAT, T>(at, 0, blocks, tile);
    for (int t = 0; t < T; ++t) store(out + t * stride, tile.total[t]);
}

// Adds the second bytes of one row's wide blocks to its products.
template <int64_t FORMAT>
__attribute__((noinline)) void add_wide(const Matrix& m, int64_t group, const QuadRows& rows, int64_t i, float* out) {
    const uint8_t *wide = rows.is_wide(i), *at = m.blocks + group * m.stride();
    const int64_t blocks = m.width / BLOCK;
    for (int64_t b = 0; b < blocks; ++b) {
        const void* next = std::memchr(wide + b, 1, size_t(blocks - b));
        if (!next) break;
        b = (const uint8_t*)next - wide;
        const int8_t* fine = rows.rest(i) + BLOCK * b;
        int32_t half[2] = {0, 0};
        for (int k = 0; k < BLOCK; ++k) half[k / 16] += fine[k];
        const float scale = rows.scale(i)[b] / 256, sum = scale * float(half[0] + half[1]);
        // The tile's pointers are set so that its element b is this block's.
        QuadTile<1> tile{{rows.rest(i)}, {&scale - b}, {&sum - b}, {half - 2 * b}, {load(out)}};
        add_blocks<FORMAT, 1>(at, b, b + 1, tile);
        store(out, tile.total[0]);
    }
}

template <int64_t FORMAT, int T = MAX_ROWS>
void multiply_quad_rows(const Matrix& m, int64_t group, const QuadRows& rows, int64_t first, int64_t count, float* out,
                        int64_t stride) {
    if (count == T) return multiply_quads<FORMAT, T>(m, group, rows, first, out, stride);
    if constexpr (T > 1) multiply_quad_rows<FORMAT, T - 1>(m, group, rows, first, count, out, stride);
}

template <int64_t FORMAT>
void multiply_all(const Matrix& m, int64_t group, const QuadRows& rows, int64_t first, int64_t count, float* out,
                  int64_t stride) {
    multiply_quad_rows<FORMAT>(m, group, rows, first, count, out, stride);
    for (int64_t t = 0; t < count; ++t) add_wide<FORMAT>(m, group, rows, first + t, out + t * stride);
}

}  // namespace
