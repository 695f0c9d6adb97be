// Multiplies one record of weights per warp (16 rows x 256 columns) by 8 NT columns of activations in shared memory.
// On compute capability 9.0 with warpgroup products: D (fp32 registers) += A (bf16 registers) B (bf16 shared memory).
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate". D and A are in registers as for mma, 16
// rows per warp; B without swizzle consists of core matrices of 8 columns x 8 k, 128 bytes each. Otherwise with mma.
#if WGMMA
// Matrix descriptor of 16 k x 8 * NT columns of activations, core matrices as `packed` has them.
template <int NT>
__device__ __forceinline__ u64 columns_at(u32 address) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)(NT * 128 >> 4) << 16 | (u64)(128 >> 4) << 32;
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for all products. It names the sums so that the compiler does not read them earlier.
template <int NT>
__device__ __forceinline__ void wgmma_wait(float (&d)[NT][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) asm volatile("" : "+f"(d[n][e])::"memory");
}
#define SUMS(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
// d[64 x 8 NT] (+)= a[64 x 16] b[16 x 8 NT]
__device__ __forceinline__ void wgmma(float (&d)[1][4], const u32 (&a)[4], u64 b, int add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %9, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, p, 1, 1, 0;}"
      : SUMS(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
__device__ __forceinline__ void wgmma(float (&d)[2][4], const u32 (&a)[4], u64 b, int add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %13, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, "
      "{%8,%9,%10,%11}, %12, p, 1, 1, 0;}"
      : SUMS(0), SUMS(1)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
__device__ __forceinline__ void wgmma(float (&d)[4][4], const u32 (&a)[4], u64 b, int add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %21, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, p, 1, 1, 0;}"
      : SUMS(0), SUMS(1), SUMS(2), SUMS(3)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
__device__ __forceinline__ void wgmma(float (&d)[8][4], const u32 (&a)[4], u64 b, int add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
      "%30,%31}, {%32,%33,%34,%35}, %36, p, 1, 1, 0;}"
      : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
#undef SUMS

// y += W X over one record per warp. The products of one block of 64 columns run while the next block is decoded.
template <int NT, int RT>
__device__ __forceinline__ void multiply(float (&y)[RT][NT][4], const char* rec, const char* xs, const float* code2,
                                         const float (&s2)[RT][2], const Tile (&tile)[RT], u32 table, int lane) {
  float d[NT][4];
  u32 f[2][4][4];
  const u32 x = shared_address(xs);
  uint4 w = *(const uint4*)(rec + lane * 16);
  auto decode_half = [&](u32(&to)[4][4], int half) {
    decode(to[half * 2], half ? w.z : w.x, lane * 4, table);
    decode(to[half * 2 + 1], half ? w.w : w.y, lane * 4, table);
  };
  decode_half(f[0], 0);
  if (NT < 8) decode_half(f[0], 1);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (NT == 8) decode_half(f[i & 1], 1);  // there are too few registers to decode a whole block ahead
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; s++) wgmma(d, f[i & 1][s], columns_at<NT>(x + (i * 4 + s) * NT * 256), s);
    wgmma_commit();
    if (i < 3) {
      w = *(const uint4*)(rec + (i + 1) * 512 + lane * 16);
      decode_half(f[(i + 1) & 1], 0);
      if (NT < 8) decode_half(f[(i + 1) & 1], 1);
    }
    const float2 sc = scales(rec, code2, lane >> 2, i, s2[0][0], s2[0][1], tile[0].offset_low, tile[0].offset_high);
    wgmma_wait<NT>(d);
#pragma unroll
    for (int n = 0; n < NT; n++) {
      y[0][n][0] += sc.x * d[n][0], y[0][n][1] += sc.x * d[n][1];
      y[0][n][2] += sc.y * d[n][2], y[0][n][3] += sc.y * d[n][3];
    }
  }
}
#else
template <int NT, int RT>
__device__ __forceinline__ void multiply(float (&y)[RT][NT][4], const char* rec, const char* xs, const float* code2,
                                         const float (&s2)[RT][2], const Tile (&tile)[RT], u32 table, int lane) {
  const uint4* x = (const uint4*)xs;
#pragma unroll(NT * RT > 8 ? 1 : 4)
  for (int i = 0; i < 4; i++) {
    float d[RT][NT][4];
    uint4 w[RT];
#pragma unroll
    for (int r = 0; r < RT; r++) {
      w[r] = *(const uint4*)(rec + r * RECORD + i * 512 + lane * 16);
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) d[r][n][e] = 0.f;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      u32 f[RT][2][4];
#pragma unroll
      for (int r = 0; r < RT; r++) {
        decode(f[r][0], h ? w[r].z : w[r].x, lane * 4, table);
        decode(f[r][1], h ? w[r].w : w[r].y, lane * 4, table);
      }
#pragma unroll
      for (int n0 = 0; n0 < NT; n0 += 2) {  // an mma waits for the previous one on the same sums, so they alternate
        uint4 b[2];
#pragma unroll
        for (int n = 0; n < 2 && n0 + n < NT; n++) b[n] = x[((i * 2 + h) * NT + n0 + n) * 32 + lane];
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
          for (int r = 0; r < RT; r++)
#pragma unroll
            for (int n = 0; n < 2 && n0 + n < NT; n++)
              mma(d[r][n0 + n], f[r][e][0], f[r][e][1], f[r][e][2], f[r][e][3], e ? b[n].z : b[n].x, e ? b[n].w : b[n].y);
      }
    }
#pragma unroll
    for (int r = 0; r < RT; r++) {
      const float2 sc = scales(rec + r * RECORD, code2, lane >> 2, i, s2[r][0], s2[r][1], tile[r].offset_low, tile[r].offset_high);
#pragma unroll
      for (int n = 0; n < NT; n++) {
        y[r][n][0] += sc.x * d[r][n][0], y[r][n][1] += sc.x * d[r][n][1];
        y[r][n][2] += sc.y * d[r][n][2], y[r][n][3] += sc.y * d[r][n][3];
      }
    }
  }
}
#endif
