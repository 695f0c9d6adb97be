// One column: y = W x for a step with a single token. It is bound by memory, so loads must never pause.
// A block owns whole row tiles. Its warps process the records in turn and combine their sums in shared memory once, at
// the end, so no partial sums leave the multiprocessor. Each lane loads its own bytes with cp.async into a private ring
// and reads them back itself, so the ring needs no barrier. One block fills a multiprocessor. The next kernel's block
// starts on it when this one ends, and fills its ring while the last blocks of this kernel are still running.
// Column i of B holds the activations of block i only (the other columns would be idle), so each lane reads an eighth
// of the activations and half of the absmax values.
// Alternatives, measured on an H100 as the time of a whole step (2.03 ms as it is):
//   two smaller blocks per multiprocessor    2.65 (some get both blocks of one kernel and finish last, by half)
//   12, 20 or 24 warps                       2.04, 2.05, 2.13
//   three or four records in flight          2.14, 2.19
//   records loaded directly into registers   2.02 to 2.13
//   first bytes of the next product prefetched into L2   2.10
//   a window of 4 to 16 records prefetched into L2       2.17 to 2.42
//   a quarter or half of the codes decoded by byte permutations instead of the table   2.09, 2.30
// Multiprocessors finish between 18 and 25 us after the start of gate/up, which takes 22 us.
// Compiled with -DGEMV_WARPS and -DSTAGES (records in flight per warp).
#define W GEMV_WARPS

// The part of the residual stream that a row's result is added to. It is loaded early because it comes from L2.
template <int KIND>
__device__ __forceinline__ float residual_of(const Linear& a, const Tile& tile, int lane) {
  return KIND == RESIDUAL ? load_float(a.h + ((lane & 8) ? tile.high : tile.low) + (lane & 7)) : 0.f;
}

template <int KIND>
__device__ __forceinline__ void finish(const Linear& a, const Tile& tile, float residual, int lane, float y) {
  const int r = lane & 15, g = r & 7;
  y *= a.code_scale;
  if (KIND == QKV) {
    const float other = __shfl_xor_sync(~0u, y, 8);
    if (lane < 8) store_qkv(a, tile, g, 0, y, other);
  } else if (KIND == SILU) {
    y = round_bf16(y);
    const float up = __shfl_xor_sync(~0u, y, 8);
    if (lane < 8) a.x_out[packed(tile.low + g, 0, 0)] = to_bf16(round_bf16(silu(y)) * up);
  } else {
    const int k = (r < 8 ? tile.low : tile.high) + g;
    const float h = round_bf16(residual + round_bf16(y));  // where the model rounds
    if (lane < 16) {
      a.h[k] = h;
      a.x_out[packed(k, 0, 0)] = to_bf16(h);
    }
  }
}

// TOGETHER: number of row tiles between two reductions
template <int KIND, int DEPTH, int TOGETHER>
__device__ __forceinline__ void gemv(const Linear& a) {
  extern __shared__ __align__(128) char shared[];
  char* lut = shared;
  float* code2 = (float*)(shared + LUT_BYTES);
  float* square = code2 + 256;  // [32]
  float* sums = square + 32;    // [TOGETHER][W][16]
  uint4* x = (uint4*)(sums + TOGETHER * W * 16);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
  char* ring = (char*)(x + a.units * 32) + warp * (DEPTH * RECORD);
  const int first = (int)((long long)a.num_tiles * blockIdx.x / gridDim.x);
  const int last = (int)((long long)a.num_tiles * (blockIdx.x + 1) / gridDim.x);

  // The records of the block's tiles are numbered consecutively and go to the warps in turn.
  const char* next = a.records + ((size_t)first * a.units + warp) * RECORD;
  int left = (last - first) * a.units - warp;
  auto fetch = [&](int stage) {
    if (left > 0) fetch_record(ring + stage * RECORD, next, lane);
    next += W * RECORD, left -= W;
    copy_commit();
  };
  const Tables tables = ask_tables(a, tid);
  Tile mine = a.tiles[min(first + warp, last - 1)];  // the tile this warp finishes first
  fetch(0);
  // Gains of the 8 values of chunk i, in the order in which `packed` has them.
  auto gains = [&](u32 (&gain)[4], int i) {
    const int k = (i >> 2) * 32 + (i & 3) * 2;
#pragma unroll
    for (int e = 0; e < 4; e++) gain[e] = k < a.width ? *(const u32*)(a.gain + k + e * 8) : 0;
  };
  u32 gain[4];
  if (KIND != RESIDUAL) gains(gain, tid);
  fill_tables(lut, code2, tables, tid);
  depend_wait();
  float s = 0.f;
  for (int i = tid; i < max(a.units * 32, W * 32); i += 4 * W * 32) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (i + j * W * 32 < a.units * 32) v[j] = load_uint4(a.x + i + j * W * 32);
    if (i == tid) {  // the rest of the ring queues behind the activations, not before them
#pragma unroll
      for (int d = 1; d < DEPTH; d++) fetch(d);
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (i + j * W * 32 < a.units * 32) {
        x[i + j * W * 32] = v[j];
        if (KIND != RESIDUAL && (i + j * W * 32 >> 2) * 32 < a.width) s += squares(v[j]);  // padding may hold anything
      }
  }
  float residual = residual_of<KIND>(a, mine, lane);
  depend_launch();
  if (KIND != RESIDUAL) {  // each thread normalizes what it has just written
    s = warp_sum(s);
    if (lane == 0) square[warp] = s;
    __syncthreads();
    const float rstd = rsqrtf(warp_sum(lane < W ? square[lane] : 0.f) * a.inv_width + a.eps);
    for (int i = tid; i < a.units * 32; i += W * 32) {
      if (i != tid) gains(gain, i);
      x[i] = normed(x[i], gain, rstd);
    }
  }
  __syncthreads();

  const u32 table = shared_address(lut);
  int stage = 0, u = warp;
  for (int begin = first; begin < last; begin += TOGETHER) {
    const int end = min(begin + TOGETHER, last);
    for (int ti = begin; ti < end; ti++) {
      const Tile tile = a.tiles[ti];
      const int sa = tile.start_low + g * a.blocks_per_row, sb = tile.start_high + g * a.blocks_per_row;
      float y0 = 0.f, y1 = 0.f;
      for (; u < a.units; u += W) {
        float s2a = 0.f, s2b = 0.f;
#if NESTED
        s2a = __ldg(a.absmax2 + ((sa + u * 4) >> 8)), s2b = __ldg(a.absmax2 + ((sb + u * 4) >> 8));
#endif
        copy_wait<DEPTH - 1>();
        __syncwarp();  // the absmax bytes were fetched by other lanes
        const char* rec = ring + stage * RECORD;
        const uint4 x0 = g < 4 ? x[(u * 8 + g * 2) * 4 + t] : make_uint4(0, 0, 0, 0);
        const uint4 x1 = g < 4 ? x[(u * 8 + g * 2 + 1) * 4 + t] : make_uint4(0, 0, 0, 0);
        float d[2][4] = {{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const uint4 w = *(const uint4*)(rec + i * 512 + lane * 16);
          const bool mine = g == i;
          u32 f[4];
          decode(f, w.x, lane * 4, table);
          mma(d[0], f[0], f[1], f[2], f[3], mine ? x0.x : 0, mine ? x0.y : 0);
          decode(f, w.y, lane * 4, table);
          mma(d[1], f[0], f[1], f[2], f[3], mine ? x0.z : 0, mine ? x0.w : 0);
          decode(f, w.z, lane * 4, table);
          mma(d[0], f[0], f[1], f[2], f[3], mine ? x1.x : 0, mine ? x1.y : 0);
          decode(f, w.w, lane * 4, table);
          mma(d[1], f[0], f[1], f[2], f[3], mine ? x1.z : 0, mine ? x1.w : 0);
        }
        float s[4];  // absmax of rows g, g+8 in block 2t, then in block 2t+1
#if NESTED
        const u32 q = *(const u32*)(rec + CODE_BYTES + g * 8 + (t & 1) * 4);
#pragma unroll
        for (int i = 0; i < 4; i++)
          s[i] = __fadd_rn(__fmul_rn(code2[(q >> (8 * i)) & 255], (i & 1) ? s2b : s2a), (i & 1) ? tile.offset_high : tile.offset_low);
#else
        *(float4*)s = *(const float4*)(rec + CODE_BYTES + g * 32 + (t & 1) * 16);
#endif
        y0 += s[0] * (d[0][0] + d[1][0]) + s[2] * (d[0][1] + d[1][1]);
        y1 += s[1] * (d[0][2] + d[1][2]) + s[3] * (d[0][3] + d[1][3]);
        __syncwarp();  // all lanes have read the absmax bytes of this stage
        fetch(stage);
        if (++stage == DEPTH) stage = 0;
      }
      u -= a.units;
      float* sum = sums + ((ti - begin) * W + warp) * 16;
      y0 += __shfl_xor_sync(~0u, y0, 1);
      y1 += __shfl_xor_sync(~0u, y1, 1);
      if (t == 0) sum[g] = y0, sum[g + 8] = y1;
    }
    __syncthreads();
    for (int ti = begin + warp; ti < end; ti += W) {
      if (ti != first + warp) mine = a.tiles[ti], residual = residual_of<KIND>(a, mine, lane);
      const float* sum = sums + (ti - begin) * W * 16 + (lane >> 4) * (W / 2) * 16 + (lane & 15);
      float y = 0.f;
#pragma unroll
      for (int i = 0; i < W / 2; i++) y += sum[i * 16];
      y += __shfl_xor_sync(~0u, y, 16);
      finish<KIND>(a, mine, residual, lane, y);
    }
    if (end < last) __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(W * 32, 1) gemv_qkv(const __grid_constant__ Linear a) { gemv<QKV, STAGES, 4>(a); }
extern "C" __global__ void __launch_bounds__(W * 32, 1) gemv_residual(const __grid_constant__ Linear a) { gemv<RESIDUAL, STAGES, 4>(a); }
extern "C" __global__ void __launch_bounds__(W * 32, 1) gemv_silu(const __grid_constant__ Linear a) { gemv<SILU, STAGES, 16>(a); }
