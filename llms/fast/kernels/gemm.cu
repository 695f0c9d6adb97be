// 8, 16, 32 or 64 columns: Y = W X for a step of several tokens. A block owns RT row tiles a warp and a share of K; the activations of 256 columns of W are fetched once into shared memory for all 8 warps, the
// weights go through the same private ring as in gemv.cu. Where the rows alone do not fill the GPU, K is split
// over blocks, all of which run at once: each writes its fp32 sums, waits for the others, and adds up an equal share
// of the row tiles in a fixed order.
// RT = 2 from 32 columns on: there, reading activations from shared memory is what limits, and two tiles share it.

enum { QKV, RESIDUAL, SILU };

// d: rows g, g+8 (two runs of 8) by columns n*8 + 2t, +1
// d: rows g, g+8 (two runs of 8) by columns n*8 + 2t, +1; ssq: this tile's row of sums of squares.
template <int KIND, int NT>
__device__ __forceinline__ void finish(const Linear& a, const Tile& tile, const float (&d)[4], int n, const float* rstd,
                                       float* ssq, int lane) {
  const int g = lane >> 2, t = lane & 3, m = n * 8 + t * 2;
  if (KIND == QKV) {
#pragma unroll
    for (int e = 0; e < 2; e++)
      if (m + e < a.columns) store_qkv(a, tile, g, m + e, d[e] * rstd[m + e], d[e + 2] * rstd[m + e]);
  } else if (KIND == SILU) {
    // Neighbours g, g^1 hold one pair of k: the even lane writes column m, the odd one column m + 1.
    float v[2];
#pragma unroll
    for (int e = 0; e < 2; e++) v[e] = round_bf16(silu(round_bf16(d[e] * rstd[m + e]))) * round_bf16(d[e + 2] * rstd[m + e]);
    const float other = __shfl_xor_sync(~0u, (g & 1) ? v[0] : v[1], 4);
    *(u32*)(a.x_out + packed(tile.low + (g & ~1), m + (g & 1), NT)) = (g & 1) ? pack_bf16(other, v[1]) : pack_bf16(v[0], other);
  } else {
    float h[2][2];  // [column][run]
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
      for (int r = 0; r < 2; r++)
        h[e][r] = m + e < a.columns ? load_float(a.h + (size_t)(m + e) * a.width + (r ? tile.high : tile.low) + g) : 0.f;
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        h[e][r] = round_bf16(h[e][r] + round_bf16(d[e + r * 2]));
        if (m + e < a.columns) a.h[(size_t)(m + e) * a.width + (r ? tile.high : tile.low) + g] = h[e][r];
        else h[e][r] = 0.f;
      }
    const float ga = to_float(a.gain[tile.low + g]), gb = to_float(a.gain[tile.high + g]);
    const int mine = g & 1;
    const float oa = __shfl_xor_sync(~0u, (mine ? h[0][0] : h[1][0]) * ga, 4);
    const float ob = __shfl_xor_sync(~0u, (mine ? h[0][1] : h[1][1]) * gb, 4);
    const float va = (mine ? h[1][0] : h[0][0]) * ga, vb = (mine ? h[1][1] : h[0][1]) * gb;
    // low + g and high + g = low + 8 + g are the two halves of one k16 step
    *(uint2*)(a.x_out + packed(tile.low + (g & ~1), m + mine, NT)) =
        make_uint2(mine ? pack_bf16(oa, va) : pack_bf16(va, oa), mine ? pack_bf16(ob, vb) : pack_bf16(vb, ob));
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float s = h[e][0] * h[e][0] + h[e][1] * h[e][1];
      s += __shfl_xor_sync(~0u, s, 4);
      s += __shfl_xor_sync(~0u, s, 8);
      s += __shfl_xor_sync(~0u, s, 16);
      if (g == 0) ssq[m + e] = s;
    }
  }
}

// 1 / rms of every column into shared memory, by all threads; ends with a barrier.
template <int NT>
__device__ __forceinline__ void norms(const Linear& a, float* rstd, float* scratch, int tid) {
  constexpr int M = NT * 8, PARTS = WARPS * 32 / M;
  const int m = tid % M, part = tid / M;
  float s = 0.f;
  for (int c = part; c < a.ssq_count; c += PARTS * 8) {
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = c + i * PARTS < a.ssq_count ? load_float(a.ssq_in + (c + i * PARTS) * M + m) : 0.f;
#pragma unroll
    for (int i = 0; i < 8; i++) s += v[i];
  }
  scratch[part * M + m] = s;
  __syncthreads();
  if (tid < M) {
    s = 0.f;
#pragma unroll
    for (int i = 0; i < PARTS; i++) s += scratch[i * M + tid];
    rstd[tid] = rsqrtf(s * a.inv_width + a.eps);
  }
  __syncthreads();
}

template <int KIND, int NT, int RT, int DEPTH>
__device__ __forceinline__ void gemm(const Linear& a) {
  extern __shared__ __align__(128) char shared[];
  char* lut = shared;
  float* code2 = (float*)(shared + LUT_BYTES);
  float* rstd = code2 + 256;  // [64]
  float* ssq = rstd + 64;     // [WARPS * RT][NT * 8], at least 256: `norms` works there too
  char* xs = (char*)(ssq + max(WARPS * RT * NT * 8, 256));
  char* rings = xs + DEPTH * NT * 4096;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2;
  char* ring = rings + warp * (DEPTH * RT * RECORD);
  const int index = (blockIdx.x * WARPS + warp) * RT;
  const int u0 = a.units * blockIdx.y / a.splits, u1 = a.units * (blockIdx.y + 1) / a.splits;
  const char* records = a.records + (size_t)index * a.units * RECORD;

  auto fetch_w = [&](int u, int stage) {
#pragma unroll
    for (int r = 0; r < RT; r++)
      if (index + r < a.num_tiles && u < u1)
        fetch_record(ring + (stage * RT + r) * RECORD, records + ((size_t)r * a.units + u) * RECORD, lane);
  };
  auto fetch_x = [&](int u, int stage) {
    if (u < u1)
#pragma unroll
      for (int i = 0; i < NT; i++)
        copy16(xs + (stage * NT + i) * 4096 + tid * 16, a.x + ((size_t)u * NT + i) * 256 + tid);
  };
  const Tables tables = ask_tables(a, tid);
  Tile tile[RT];
#pragma unroll
  for (int r = 0; r < RT; r++) tile[r] = a.tiles[min(index + r, a.num_tiles - 1)];
  fetch_w(u0, 0);
  fill_tables(lut, code2, tables, tid);
  depend_wait();
#pragma unroll
  for (int s = 0; s < DEPTH - 1; s++) {
    fetch_x(u0 + s, s);  // before the next weights: it would queue behind them
    if (s) fetch_w(u0 + s, s);
    copy_commit();
  }
  depend_launch();

  float y[RT][NT][4];
#pragma unroll
  for (int r = 0; r < RT; r++)
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) y[r][n][i] = 0.f;
  const u32 lut_lane = shared_address(lut) + lane * 4;
  int stage = 0;
  for (int u = u0; u < u1; u++) {
    float s2[RT][2];
#pragma unroll
    for (int r = 0; r < RT; r++) {
      s2[r][0] = s2[r][1] = 0.f;
#if NESTED
      s2[r][0] = __ldg(a.absmax2 + ((tile[r].start_low + g * a.blocks_per_row + u * 4) >> 8));
      s2[r][1] = __ldg(a.absmax2 + ((tile[r].start_high + g * a.blocks_per_row + u * 4) >> 8));
#endif
    }
    copy_wait<DEPTH - 2>();
    __syncthreads();  // this stage has arrived for everyone, and the one to be overwritten has been read
    {
      const int next = stage ? stage - 1 : DEPTH - 1;
      fetch_w(u + DEPTH - 1, next);
      fetch_x(u + DEPTH - 1, next);
      copy_commit();
    }
    const char* rec = ring + stage * RT * RECORD;
    const uint4* x = (const uint4*)(xs + stage * NT * 4096);
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
          decode(f[r][0], h ? w[r].z : w[r].x, lut_lane);
          decode(f[r][1], h ? w[r].w : w[r].y, lut_lane);
        }
#pragma unroll
        for (int n0 = 0; n0 < NT; n0 += 2) {  // an mma waits for the one before it on the same sums: alternate
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
        const float2 sc = scales(rec + r * RECORD, code2, g, i, s2[r][0], s2[r][1], tile[r].offset_low, tile[r].offset_high);
#pragma unroll
        for (int n = 0; n < NT; n++) {
          y[r][n][0] += sc.x * d[r][n][0], y[r][n][1] += sc.x * d[r][n][1];
          y[r][n][2] += sc.y * d[r][n][2], y[r][n][3] += sc.y * d[r][n][3];
        }
      }
    }
    if (++stage == DEPTH) stage = 0;
  }

  const int tiles_here = min(WARPS * RT, a.num_tiles - (int)blockIdx.x * WARPS * RT);
  int from = 0, to = tiles_here;  // the tiles of the block's rows that this block finishes
  if (a.splits > 1) {
    const size_t step = (size_t)a.num_tiles * NT * 32;
    float4* sums = a.partial + (size_t)index * NT * 32 + lane;
#pragma unroll
    for (int r = 0; r < RT; r++)
      if (index + r < a.num_tiles)
#pragma unroll
        for (int n = 0; n < NT; n++)
          __stcg(sums + blockIdx.y * step + (r * NT + n) * 32, make_float4(y[r][n][0], y[r][n][1], y[r][n][2], y[r][n][3]));
    __threadfence();
    __syncthreads();
    if (tid == 0) atomicAdd(a.counters + blockIdx.x, 1u);
  }
  if (KIND != RESIDUAL) norms<NT>(a, rstd, ssq, tid);
  if (a.splits == 1) {
#pragma unroll
    for (int r = 0; r < RT; r++)
#pragma unroll
      for (int n = 0; n < NT; n++)
        if (index + r < a.num_tiles)
          finish<KIND, NT>(a, tile[r], y[r][n], n, rstd, ssq + (warp * RT + r) * NT * 8, lane);
  } else {
    if (tid == 0) {
      u32 seen;
      do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(a.counters + blockIdx.x) : "memory");
      while (seen < a.splits);
      if (atomicAdd(a.counters + blockIdx.x, 1u) == 2 * a.splits - 1) a.counters[blockIdx.x] = 0;  // all have seen it
    }
    __syncthreads();
    from = WARPS * RT * blockIdx.y / a.splits, to = min(tiles_here, WARPS * RT * (int)(blockIdx.y + 1) / a.splits);
    for (int item = warp; item < (to - from) * NT; item += WARPS) {
      const int local = from + item / NT, n = item % NT, ti = blockIdx.x * WARPS * RT + local;
      const float4* p = a.partial + ((size_t)ti * NT + n) * 32 + lane;
      const size_t step = (size_t)a.num_tiles * NT * 32;
      float d[4] = {0.f, 0.f, 0.f, 0.f};
      for (int s = 0; s < a.splits; s += 8) {
        float4 v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = s + i < a.splits ? load_float4(p + (s + i) * step) : make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int i = 0; i < 8; i++) d[0] += v[i].x, d[1] += v[i].y, d[2] += v[i].z, d[3] += v[i].w;
      }
      finish<KIND, NT>(a, a.tiles[ti], d, n, rstd, ssq + local * NT * 8, lane);
    }
  }
  if (KIND == RESIDUAL) {
    __syncthreads();
    if (tid < NT * 8) {
      float s = 0.f;
      for (int i = from; i < to; i++) s += ssq[i * NT * 8 + tid];
      a.ssq_out[(blockIdx.x * a.splits + blockIdx.y) * NT * 8 + tid] = s;
    }
  }
}

#define KERNELS(NT, RT, DEPTH, BLOCKS)                                                                                \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS) gemm##NT##_qkv(const __grid_constant__ Linear a) { gemm<QKV, NT, RT, DEPTH>(a); } \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS) gemm##NT##_residual(const __grid_constant__ Linear a) { gemm<RESIDUAL, NT, RT, DEPTH>(a); } \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS) gemm##NT##_silu(const __grid_constant__ Linear a) { gemm<SILU, NT, RT, DEPTH>(a); }
// Tiles a warp and records in flight, as machine.py has them: STAGES1 .. STAGES8, RT1 .. RT8
KERNELS(1, RT1, STAGES1, 2)
KERNELS(2, RT2, STAGES2, 2)
#if STAGES4
KERNELS(4, RT4, STAGES4, 1)
#endif
#if STAGES8
KERNELS(8, RT8, STAGES8, 1)
#endif
