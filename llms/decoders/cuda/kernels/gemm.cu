// 8, 16, 32 or 64 columns: Y = W X for a step of several tokens. A block owns RT row tiles per warp and a share of K.
// The activations of 256 columns of W are loaded into shared memory once for all its warps. The weights go through the
// same private ring as in gemv.cu. If the rows alone do not fill the GPU, K is split over blocks that all run at the
// same time: each writes its fp32 sums, waits for the others, and adds up an equal share of the row tiles in a fixed
// order.
// -DX_UNITS: see WHOLE below; 0 means never. With WGMMA there are 16 warps, four of which share one instruction: 64 rows
// of weights, decoded into registers, times all columns from shared memory. Without it there are 8 warps and mma, and
// RT = 2 from 32 columns on, where reading activations from shared memory is the limit and two tiles share the reads.
#if WGMMA
#define WARPS 16
#else
#define WARPS 8
#endif

// d: rows g, g+8 (two runs of 8) by columns n*8 + 2t, +1; ssq: this tile's row of sums of squares.
// The values from global memory that are needed to finish a tile's columns n*8 ..: the residual stream, [column][run];
// or the page and the rotation for keys and values.
struct Far {
  float h[2][2];
};

template <int KIND>
__device__ __forceinline__ Far from_far(const Linear& a, const Tile& tile, int n, int lane) {
  const int g = lane >> 2, m = n * 8 + (lane & 3) * 2;
  Far far{};
#pragma unroll
  for (int e = 0; e < 2; e++) {
    if (m + e >= a.columns) continue;
    if (KIND == RESIDUAL) {
      far.h[e][0] = load_float(a.h + (size_t)(m + e) * a.width + tile.low + g);
      far.h[e][1] = load_float(a.h + (size_t)(m + e) * a.width + tile.high + g);
    } else if (KIND == QKV) {
      const int p = a.pos[m + e], page = a.pages[a.slot[m + e] * a.max_pages + p / PAGE];
      const float2 r = a.rope[(size_t)p * (HEAD_DIM / 2) + (tile.low + g) % (HEAD_DIM / 2)];
      asm volatile("" ::"r"(page), "f"(r.x));
    }
  }
  return far;
}

template <int KIND, int NT>
__device__ __forceinline__ void finish(const Linear& a, const Tile& tile, const float (&d)[4], int n, const float* rstd,
                                       float* ssq, int lane, const Far& far) {
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
    float h[2][2];
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        h[e][r] = round_bf16(far.h[e][r] + round_bf16(d[e + r * 2] * a.code_scale));
        if (m + e < a.columns) a.h[(size_t)(m + e) * a.width + (r ? tile.high : tile.low) + g] = h[e][r];
        else h[e][r] = 0.f;
      }
    const float ga = to_float(a.gain[tile.low + g]), gb = to_float(a.gain[tile.high + g]);
    const int mine = g & 1;
    const float oa = __shfl_xor_sync(~0u, (mine ? h[0][0] : h[1][0]) * ga, 4);
    const float ob = __shfl_xor_sync(~0u, (mine ? h[0][1] : h[1][1]) * gb, 4);
    const float va = (mine ? h[1][0] : h[0][0]) * ga, vb = (mine ? h[1][1] : h[0][1]) * gb;
    *(u32*)(a.x_out + packed(tile.low + (g & ~1), m + mine, NT)) = mine ? pack_bf16(oa, va) : pack_bf16(va, oa);
    *(u32*)(a.x_out + packed(tile.high + (g & ~1), m + mine, NT)) = mine ? pack_bf16(ob, vb) : pack_bf16(vb, ob);
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

// Writes 1 / rms of each column, times the scale of the codes, to shared memory. All threads take part, and it ends with
// a barrier.
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
    rstd[tid] = rsqrtf(s * a.inv_width + a.eps) * a.code_scale;
  }
  __syncthreads();
}

// Makes this thread's copies into shared memory visible to wgmma, which is not ordered with plain accesses.
__device__ __forceinline__ void publish() {
#if WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// WHOLE: all activations of the block's share of K are in shared memory before the first product, so the warps of the
// block need no barrier. X_UNITS is the largest share, in units of 256 columns.
template <int KIND, int NT, int RT, int DEPTH, bool WHOLE>
__device__ __forceinline__ void gemm(const Linear& a) {
  extern __shared__ __align__(128) char shared[];
  char* lut = shared;
  float* code2 = (float*)(shared + LUT_BYTES);
  float* rstd = code2 + 256;  // [64]
  float* ssq = rstd + 64;     // [WARPS * RT][NT * 8], at least a float a thread: `norms` works there too
  char* xs = (char*)(ssq + max(WARPS * RT * NT * 8, WARPS * 32));
  char* rings = xs + (WHOLE ? X_UNITS : DEPTH) * NT * 4096;
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
      for (int i = tid; i < NT * 256; i += WARPS * 32) copy16(xs + stage * NT * 4096 + i * 16, a.x + (size_t)u * NT * 256 + i);
  };
  const Tables tables = ask_tables(a, tid);
  Tile tile[RT];
#pragma unroll
  for (int r = 0; r < RT; r++) tile[r] = a.tiles[min(index + r, a.num_tiles - 1)];
  if (WHOLE) {
#pragma unroll
    for (int s = 0; s < DEPTH; s++) fetch_w(u0 + s, s), copy_commit();
    fill_tables(lut, code2, tables, tid);
    depend_wait();
    for (int u = u0; u < u1; u++) fetch_x(u, u - u0);
    copy_commit();
  } else {
    fetch_w(u0, 0);
    fill_tables(lut, code2, tables, tid);
    depend_wait();
#pragma unroll
    for (int s = 0; s < DEPTH - 1; s++) {
      fetch_x(u0 + s, s);  // It comes before the next weights; otherwise it would queue behind them.
      if (s) fetch_w(u0 + s, s);
      copy_commit();
    }
  }
  depend_launch();

  float y[RT][NT][4];
#pragma unroll
  for (int r = 0; r < RT; r++)
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) y[r][n][i] = 0.f;
  const u32 table = shared_address(lut);
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
    if (WHOLE && u > u0) {
      copy_wait<DEPTH - 1>();
      __syncwarp();
    } else {
      copy_wait<WHOLE ? 0 : DEPTH - 2>();
      publish();
      __syncthreads();  // This stage has arrived for all warps, and the one to be overwritten has been read.
    }
    if (!WHOLE) {
      const int next = stage ? stage - 1 : DEPTH - 1;
      fetch_w(u + DEPTH - 1, next);
      fetch_x(u + DEPTH - 1, next);
      copy_commit();
    }
    if (u == max(u0, u1 - DEPTH + 1)) {
      const int block = blockIdx.y * gridDim.x + blockIdx.x;
      look_ahead(a.ahead, block * WARPS + warp, gridDim.x * gridDim.y * WARPS);
    }
    const char* rec = ring + stage * RT * RECORD;
    multiply<NT, RT>(y, rec, xs + (WHOLE ? u - u0 : stage) * NT * 4096, code2, s2, tile, table, lane);
    if (WHOLE) {
      __syncwarp();
      fetch_w(u + DEPTH, stage);
      copy_commit();
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
          finish<KIND, NT>(a, tile[r], y[r][n], n, rstd, ssq + (warp * RT + r) * NT * 8, lane, from_far<KIND>(a, tile[r], n, lane));
  } else {
    // Each warp takes items (8 columns of a tile) in turn. The inputs of its first one are loaded during the wait.
    from = WARPS * RT * blockIdx.y / a.splits, to = min(tiles_here, WARPS * RT * (int)(blockIdx.y + 1) / a.splits);
    Tile mine;
    Far far;
    auto ask = [&](int item) {
      mine = a.tiles[blockIdx.x * WARPS * RT + from + item / NT];
      far = from_far<KIND>(a, mine, item % NT, lane);
    };
    const int items = (to - from) * NT;
    if (warp < items) ask(warp);
    if (tid == 0) {
      u32 seen;
      do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(a.counters + blockIdx.x) : "memory");
      while (seen < a.splits);
    }
    __syncthreads();
    for (int item = warp; item < items; item += WARPS) {
      const int local = from + item / NT, n = item % NT, ti = blockIdx.x * WARPS * RT + local;
      if (item != warp) ask(item);
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
      finish<KIND, NT>(a, mine, d, n, rstd, ssq + local * NT * 8, lane, far);
    }
    if (tid == 0 && atomicAdd(a.counters + blockIdx.x, 1u) == 2 * a.splits - 1) a.counters[blockIdx.x] = 0;  // All blocks have seen it.
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

#define KERNEL(KIND, NAME, NT, RT, DEPTH, BLOCKS, WHOLE)                                                                  \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) gemm##NT##_##NAME(const __grid_constant__ Linear a) { \
    gemm<KIND, NT, RT, DEPTH, WHOLE>(a);                                                                                  \
  }
#define KERNELS(NT, RT, DEPTH, BLOCKS, WHOLE)            \
  KERNEL(QKV, qkv, NT, RT, DEPTH, BLOCKS, WHOLE)           \
  KERNEL(RESIDUAL, residual, NT, RT, DEPTH, BLOCKS, WHOLE) \
  KERNEL(SILU, silu, NT, RT, DEPTH, BLOCKS, WHOLE)
// Tiles per warp and records in flight, as in machine.py: STAGES1 .. STAGES8, RT1 .. RT8
KERNELS(1, RT1, STAGES1, WGMMA ? 1 : 2, (X_UNITS > 0))
KERNELS(2, RT2, STAGES2, WGMMA ? 1 : 2, false)
#if STAGES4
KERNELS(4, RT4, STAGES4, 1, false)
#endif
#if STAGES8
KERNELS(8, RT8, STAGES8, 1, false)
#endif
