// Shared by all kernels. No header is included, so NVRTC needs no CUDA toolkit.
// Compiled with -DPDL=0|1 (programmatic dependent launch, from compute capability 9.0 on) and -DWGMMA=0|1 (products of
// several columns by warpgroups' tensor core instructions, compute capability 9.0 alone).
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
typedef unsigned short bf16;  // bits of a bfloat16
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ __forceinline__ float to_float(bf16 v) { return __uint_as_float((u32)v << 16); }
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 v;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
  return v;
}
__device__ __forceinline__ bf16 to_bf16(float v) { return (bf16)(pack_bf16(v, 0.f) & 0xffffu); }
__device__ __forceinline__ float round_bf16(float v) { return __uint_as_float(pack_bf16(v, 0.f) << 16); }

// A kernel may read what another kernel of the step wrote only after depend_wait(). The next kernel may start only
// after that, so when a kernel runs, all kernels but its direct predecessor have finished.
__device__ __forceinline__ void depend_wait() {
#if PDL
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void depend_launch() {
#if PDL
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
__device__ __forceinline__ u32 shared_u32(u32 address) {
  u32 v;
  asm("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address));
  return v;
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Activations are read past L1, because with programmatic launch L1 may hold a line from before the wait.
__device__ __forceinline__ float load_float(const float* p) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ float4 load_float4(const float4* p) {
  float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ uint4 load_uint4(const void* p) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}

// D[16x8] += A[16x16] B[16x8]; lane = 4g + t holds A rows g, g+8, B column g, D rows g, g+8 columns 2t, 2t+1.
__device__ __forceinline__ void mma(float (&d)[4], const u32 a0, const u32 a1, const u32 a2, const u32 a3, u32 b0, u32 b1) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The position of activation (k, column m), in bf16 elements. NT = columns / 8; NT = 0 means one column without padding.
// For mma: the B fragments of two k16 steps are next to each other, so one 16-byte load per lane feeds both.
// For wgmma: a core matrix of 128 bytes has 8 columns x 8 k, and the matrices of one k8 step are next to each other.
__device__ __forceinline__ int packed(int k, int m, int nt) {
  const int t = (k >> 1) & 3, in = ((k >> 4) & 1) * 4 + ((k >> 3) & 1) * 2 + (k & 1);
  if (nt == 0) return ((k >> 5) * 4 + t) * 8 + in;
#if WGMMA
  return ((k >> 3) * nt + (m >> 3)) * 64 + (m & 7) * 8 + (k & 7);
#else
  return (((k >> 5) * nt + (m >> 3)) * 32 + (m & 7) * 4 + t) * 8 + in;
#endif
}

// The part of the next product's weights that is prefetched into L2 when this kernel no longer needs the memory: the
// first bytes of each of `pieces` equal parts of its records. Its blocks then start at twice the memory's rate.
struct Ahead {
  const char* records;
  int n, pieces, grain, bytes;  // part j starts at (n * j / pieces) * grain
};

// Prefetches `bytes` into L2. Both `bytes` and p are multiples of 16.
__device__ __forceinline__ void ask_l2(const void* p, int bytes) {
#if PDL
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#endif
}
__device__ __forceinline__ void look_ahead(const Ahead& a, int worker, int workers) {
#if PDL
  const int lane = threadIdx.x & 31, chunks = (a.bytes + 4095) >> 12;
  for (int i = worker + lane * workers; i < a.pieces * chunks; i += 32 * workers) {
    const int piece = i / chunks, at = (i % chunks) << 12;
    const char* from = a.records + (size_t)((long long)a.n * piece / a.pieces) * a.grain + at;
    ask_l2(from, min(4096, a.bytes - at));
  }
#endif
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  return v;
}

// 8 values of the residual stream, normalized with the model's own two roundings.
__device__ __forceinline__ uint4 normed(const uint4& x, const u32 (&gain)[4], float rstd) {
  const u32 xs[4] = {x.x, x.y, x.z, x.w};
  u32 r[4];
#pragma unroll
  for (int e = 0; e < 4; e++)
    r[e] = pack_bf16(round_bf16(to_float(xs[e] & 0xffff) * rstd) * to_float(gain[e] & 0xffff),
                     round_bf16(to_float(xs[e] >> 16) * rstd) * to_float(gain[e] >> 16));
  return make_uint4(r[0], r[1], r[2], r[3]);
}
__device__ __forceinline__ float squares(const uint4& x) {
  const u32 xs[4] = {x.x, x.y, x.z, x.w};
  float s = 0.f;
#pragma unroll
  for (int e = 0; e < 4; e++) s += to_float(xs[e] & 0xffff) * to_float(xs[e] & 0xffff) + to_float(xs[e] >> 16) * to_float(xs[e] >> 16);
  return s;
}
__device__ __forceinline__ u32 add_pair(u32 a, u32 b) {
  return pack_bf16(to_float(a & 0xffff) + to_float(b & 0xffff), to_float(a >> 16) + to_float(b >> 16));
}
