// The two ends of a step, and what prefill needs beside cuBLAS.
// Compiled with -DHEAD_DIM, -DKV_HEADS, -DPAGE, -DNESTED.

// Residual stream, packed activations and sum of squares of each column's token. One block a column.
struct Embed {
  const int* tokens;
  const bf16* table;  // [vocabulary][width]
  const bf16* gain;
  float* h;
  bf16* x;
  float* ssq;  // [columns of the bucket]
  int width, nt;
};

__device__ __forceinline__ float block_sum(float v) {
  __shared__ float part[32];
  v = warp_sum(v);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
  __syncthreads();
  float s = 0.f;
  for (int i = 0; i < (blockDim.x + 31) / 32; i++) s += part[i];
  return s;
}

extern "C" __global__ void embed(const __grid_constant__ Embed a) {
  const int m = blockIdx.x;
  depend_wait();
  depend_launch();
  const bf16* row = a.table + (size_t)a.tokens[m] * a.width;
  float s = 0.f;
  for (int k = threadIdx.x; k < a.width; k += blockDim.x) {
    const float v = to_float(row[k]);
    a.h[(size_t)m * a.width + k] = v;
    a.x[packed(k, m, a.nt)] = to_bf16(v * to_float(a.gain[k]));
    s += v * v;
  }
  s = block_sum(s);
  if (threadIdx.x == 0) a.ssq[m] = s;
}

// x[column][width] = bf16 of the normalized residual stream, for the product with the vocabulary.
struct Norm {
  const float* h;
  const bf16* gain;
  bf16* x;
  int width;
  float eps;
};

extern "C" __global__ void final_norm(const __grid_constant__ Norm a) {
  depend_wait();
  depend_launch();
  const float* h = a.h + (size_t)blockIdx.x * a.width;
  float s = 0.f;
  for (int k = threadIdx.x; k < a.width; k += blockDim.x) s += load_float(h + k) * load_float(h + k);
  const float r = rsqrtf(block_sum(s) / a.width + a.eps);
  for (int k = threadIdx.x; k < a.width; k += blockDim.x)
    a.x[(size_t)blockIdx.x * a.width + k] = to_bf16(round_bf16(load_float(h + k) * r) * to_float(a.gain[k]));
}

// Records -> row-major bf16 [rows][width], rows in the checkpoint's order: w = bf16(code * absmax), both fp32, as
// bitsandbytes dequantizes. One warp a record.
struct Unpack {
  const char* records;
  const Tile* tiles;
  const float* absmax2;
  const float* code2;
  const float* codes;  // [16]
  bf16* out;
  int num_tiles, units, blocks_per_row, width;
};

extern "C" __global__ void __launch_bounds__(256) unpack(const __grid_constant__ Unpack a) {
  __shared__ float codes[16];
  if (threadIdx.x < 16) codes[threadIdx.x] = a.codes[threadIdx.x];
  __syncthreads();
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int index = (blockIdx.x * blockDim.x + threadIdx.x) >> 5;
  if (index >= a.num_tiles * a.units) return;
  const int ti = index / a.units, u = index % a.units;
  const Tile tile = a.tiles[ti];
  const char* rec = a.records + (size_t)index * RECORD;
  float s2a = 0.f, s2b = 0.f;
#if NESTED
  s2a = a.absmax2[(tile.start_low + g * a.blocks_per_row + u * 4) >> 8];
  s2b = a.absmax2[(tile.start_high + g * a.blocks_per_row + u * 4) >> 8];
#endif
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 sc = scales(rec, a.code2, g, i, s2a, s2b, tile.offset_low, tile.offset_high);
    const uint4 w = *(const uint4*)(rec + i * 512 + lane * 16);
    const u32 ws[4] = {w.x, w.y, w.z, w.w};
    const int k = u * 256 + i * 64;
    if (k >= a.width) break;
#pragma unroll
    for (int s = 0; s < 4; s++)
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const u32 byte = (ws[s] >> (8 * b)) & 255;
        const float f = (b & 1) ? sc.y : sc.x;
        const size_t row = ((b & 1) ? tile.high : tile.low) + g;
        *(u32*)(a.out + row * a.width + k + s * 16 + (b >> 1) * 8 + t * 2) = pack_bf16(codes[byte >> 4] * f, codes[byte & 15] * f);
      }
  }
}

// Prefill: rotate q in place, rotate k and copy v into the pages. Block (token, head of q, k and v together).
struct Rotate {
  bf16* qkv;  // [tokens][q_rows + 2 * k_rows]
  bf16* kv;
  const int* pages;  // of the slot
  const float2* rope;
  int first, q_heads;
};

extern "C" __global__ void rotate_store(const __grid_constant__ Rotate a) {
  const int token = blockIdx.x, head = blockIdx.y, d = threadIdx.x, p = a.first + token;
  bf16* row = a.qkv + ((size_t)token * (a.q_heads + 2 * KV_HEADS) + head) * HEAD_DIM;
  const int kv_head = head - a.q_heads;
  bf16* page = a.kv + (size_t)a.pages[p / PAGE] * 2 * KV_HEADS * PAGE * HEAD_DIM + (p % PAGE) * HEAD_DIM;
  if (kv_head >= KV_HEADS) {
    bf16* to = page + (size_t)kv_head * PAGE * HEAD_DIM;  // heads of v follow those of k
    to[d] = row[d], to[d + HEAD_DIM / 2] = row[d + HEAD_DIM / 2];
    return;
  }
  const float2 r = a.rope[(size_t)p * (HEAD_DIM / 2) + d];
  const float lo = to_float(row[d]), hi = to_float(row[d + HEAD_DIM / 2]);
  const bf16 x = to_bf16(lo * r.x - hi * r.y), y = to_bf16(hi * r.x + lo * r.y);
  row[d] = x, row[d + HEAD_DIM / 2] = y;
  if (kv_head >= 0) {
    bf16* to = page + (size_t)kv_head * PAGE * HEAD_DIM;
    to[d] = x, to[d + HEAD_DIM / 2] = y;
  }
}

// Prefill: act = silu(gate) * up over [tokens][2 * width] -> [tokens][width].
struct Product {
  const bf16* in;
  bf16* out;
  int width;
};

extern "C" __global__ void silu_product(const __grid_constant__ Product a) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= a.width) return;
  const bf16* row = a.in + (size_t)blockIdx.y * 2 * a.width;
  const uint4 gate = *(const uint4*)(row + i), up = *(const uint4*)(row + a.width + i);
  const u32 gs[4] = {gate.x, gate.y, gate.z, gate.w}, us[4] = {up.x, up.y, up.z, up.w};
  u32 r[4];
#pragma unroll
  for (int e = 0; e < 4; e++)
    r[e] = pack_bf16(round_bf16(silu(to_float(gs[e] & 0xffff))) * to_float(us[e] & 0xffff),
                     round_bf16(silu(to_float(gs[e] >> 16))) * to_float(us[e] >> 16));
  *(uint4*)(a.out + (size_t)blockIdx.y * a.width + i) = make_uint4(r[0], r[1], r[2], r[3]);
}
