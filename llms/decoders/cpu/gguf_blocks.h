// GGUF's blocks: what the bytes of a row mean, and how 16 rows become the blocks that the products read.
//
// `Format` says how packed blocks are laid out. A packed matrix has exactly as many bytes as its rows in the file.
// "Quads" are 64 bytes with four columns of 16 rows: byte 4 row + j is column j. Blocks of 32 columns start with
// their codes: 256 bytes in 4 chunks, whose low nibbles are quad 2 c and whose high nibbles are quad 2 c + 1, and then
//   Q5: 64 bytes, whose bit k is the fifth bit of quad k;
//   Q6: 2 x 64 bytes, whose bits 2 (k % 4) and following are the upper bits of quad k, the first 64 for k < 4.
// Scales follow after 32 columns (Q5_0, Q5_1) or after 256 (the K formats):
//   Q5_0: 16 scales in fp16; Q5_1: also 16 offsets;
//   Q4_K, Q5_K: 3 x 64 bytes, which are the 12 bytes of scales of each row as three words; 16 times d and dmin in fp16;
//   Q6_K: 16 x 16 signed scales, by sub-block and row; 16 times d in fp16.

#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstring>

namespace {

// The types of ggml.h, by their numbers there.
enum Type : int64_t {
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30,
};

enum Format : int64_t { PAIRS_4 = 4, PAIRS_8 = 8, PAIRS_16 = 16, HALVES = 101, SINGLES = 100,
    QUADS_5_0 = 106, QUADS_5_1 = 107, QUADS_4_K = 112, QUADS_5_K = 113, QUADS_6_K = 114,
};

// Bytes of 32 columns of 16 rows; those of the K formats are an eighth of 256 columns.
int64_t block_bytes(int64_t format) {
    switch (format) {
        case PAIRS_4: return 320;
        case PAIRS_8: return 544;
        case SINGLES: return 2048;
        case QUADS_5_0: return 352;
        case QUADS_5_1: return 384;
        case QUADS_4_K: return 288;
        case QUADS_5_K: return 352;
        case QUADS_6_K: return 420;
        default: return 1024;
    }
}

// Bytes of 32 columns of a row in the file.
int64_t row_block_bytes(int64_t type) {
    switch (type) {
        case F32: return 128;
        case Q4_0: return 18;
        case Q4_1: return 20;
        case Q5_0: return 22;
        case Q5_1: return 24;
        case Q8_0: return 34;
        case Q4_K: return 18;
        case Q5_K: return 22;
        case Q6_K: return 0;  // 26.25; see `row_bytes`
        default: return 64;
    }
}

int64_t row_bytes(int64_t type, int64_t width) {
    return type == Q6_K ? width / 256 * 210 : width / 32 * row_block_bytes(type);
}

uint16_t load_u16(const uint8_t* from) {
    uint16_t x;
    std::memcpy(&x, from, 2);
    return x;
}

uint32_t load_u32(const uint8_t* from) {
    uint32_t x;
    std::memcpy(&x, from, 4);
    return x;
}

// 32 columns of a row: weight = scale[column / 16] x (code - center) + offset.
struct Unpacked {
    uint8_t codes[32];
    float scale[2], offset;
    int center;
};

ALWAYS_INLINE void low_or_high(const uint8_t* from, int shift, uint8_t* codes, int count) {
    for (int k = 0; k < count; ++k) codes[k] = (from[k] >> shift) & 15;
}

void fifth_bits(uint32_t bits, uint8_t* codes) {
    for (int k = 0; k < 32; ++k) codes[k] |= uint8_t(((bits >> k) & 1) << 4);
}

// Unpacks the codes and scales of columns 32 b to 32 b + 31 of a row with quantized weights.
ALWAYS_INLINE void unpack(int64_t type, const uint8_t* row, int64_t b, Unpacked& out) {
    out.offset = 0, out.center = 0;
    if (type == Q4_K || type == Q5_K) {
        const int64_t s = b % 8;
        const uint8_t *at = row + b / 8 * (type == Q4_K ? 144 : 176), *q = at + 4;
        const uint8_t* codes = at + (type == Q4_K ? 16 : 48) + s / 2 * 32;
        low_or_high(codes, s % 2 * 4, out.codes, 32);
        for (int k = 0; type == Q5_K && k < 32; ++k) out.codes[k] |= uint8_t(((at[16 + k] >> s) & 1) << 4);
        const int scale = s < 4 ? q[s] & 63 : (q[s + 4] & 15) | (q[s - 4] >> 6) << 4;
        const int low = s < 4 ? q[s + 4] & 63 : (q[s + 4] >> 4) | (q[s] >> 6) << 4;
        out.scale[0] = out.scale[1] = from_fp16(load_u16(at)) * float(scale);
        out.offset = -(from_fp16(load_u16(at + 2)) * float(low));
    } else if (type == Q6_K) {
        const int64_t s = b % 8, half = s / 4, m = s % 4;
        const uint8_t *at = row + b / 8 * 210, *high = at + 128 + 32 * half;
        low_or_high(at + 64 * half + 32 * (m % 2), int(m / 2 * 4), out.codes, 32);
        for (int k = 0; k < 32; ++k) out.codes[k] |= uint8_t(((high[k] >> (2 * m)) & 3) << 4);
        const float d = from_fp16(load_u16(at + 208));
        for (int k = 0; k < 2; ++k) out.scale[k] = d * float(int8_t(at[192 + 2 * s + k]));
        out.center = 32;
    } else if (type == Q8_0) {
        const uint8_t* at = row + b * 34;
        for (int k = 0; k < 32; ++k) out.codes[k] = at[2 + k] ^ 0x80;
        out.scale[0] = out.scale[1] = from_fp16(load_u16(at)), out.center = 128;
    } else {
        const bool five = type == Q5_0 || type == Q5_1, offset = type == Q4_1 || type == Q5_1;
        const uint8_t *at = row + b * row_block_bytes(type), *bits = at + (offset ? 4 : 2), *codes = bits + 4 * five;
        low_or_high(codes, 0, out.codes, 16);
        low_or_high(codes, 4, out.codes + 16, 16);
        if (five) fifth_bits(load_u32(bits), out.codes);
        out.scale[0] = out.scale[1] = from_fp16(load_u16(at));
        if (offset) out.offset = from_fp16(load_u16(at + 2));
        else out.center = five ? 16 : 8;
    }
}

// Writes a row of the file as floats.
void dequantize(int64_t type, const uint8_t* row, int64_t width, float* out) {
    if (type == F32) {
        std::memcpy(out, row, size_t(width) * 4);
    } else if (type == F16 || type == BF16) {
        for (int64_t k = 0; k < width; ++k)
            out[k] = type == F16 ? from_fp16(load_u16(row + 2 * k)) : from_bf16(load_u16(row + 2 * k));
    } else {
        Unpacked part;
        for (int64_t b = 0; b < width / 32; ++b) {
            unpack(type, row, b, part);
            for (int k = 0; k < 32; ++k)
                out[32 * b + k] = part.scale[k / 16] * float(int(part.codes[k]) - part.center) + part.offset;
        }
    }
}

struct Matrix {
    int64_t groups, width, format;  // groups of 16 rows; columns; a `Format`
    uint8_t* blocks;
    // The rest is for a matrix in a file, whose groups are packed when they are first read; `source` is null if
    // there is none.
    const uint8_t* source;
    int64_t type, rows;   // its `Type`, and its rows, which need not fill the last group
    int64_t turned;       // size of a head whose rows lie in pairs (0, half), (1, half + 1), ...; 0 if they do not
    std::atomic<uint8_t>* packed;  // [groups]: 0 not yet, 1 under way, 2 done

    int64_t stride() const { return width / 32 * block_bytes(format); }  // bytes of a packed group

    const uint8_t* source_row(int64_t row) const {
        if (turned) {
            const int64_t within = row % turned, half = turned / 2;
            row += (within % half * 2 + within / half) - within;
        }
        return source + row * row_bytes(type, width);
    }
};

// Spreads the codes of 32 columns of one of 16 rows over its quads.
ALWAYS_INLINE void spread_quads(const uint8_t* codes, int row, int extra_bits, uint8_t* to) {
    uint32_t quad[8];
    std::memcpy(quad, codes, 32);
    for (int c = 0; c < 4; ++c) {
        const uint32_t word = (quad[2 * c] & 0x0f0f0f0f) | (quad[2 * c + 1] & 0x0f0f0f0f) << 4;
        std::memcpy(to + 64 * c + 4 * row, &word, 4);
    }
    if (extra_bits == 1) {
        uint32_t word = 0;
        for (int k = 0; k < 8; ++k) word |= (quad[k] >> 4 & 0x01010101) << k;
        std::memcpy(to + 256 + 4 * row, &word, 4);
    }
    for (int e = 0; extra_bits == 2 && e < 2; ++e) {
        uint32_t word = 0;
        for (int k = 0; k < 4; ++k) word |= (quad[4 * e + k] >> 4 & 0x03030303) << (2 * k);
        std::memcpy(to + 256 + 64 * e + 4 * row, &word, 4);
    }
}

ALWAYS_INLINE void copy_half(uint8_t* to, const uint8_t* from) { std::memcpy(to, from, 2); }

// Packs a row of Q4_K, Q5_K or Q6_K as row `r` of a group.
template <int64_t TYPE>
void pack_k(const uint8_t* from, int64_t width, int r, uint8_t* to) {
    constexpr int bits = TYPE == Q4_K ? 0 : (TYPE == Q5_K ? 1 : 2), codes = 256 + 64 * bits;
    Unpacked part;
    for (int64_t b = 0; b < width / 256; ++b, to += 8 * block_bytes(100 + TYPE)) {
        for (int64_t s = 0; s < 8; ++s) {
            unpack(TYPE, from, 8 * b + s, part);
            spread_quads(part.codes, r, bits, to + codes * s);
        }
        uint8_t* scales = to + 8 * codes;
        if (TYPE == Q6_K) {
            const uint8_t* at = from + b * 210;
            for (int k = 0; k < 16; ++k) scales[16 * k + r] = at[192 + k];
            copy_half(scales + 256 + 2 * r, at + 208);
        } else {
            const uint8_t* at = from + b * (TYPE == Q4_K ? 144 : 176);
            for (int k = 0; k < 3; ++k) std::memcpy(scales + 64 * k + 4 * r, at + 4 + 4 * k, 4);
            copy_half(scales + 192 + 2 * r, at);
            copy_half(scales + 224 + 2 * r, at + 2);
        }
    }
}

// Packs a row whose blocks have 32 columns as row `r` of a group.
template <int64_t TYPE>
void pack_32(const uint8_t* from, int64_t width, int r, uint8_t* to) {
    constexpr int64_t size = TYPE == Q5_0 ? 352 : (TYPE == Q5_1 ? 384 : (TYPE == Q8_0 ? 544 : 320));
    Unpacked part;
    for (int64_t b = 0; b < width / 32; ++b, to += size) {
        unpack(TYPE, from, b, part);
        const uint8_t* at = from + b * row_block_bytes(TYPE);
        if (TYPE == Q8_0) {
            for (int k = 0; k < 32; ++k) to[32 * (k / 2) + 2 * r + k % 2] = at[2 + k];
            copy_half(to + 512 + 2 * r, at);
        } else if (TYPE == Q5_0 || TYPE == Q5_1) {
            spread_quads(part.codes, r, 1, to);
            copy_half(to + 320 + 2 * r, at);
            if (TYPE == Q5_1) copy_half(to + 352 + 2 * r, at + 2);
        } else {
            for (int q = 0; q < 4; ++q) {
                uint32_t word = 0;
                for (int k = 0; k < 8; ++k) word |= uint32_t(part.codes[8 * q + k]) << (4 * (k / 2) + 16 * (k % 2));
                std::memcpy(to + 64 * q + 4 * r, &word, 4);
            }
            copy_half(to + 256 + 2 * r, at);
            const uint16_t low = to_fp16(-8 * part.scale[0]);
            if (TYPE == Q4_1) copy_half(to + 288 + 2 * r, at + 2);
            else std::memcpy(to + 288 + 2 * r, &low, 2);
        }
    }
}

// Packs a row of floats as row `r` of a group: pairs of columns in bf16, else column after column.
void pack_floats(int64_t type, const uint8_t* from, int64_t width, int r, uint8_t* to) {
    for (int64_t k = 0; k < width; ++k) {
        if (type == F32) std::memcpy(to + 4 * (16 * k + r), from + 4 * k, 4);
        else copy_half(to + 2 * (type == BF16 ? 32 * (k / 2) + 2 * r + k % 2 : 16 * k + r), from + 2 * k);
    }
}

void pack_row(const Matrix& m, const uint8_t* from, int r, uint8_t* to) {
    switch (m.type) {
        case Q4_K: return pack_k<Q4_K>(from, m.width, r, to);
        case Q5_K: return pack_k<Q5_K>(from, m.width, r, to);
        case Q6_K: return pack_k<Q6_K>(from, m.width, r, to);
        case Q4_0: return pack_32<Q4_0>(from, m.width, r, to);
        case Q4_1: return pack_32<Q4_1>(from, m.width, r, to);
        case Q5_0: return pack_32<Q5_0>(from, m.width, r, to);
        case Q5_1: return pack_32<Q5_1>(from, m.width, r, to);
        case Q8_0: return pack_32<Q8_0>(from, m.width, r, to);
        default: return pack_floats(m.type, from, m.width, r, to);
    }
}

constexpr int64_t DROPPED = 64;  // groups whose rows in the file are dropped at a time

// Gives the pages of packed rows back. Nothing is lost: whoever reads them again gets them from the file.
void drop_pages(const Matrix& m, int64_t group) {
    constexpr uintptr_t page = 4096;
    const int64_t last = std::min(m.rows, (group + 1) * 16), first = group / DROPPED * DROPPED * 16;
    const uintptr_t begin = uintptr_t(m.source + first * row_bytes(m.type, m.width) + page - 1) / page * page;
    const uintptr_t end = uintptr_t(m.source + last * row_bytes(m.type, m.width)) / page * page;
    if (begin < end) madvise((void*)begin, end - begin, MADV_DONTNEED);
}

void pack_group(const Matrix& m, int64_t group) {
    uint8_t* to = m.blocks + group * m.stride();
    const int64_t count = std::min<int64_t>(16, m.rows - group * 16);
    if (count < 16) std::memset(to, 0, size_t(m.stride()));
    for (int64_t r = 0; r < count; ++r) pack_row(m, m.source_row(group * 16 + r), int(r), to);
    if (group % DROPPED == DROPPED - 1 || group == m.groups - 1) drop_pages(m, group);
}

// Packs a group of a matrix in a file unless that has been done; another thread may be doing it.
ALWAYS_INLINE void ensure_packed(const Matrix& m, int64_t group) {
    if (!m.source || m.packed[group].load(std::memory_order_acquire) == 2) return;
    uint8_t none = 0;
    if (m.packed[group].compare_exchange_strong(none, 1)) {
        pack_group(m, group);
        m.packed[group].store(2, std::memory_order_release);
    } else {
        while (m.packed[group].load(std::memory_order_acquire) != 2) pause();
    }
}

}  // namespace
