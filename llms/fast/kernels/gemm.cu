// 8, 16, 32 or 64 columns: Y = W X for a step of several tokens. A block owns 128 rows (a row tile a warp) and a
// share of K; the activations of 256 columns of W are fetched once into shared memory for all 8 warps, the
// weights go through the same private ring as in gemv.cu. Where the rows alone do not fill the GPU, K is split
// over blocks: each writes its fp32 sums, and the last to arrive adds them in a fixed order, so the result does
// not depend on which one it was.
// Compiled with -DSTAGES (records in flight a warp).

enum { QKV, RESIDUAL, SILU };

// d: rows g, g+8 (two runs of 8) by columns n*8 + 2t, +1
template <int KIND, int NT>
__device__ __forceinline__ void finish(const Linear& a, const Tile& tile, float (&d)[NT][4], const float* rstd, float* ssq,
                                       int warp, int lane, bool live) {
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int n = 0; n < NT; n++) {
    const int m = n * 8 + t * 2;
    if (KIND == QKV) {
#pragma unroll
      for (int e = 0; e < 2; e++)
        if (live && m + e < a.columns) store_qkv(a, tile, g, m + e, d[n][e] * rstd[m + e], d[n][e + 2] * rstd[m + e]);
    } else if (KIND == SILU) {
      // Neighbours g, g^1 hold one pair of k: the even lane writes column m, the odd one column m + 1.
      float v[2];
#pragma unroll
      for (int e = 0; e < 2; e++)
        v[e] = round_bf16(silu(round_bf16(d[n][e] * rstd[m + e]))) * round_bf16(d[n][e + 2] * rstd[m + e]);
      const float other = __shfl_xor_sync(~0u, (g & 1) ? v[0] : v[1], 4);
      const u32 pair = (g & 1) ? pack_bf16(other, v[1]) : pack_bf16(v[0], other);
      if (live) *(u32*)(a.x_out + packed(tile.low + (g & ~1), m + (g & 1), NT)) = pair;
    } else {
      float h[2][2];  // [column][run]
#pragma unroll
      for (int e = 0; e < 2; e++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
          h[e][r] = 0.f;
          if (live && m + e < a.columns) {
            float* p = a.h + (size_t)(m + e) * a.width + (r ? tile.high : tile.low) + g;
            h[e][r] = load_float(p) + round_bf16(d[n][e + r * 2]);
            *p = h[e][r];
          }
        }
      const float ga = live ? to_float(a.gain[tile.low + g]) : 0.f, gb = live ? to_float(a.gain[tile.high + g]) : 0.f;
      const int mine = g & 1;
      const float oa = __shfl_xor_sync(~0u, (mine ? h[0][0] : h[1][0]) * ga, 4);
      const float ob = __shfl_xor_sync(~0u, (mine ? h[0][1] : h[1][1]) * gb, 4);
      const float va = (mine ? h[1][0] : h[0][0]) * ga, vb = (mine ? h[1][1] : h[0][1]) * gb;
      if (live) {  // k = low + g: its half is run 0, high + g run 1; high = low + 8 for plain tiles
        const uint2 v = make_uint2(mine ? pack_bf16(oa, va) : pack_bf16(va, oa), mine ? pack_bf16(ob, vb) : pack_bf16(vb, ob));
        *(uint2*)(a.x_out + packed(tile.low + (g & ~1), m + mine, NT)) = v;
      }
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float s = h[e][0] * h[e][0] + h[e][1] * h[e][1];
        s += __shfl_xor_sync(~0u, s, 4);
        s += __shfl_xor_sync(~0u, s, 8);
        s += __shfl_xor_sync(~0u, s, 16);
        if (g == 0) ssq[warp * NT * 8 + m + e] = s;
      }
    }
  }
  if (KIND == RESIDUAL) {
    __syncthreads();
    const int m = warp * 32 + lane;
    if (m < NT * 8) {
      float s = 0.f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) s += ssq[w * NT * 8 + m];
      a.ssq_out[blockIdx.x * NT * 8 + m] = s;
    }
  }
}

template <int KIND, int NT>
__device__ __forceinline__ void gemm(const Linear& a) {
  extern __shared__ __align__(128) char shared[];
  char* lut = shared;
  float* code2 = (float*)(shared + LUT_BYTES);
  float* rstd = code2 + 256;  // [NT * 8]
  float* ssq = rstd + 64;     // [WARPS][NT * 8]
  char* xs = (char*)(ssq + WARPS * 64);
  char* rings = xs + STAGES * NT * 4096;
  __shared__ u32 arrived;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2;
  char* ring = rings + warp * (STAGES * RECORD);
  const int index = blockIdx.x * WARPS + warp;
  const bool live = index < a.num_tiles;
  const int u0 = a.units * blockIdx.y / a.splits, u1 = a.units * (blockIdx.y + 1) / a.splits;
  const char* records = a.records + (size_t)index * a.units * RECORD;

  auto fetch_w = [&](int u, int stage) {
    if (live && u < u1) fetch_record(ring + stage * RECORD, records + (size_t)u * RECORD, lane);
  };
  auto fetch_x = [&](int u, int stage) {
    if (u < u1)
#pragma unroll
      for (int i = 0; i < NT; i++)
        copy16(xs + (stage * NT + i) * 4096 + tid * 16, a.x + ((size_t)u * NT + i) * 256 + tid);
  };
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) fetch_w(u0 + s, s);
  fill_lut(lut, code2, a, tid);
  const Tile tile = a.tiles[live ? index : 0];
  depend_wait();
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    fetch_x(u0 + s, s);
    copy_commit();  // the first group holds all the weights fetched so far
  }
  depend_launch();

  float y[NT][4];
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) y[n][i] = 0.f;
  const char* lut_lane = lut + lane * 4;
  const int sa = tile.start_low + g * a.blocks_per_row, sb = tile.start_high + g * a.blocks_per_row;
  int stage = 0;
  for (int u = u0; u < u1; u++) {
    float s2a = 0.f, s2b = 0.f;
#if NESTED
    s2a = __ldg(a.absmax2 + ((sa + u * 4) >> 8)), s2b = __ldg(a.absmax2 + ((sb + u * 4) >> 8));
#endif
    copy_wait<STAGES - 2>();
    __syncthreads();  // this stage has arrived for everyone, and the one to be overwritten has been read
    {
      const int next = stage ? stage - 1 : STAGES - 1;
      fetch_w(u + STAGES - 1, next);
      fetch_x(u + STAGES - 1, next);
      copy_commit();
    }
    const char* rec = ring + stage * RECORD;
    const uint4* x = (const uint4*)(xs + stage * NT * 4096);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint4 w = *(const uint4*)(rec + i * 512 + lane * 16);
      const float2 sc = scales(rec, code2, g, i, s2a, s2b, tile.offset_low, tile.offset_high);
      const u32 ws[4] = {w.x, w.y, w.z, w.w};
      float d[NT][4];
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) d[n][e] = 0.f;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        u32 f[4], f2[4];
        decode(f, ws[h * 2], lut_lane);
        decode(f2, ws[h * 2 + 1], lut_lane);
#pragma unroll
        for (int n = 0; n < NT; n++) {
          const uint4 b = x[((i * 2 + h) * NT + n) * 32 + lane];
          mma(d[n], f[0], f[1], f[2], f[3], b.x, b.y);
          mma(d[n], f2[0], f2[1], f2[2], f2[3], b.z, b.w);
        }
      }
#pragma unroll
      for (int n = 0; n < NT; n++) {
        y[n][0] += sc.x * d[n][0], y[n][1] += sc.x * d[n][1];
        y[n][2] += sc.y * d[n][2], y[n][3] += sc.y * d[n][3];
      }
    }
    if (++stage == STAGES) stage = 0;
  }

  if (a.splits > 1) {
    const size_t step = (size_t)a.num_tiles * NT * 32;
    float4* mine = a.partial + (size_t)index * NT * 32 + lane;
    if (live)
#pragma unroll
      for (int n = 0; n < NT; n++) __stcg(mine + blockIdx.y * step + n * 32, make_float4(y[n][0], y[n][1], y[n][2], y[n][3]));
    __threadfence();
    __syncthreads();
    if (tid == 0) arrived = atomicAdd(a.counters + blockIdx.x, 1u);
    __syncthreads();
    if (arrived != a.splits - 1) return;
    if (tid == 0) a.counters[blockIdx.x] = 0;
    __threadfence();
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) y[n][i] = 0.f;
    if (live)
      for (int s = 0; s < a.splits; s++)
#pragma unroll
        for (int n = 0; n < NT; n++) {
          const float4 v = load_float4(mine + s * step + n * 32);
          y[n][0] += v.x, y[n][1] += v.y, y[n][2] += v.z, y[n][3] += v.w;
        }
  }
  if (KIND != RESIDUAL) {
    if (tid < NT * 8) {
      float s = 0.f;
      for (int c = 0; c < a.ssq_count; c++) s += load_float(a.ssq_in + c * NT * 8 + tid);
      rstd[tid] = rsqrtf(s * a.inv_width + a.eps);
    }
    __syncthreads();
  }
  finish<KIND, NT>(a, tile, y, rstd, ssq, warp, lane, live);
}

#define KERNELS(NT, BLOCKS)                                                                                            \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS) gemm##NT##_qkv(const __grid_constant__ Linear a) { gemm<QKV, NT>(a); } \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS) gemm##NT##_residual(const __grid_constant__ Linear a) { gemm<RESIDUAL, NT>(a); } \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS) gemm##NT##_silu(const __grid_constant__ Linear a) { gemm<SILU, NT>(a); }
KERNELS(1, 2)
KERNELS(2, 2)
KERNELS(4, 1)
KERNELS(8, 1)
