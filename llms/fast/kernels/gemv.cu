// One column: y = W x for a step with a single token. Memory bound: what matters is that loads never stop.
// A block owns whole row tiles, its 8 warps split K and meet in shared memory, so no partial sums leave the
// multiprocessor. Each lane fetches its own bytes with cp.async into a private ring and reads them back itself:
// no barrier guards the ring, and the first STAGES records are in flight before the previous kernel has ended.
// 2 blocks fit a multiprocessor, so the next kernel's block can start fetching in the tail of this one.
// Compiled with -DSTAGES (records in flight a warp) and -DSTAGES_RESIDUAL, fewer: the long rows of "down" need the
// room for their activations.

enum { QKV, RESIDUAL, SILU };

template <int KIND>
__device__ __forceinline__ void finish(const Linear& a, const Tile& tile, int index, int lane, float y, float rstd) {
  const int r = lane & 15, g = r & 7;
  if (KIND == QKV) {
    y *= rstd;
    const float other = __shfl_xor_sync(~0u, y, 8);
    if (lane < 8) store_qkv(a, tile, g, 0, y, other);
  } else if (KIND == SILU) {
    y = round_bf16(y * rstd);
    const float up = __shfl_xor_sync(~0u, y, 8);
    if (lane < 8) a.x_out[packed(tile.low + g, 0, 0)] = to_bf16(round_bf16(silu(y)) * up);
  } else {
    const int row = (r < 8 ? tile.low : tile.high) + g;
    float h = 0.f;
    if (lane < 16) {
      h = load_float(a.h + row) + round_bf16(y);
      a.h[row] = h;
      a.x_out[packed(row, 0, 0)] = to_bf16(h * to_float(a.gain[row]));
    }
    const float s = warp_sum(h * h);
    if (lane == 0) a.ssq_out[index] = s;
  }
}

template <int KIND, int DEPTH>
__device__ __forceinline__ void gemv(const Linear& a) {
  extern __shared__ __align__(128) char shared[];
  char* lut = shared;
  float* code2 = (float*)(shared + LUT_BYTES);
  float* sums = code2 + 256;  // [2][WARPS][16]
  uint4* x = (uint4*)(sums + 2 * WARPS * 16);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
  char* ring = (char*)(x + a.units * 32) + warp * (DEPTH * RECORD);
  const int first = (int)((long long)a.num_tiles * blockIdx.x / gridDim.x);
  const int last = (int)((long long)a.num_tiles * (blockIdx.x + 1) / gridDim.x);

  int ft = first, fu = warp;  // next record to fetch
  if (fu >= a.units) ft = last;
  auto fetch = [&](int stage) {
    if (ft < last) {
      fetch_record(ring + stage * RECORD, a.records + ((size_t)ft * a.units + fu) * RECORD, lane);
      if ((fu += WARPS) >= a.units) fu = warp, ft++;
    }
    copy_commit();
  };
#pragma unroll
  for (int s = 0; s < DEPTH; s++) fetch(s);
  fill_lut(lut, code2, a, tid);
  depend_wait();
  for (int i = tid; i < a.units * 32; i += WARPS * 32) x[i] = load_uint4(a.x + i);
  float rstd = 1.f;
  if (KIND != RESIDUAL) {
    float s = 0.f;
    for (int i = lane; i < a.ssq_count; i += 32) s += load_float(a.ssq_in + i);
    rstd = rsqrtf(warp_sum(s) * a.inv_width + a.eps);
  }
  depend_launch();
  __syncthreads();

  const char* lut_lane = lut + lane * 4;
  int stage = 0;
  for (int ti = first; ti < last; ti++) {
    const Tile tile = a.tiles[ti];
    const int sa = tile.start_low + g * a.blocks_per_row, sb = tile.start_high + g * a.blocks_per_row;
    float y0 = 0.f, y1 = 0.f;
    for (int u = warp; u < a.units; u += WARPS) {
      float s2a = 0.f, s2b = 0.f;
#if NESTED
      s2a = __ldg(a.absmax2 + ((sa + u * 4) >> 8)), s2b = __ldg(a.absmax2 + ((sb + u * 4) >> 8));
#endif
      copy_wait<DEPTH - 1>();
      __syncwarp();  // the absmax bytes were fetched by other lanes
      const char* rec = ring + stage * RECORD;
      uint4 w[4];
#pragma unroll
      for (int i = 0; i < 4; i++) w[i] = *(const uint4*)(rec + i * 512 + lane * 16);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 sc = scales(rec, code2, g, i, s2a, s2b, tile.offset_low, tile.offset_high);
        float d[4] = {0.f, 0.f, 0.f, 0.f};
        const u32 ws[4] = {w[i].x, w[i].y, w[i].z, w[i].w};
#pragma unroll
        for (int s = 0; s < 4; s++) {
          u32 f[4];
          decode(f, ws[s], lut_lane);
          const uint4 b = x[(u * 8 + i * 2 + (s >> 1)) * 4 + t];
          mma(d, f[0], f[1], f[2], f[3], (s & 1) ? b.z : b.x, (s & 1) ? b.w : b.y);
        }
        y0 += sc.x * d[0];
        y1 += sc.y * d[2];
      }
      __syncwarp();  // all lanes have read the absmax bytes of this stage
      fetch(stage);
      if (++stage == DEPTH) stage = 0;
    }
    float* sum = sums + (ti & 1) * WARPS * 16;
    if (t == 0) sum[warp * 16 + g] = y0, sum[warp * 16 + g + 8] = y1;
    __syncthreads();  // two buffers: whoever finishes a tile joins the next barrier only afterwards
    if (warp == (ti & (WARPS - 1))) {
      float y = 0.f;
#pragma unroll
      for (int i = 0; i < WARPS / 2; i++) y += sum[((lane >> 4) * (WARPS / 2) + i) * 16 + (lane & 15)];
      y += __shfl_xor_sync(~0u, y, 16);
      finish<KIND>(a, tile, ti, lane, y, rstd);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 2) gemv_qkv(const __grid_constant__ Linear a) { gemv<QKV, STAGES>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) gemv_residual(const __grid_constant__ Linear a) { gemv<RESIDUAL, STAGES_RESIDUAL>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) gemv_silu(const __grid_constant__ Linear a) { gemv<SILU, STAGES>(a); }
