// The first and the last kernel of a step, and the kernels that prefill needs in addition to cuBLAS.
// Compiled with -DHEAD_DIM, -DKV_HEADS, -DPAGE, -DNESTED.

// The residual stream, packed activations (multiplied by the gain if there are several columns) and sum of squares of
// each column's token. One block per column.
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
  for (int k = threadIdx.x * 8; k < a.width; k += blockDim.x * 8) {
    const uint4 values = *(const uint4*)(row + k), gains = *(const uint4*)(a.gain + k);
    const u32 vs[4] = {values.x, values.y, values.z, values.w}, gs[4] = {gains.x, gains.y, gains.z, gains.w};
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float lo = to_float(vs[e] & 0xffff), hi = to_float(vs[e] >> 16);
      *(float2*)(a.h + (size_t)m * a.width + k + e * 2) = make_float2(lo, hi);
      *(u32*)(a.x + packed(k + e * 2, m, a.nt)) =
          a.nt ? pack_bf16(lo * to_float(gs[e] & 0xffff), hi * to_float(gs[e] >> 16)) : vs[e];
      s += lo * lo + hi * hi;
    }
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

// Dequantizes records to row-major bf16 [rows][width], with rows in the checkpoint's order: w = bf16(code * absmax) in
// fp32, as bitsandbytes does. One warp per record.
struct Unpack {
  const char* records;
  const Tile* tiles;
  const float* absmax2;
  const float* code2;
  const float* codes;  // [16]
  bf16* out;
  int num_tiles, units, blocks_per_row, width;
  int low, high;  // subtracted from the row numbers of the tiles' low and high runs
};

extern "C" __global__ void __launch_bounds__(256) unpack(const __grid_constant__ Unpack a) {
  __shared__ float codes[16], code2[256];
  __shared__ __align__(16) bf16 block[8][16][72];  // per warp 16 rows x 64 columns; 72 keeps 16-byte rows apart in banks
  if (threadIdx.x < 16) codes[threadIdx.x] = a.codes[threadIdx.x];
  code2[threadIdx.x] = a.code2[threadIdx.x];
  __syncthreads();
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int index = blockIdx.x * 8 + warp;
  if (index >= a.num_tiles * a.units) return;
  const int ti = index / a.units, u = index % a.units;
  const Tile tile = a.tiles[ti];
  const char* rec = a.records + (size_t)index * RECORD;
  float s2a = 0.f, s2b = 0.f;
#if NESTED
  s2a = a.absmax2[(tile.start_low + g * a.blocks_per_row + u * 4) >> 8];
  s2b = a.absmax2[(tile.start_high + g * a.blocks_per_row + u * 4) >> 8];
#endif
  uint4 w[4];
#pragma unroll
  for (int i = 0; i < 4; i++) w[i] = *(const uint4*)(rec + i * 512 + lane * 16);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 sc = scales(rec, code2, g, i, s2a, s2b, tile.offset_low, tile.offset_high);
    const u32 ws[4] = {w[i].x, w[i].y, w[i].z, w[i].w};
    const int k = u * 256 + i * 64;
    if (k >= a.width) break;
    __syncwarp();
#pragma unroll
    for (int s = 0; s < 4; s++)
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const u32 byte = (ws[s] >> (8 * b)) & 255;
        const float f = (b & 1) ? sc.y : sc.x;
        *(u32*)&block[warp][(b & 1) * 8 + g][s * 16 + (b >> 1) * 8 + t * 2] = pack_bf16(codes[byte >> 4] * f, codes[byte & 15] * f);
      }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; j++) {  // 4 rows of 128 bytes at a time
      const int r = j * 4 + (lane >> 3);
      const int row = r < 8 ? tile.low - a.low + r : tile.high - a.high + r - 8;
      *(uint4*)(a.out + (size_t)row * a.width + k + (lane & 7) * 8) = *(const uint4*)&block[warp][r][(lane & 7) * 8];
    }
  }
}

// Prefill: adds a layer's result to the residual stream and normalizes it for the next layer. Both are rounded where
// the model rounds. One block per token, 8 values per thread at a time.
struct AddNorm {
  bf16* h;          // [tokens][width]
  const bf16* y;    // added to h unless null
  const bf16* gain;
  bf16* x;
  int width;
  float eps;
};

extern "C" __global__ void __launch_bounds__(512) add_norm(const __grid_constant__ AddNorm a) {
  const size_t row = (size_t)blockIdx.x * a.width;
  float s = 0.f;
  for (int k = threadIdx.x * 8; k < a.width; k += blockDim.x * 8) {
    uint4 h = *(const uint4*)(a.h + row + k);
    if (a.y) {
      const uint4 y = *(const uint4*)(a.y + row + k);
      h = make_uint4(add_pair(h.x, y.x), add_pair(h.y, y.y), add_pair(h.z, y.z), add_pair(h.w, y.w));
      *(uint4*)(a.h + row + k) = h;
    }
    s += squares(h);
  }
  const float r = rsqrtf(block_sum(s) / a.width + a.eps);
  for (int k = threadIdx.x * 8; k < a.width; k += blockDim.x * 8) {
    const uint4 g = *(const uint4*)(a.gain + k);
    const u32 gain[4] = {g.x, g.y, g.z, g.w};
    *(uint4*)(a.x + row + k) = normed(*(const uint4*)(a.h + row + k), gain, r);
  }
}

// Prefill: rotates q in place, rotates k in place and into the pages, and copies v into the pages. One block per token;
// a thread handles 8 pairs (or 8 + 8 values of v) at a time.
struct Rotate {
  bf16* qkv;  // [tokens][q_rows + 2 * k_rows]
  bf16* kv;
  const int* pages;  // of the slot
  const float2* rope;
  int first, q_heads;
};

extern "C" __global__ void rotate_store(const __grid_constant__ Rotate a) {
  const int token = blockIdx.x, p = a.first + token, heads = a.q_heads + 2 * KV_HEADS;
  const float2* rope = a.rope + (size_t)p * (HEAD_DIM / 2);
  bf16* page = a.kv + (size_t)a.pages[p / PAGE] * 2 * KV_HEADS * PAGE * HEAD_DIM + (p % PAGE) * HEAD_DIM;
  for (int i = threadIdx.x; i < heads * (HEAD_DIM / 16); i += blockDim.x) {
    const int head = i / (HEAD_DIM / 16), d = i % (HEAD_DIM / 16) * 8, kv_head = head - a.q_heads;
    bf16* row = a.qkv + ((size_t)token * heads + head) * HEAD_DIM + d;
    uint4 lo = *(const uint4*)row, hi = *(const uint4*)(row + HEAD_DIM / 2);
    if (kv_head < KV_HEADS) {
      u32* ls = &lo.x;
      u32* hs = &hi.x;
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const float2 r0 = rope[d + e * 2], r1 = rope[d + e * 2 + 1];
        const float x0 = to_float(ls[e] & 0xffff), x1 = to_float(ls[e] >> 16), y0 = to_float(hs[e] & 0xffff), y1 = to_float(hs[e] >> 16);
        ls[e] = pack_bf16(rotate(x0, r0.x, -y0, r0.y), rotate(x1, r1.x, -y1, r1.y));
        hs[e] = pack_bf16(rotate(y0, r0.x, x0, r0.y), rotate(y1, r1.x, x1, r1.y));
      }
      *(uint4*)row = lo, *(uint4*)(row + HEAD_DIM / 2) = hi;
    }
    if (kv_head >= 0) {
      bf16* to = page + (size_t)kv_head * PAGE * HEAD_DIM + d;  // the heads of v follow those of k
      *(uint4*)to = lo, *(uint4*)(to + HEAD_DIM / 2) = hi;
    }
  }
}

// Prefill: act = silu(gate) * up over [tokens][2 * width] of joined, into rows of `stride` values.
struct Product {
  const bf16* joined;
  bf16* act;
  int width, stride;
};

extern "C" __global__ void silu_product(const __grid_constant__ Product a) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= a.width) return;
  const bf16* row = a.joined + (size_t)blockIdx.y * 2 * a.width;
  const uint4 gate = *(const uint4*)(row + i), up = *(const uint4*)(row + a.width + i);
  const u32 gs[4] = {gate.x, gate.y, gate.z, gate.w}, us[4] = {up.x, up.y, up.z, up.w};
  u32 r[4];
#pragma unroll
  for (int e = 0; e < 4; e++)
    r[e] = pack_bf16(round_bf16(silu(to_float(gs[e] & 0xffff))) * to_float(us[e] & 0xffff),
                     round_bf16(silu(to_float(gs[e] >> 16))) * to_float(us[e] >> 16));
  *(uint4*)(a.act + (size_t)blockIdx.y * a.stride + i) = make_uint4(r[0], r[1], r[2], r[3]);
}
