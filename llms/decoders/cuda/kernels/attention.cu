// Attention of a step's new tokens over the live part of a paged KV cache (flash-decoding).
// Block (split, KV head, group): the keys of one slot are divided evenly among the splits. The number of splits depends
// only on the length of that slot, so no slot's result depends on the others. The G query heads of a KV head and the
// tokens of the group are the 16 rows of the A operand. Each warp loads 16 keys at a time from the cache directly into
// registers. The order of the terms of a dot product does not matter, so a lane's 16 contiguous bytes of a key can be
// used as B fragments unchanged; movmatrix transposes the fragments of the values.
// Compiled with -DHEAD_DIM, -DGROUP (query heads per KV head), -DKV_HEADS, -DPAGE and -DATTENTION_WARPS: 8 for few
// texts, because a short text then needs one block per head and no second reduction; otherwise 4, so that four blocks
// fit on a multiprocessor (attend.py). -DATTENTION_REGISTERS is the limit per thread; with 8 warps it is large enough
// to load keys and values ahead. Staging keys in shared memory with cp.async and reading values with ldmatrix was
// slower at every size (1.4 us a layer at one column, 2 at 64).
#define J (HEAD_DIM / 32)
#define SOON (ATTENTION_WARPS == 8)

struct Attention {
  const bf16* q;   // [columns][KV_HEADS * GROUP * HEAD_DIM], rotated
  const bf16* kv;  // this layer's pages
  bf16* out;       // packed activations
  const int* slot;
  const int* pos;
  const int* pages;
  const int* group_first;  // first column of each group of columns that share a slot
  const int* group_count;  // 0: no group starts here
  float* partial;          // [groups * KV_HEADS][splits][16][HEAD_DIM + 2]
  u32* counters;           // [groups * KV_HEADS], zero between launches
  int max_pages, splits, sliding, nt;
  int least, soon;  // least: minimum number of keys per block; soon: keys of its run that a block prefetches into L2
  float scale_log2;
};

__device__ __forceinline__ u32 transpose8x8(u32 v) {
  u32 r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
  return r;
}

__device__ __forceinline__ void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

extern "C" __global__ void __maxnreg__(ATTENTION_REGISTERS) attention(const __grid_constant__ Attention a) {
  extern __shared__ __align__(16) float so_memory[];
  float(*so)[16][HEAD_DIM + 4] = (float(*)[16][HEAD_DIM + 4]) so_memory;  // [ATTENTION_WARPS]
  __shared__ float sm[ATTENTION_WARPS][16], sl[ATTENTION_WARPS][16];
  __shared__ __align__(16) bf16 queries[16][HEAD_DIM + 8];
  __shared__ u32 arrived;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
  const int split = blockIdx.x, head = blockIdx.y, group = blockIdx.z;
  const int count = a.group_count[group];
  if (count == 0) return;
  const int first = a.group_first[group], p0 = a.pos[first], end = p0 + count;
  const int start = a.sliding ? max(0, p0 + 1 - a.sliding) & ~15 : 0;
  const int step = ATTENTION_WARPS * 16;
  const int run = max(a.least, ((end - start + a.splits - 1) / a.splits + step - 1) / step * step);
  const int active = (end - start + run - 1) / run;
  if (split >= active) return;
  const int lo = start + split * run, hi = min(lo + run, end);
  const int* pages = a.pages + a.slot[first] * a.max_pages;
  const int rows = GROUP * count;
  auto key_row = [&](int which, int key) {
    key = min(key, hi - 1);
    return a.kv + ((((size_t)pages[key / PAGE] * 2 + which) * KV_HEADS + head) * PAGE + key % PAGE) * HEAD_DIM;
  };
  // Keys of earlier steps are in memory already, so the first ones are prefetched into L2 while the projection before
  // this kernel is still running. If many blocks share a long text, this costs time: at one column and depth 4,096 a
  // step takes 2.61 ms with it and 2.39 ms without.
  const int far = active == 1 ? min(hi, lo + a.soon) : lo;
#if PDL
  const int pages_here = far > lo ? (far - 1) / PAGE - lo / PAGE + 1 : 0;
  for (int i = tid; i < pages_here * 2; i += ATTENTION_WARPS * 32) {
    const int from = max(lo, (lo / PAGE + i / 2) * PAGE), to = min(far, (lo / PAGE + i / 2 + 1) * PAGE);
    ask_l2(key_row(i & 1, from), (to - from) * HEAD_DIM * 2);
  }
#else
  for (int i = tid; i < min(2048, (far - lo) * (HEAD_DIM / 64)); i += ATTENTION_WARPS * 32) {
    const int key = lo + i / (HEAD_DIM / 64), part = i % (HEAD_DIM / 64) * 64;
    prefetch_l2(key_row(0, key) + part);
    prefetch_l2(key_row(1, key) + part);
  }
#endif
  uint4 k[2][J], v[2][J];
  auto load = [&](uint4(&to)[J], int which, int key) {
    const bf16* p = key_row(which, key) + t * 8;
#pragma unroll
    for (int j = 0; j < J; j++) to[j] = load_uint4(p + j * 32);
  };
  auto load_keys = [&](int base) { load(k[0], 0, base + g), load(k[1], 0, base + 8 + g); };
  auto load_values = [&](int base) { load(v[0], 1, base + g), load(v[1], 1, base + 8 + g); };
  // If there are enough registers, a warp loads its first keys at once, and those of this step again later.
  const int own = lo + warp * 16;
  if (SOON && own < hi) load_keys(own), load_values(own);
  depend_wait();
  depend_launch();
  // The slot's keys of this step begin at p0 or up to `first` before it, since earlier columns may belong to the slot.
  if (SOON && own < hi && min(own + 15, hi - 1) >= p0 - first) load_keys(own), load_values(own);

  // The queries are shared by all warps. Rows are padded by 16 bytes to avoid bank conflicts.
  for (int i = tid; i < 16 * (HEAD_DIM / 8); i += ATTENTION_WARPS * 32) {
    const int row = i / (HEAD_DIM / 8), d = i % (HEAD_DIM / 8) * 8;
    const bf16* p = a.q + ((size_t)(first + row / GROUP) * KV_HEADS * GROUP + head * GROUP + row % GROUP) * HEAD_DIM + d;
    *(uint4*)&queries[row][d] = row < rows ? load_uint4(p) : make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  float o[J][4][4];
#pragma unroll
  for (int j = 0; j < J; j++)
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int i = 0; i < 4; i++) o[j][r][i] = 0.f;
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};

  for (int base = lo + warp * 16; base < hi; base += step) {
    if (!SOON) {  // In this order no register is spilled.
      load(k[0], 0, base + g), load(v[0], 1, base + g);
      load(k[1], 0, base + 8 + g), load(v[1], 1, base + 8 + g);
    }
    float s[2][4] = {{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};
#pragma unroll
    for (int j = 0; j < J; j++) {
      const uint4 q0 = *(const uint4*)&queries[g][j * 32 + t * 8], q1 = *(const uint4*)&queries[g + 8][j * 32 + t * 8];
#pragma unroll
      for (int b = 0; b < 2; b++) {
        mma(s[b], q0.x, q1.x, q0.y, q1.y, k[b][j].x, k[b][j].y);
        mma(s[b], q0.z, q1.z, q0.w, q1.w, k[b][j].z, k[b][j].w);
      }
    }
    if (SOON && base + step < hi) load_keys(base + step);  // It runs while the rest of these is processed.
    float high[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int b = 0; b < 2; b++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int key = base + b * 8 + t * 2 + (i & 1), row = g + (i >> 1) * 8, p = p0 + row / GROUP;
        const bool seen = row < rows && key <= p && key < hi && (!a.sliding || key > p - a.sliding);
        s[b][i] = seen ? s[b][i] * a.scale_log2 : -INFINITY;
        high[i >> 1] = fmaxf(high[i >> 1], s[b][i]);
      }
    float shrink[2], anchor[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      high[r] = fmaxf(high[r], __shfl_xor_sync(~0u, high[r], 1));
      high[r] = fmaxf(high[r], __shfl_xor_sync(~0u, high[r], 2));
      high[r] = fmaxf(high[r], top[r]);
      anchor[r] = high[r] == -INFINITY ? 0.f : high[r];
      shrink[r] = exp2f(top[r] - anchor[r]);
      top[r] = high[r];
      sum[r] *= shrink[r];
    }
    u32 p[2][2];
#pragma unroll
    for (int b = 0; b < 2; b++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        s[b][i] = exp2f(s[b][i] - anchor[i >> 1]);
        sum[i >> 1] += s[b][i];
      }
      p[b][0] = pack_bf16(s[b][0], s[b][1]);
      p[b][1] = pack_bf16(s[b][2], s[b][3]);
    }
#pragma unroll
    for (int j = 0; j < J; j++) {
      const u32 v0[4] = {v[0][j].x, v[0][j].y, v[0][j].z, v[0][j].w};
      const u32 v1[4] = {v[1][j].x, v[1][j].y, v[1][j].z, v[1][j].w};
#pragma unroll
      for (int r = 0; r < 4; r++) {
        o[j][r][0] *= shrink[0], o[j][r][1] *= shrink[0], o[j][r][2] *= shrink[1], o[j][r][3] *= shrink[1];
        mma(o[j][r], p[0][0], p[0][1], p[1][0], p[1][1], transpose8x8(v0[r]), transpose8x8(v1[r]));
      }
    }
    if (SOON && base + step < hi) load_values(base + step);
  }

#pragma unroll
  for (int r = 0; r < 2; r++) {
    sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
    sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    const int row = g + r * 8;
    if (row < rows) {
      if (t == 0) sm[warp][row] = top[r], sl[warp][row] = sum[r];
#pragma unroll
      for (int j = 0; j < J; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) *(float2*)&so[warp][row][j * 32 + t * 8 + c * 2] = make_float2(o[j][c][r * 2], o[j][c][r * 2 + 1]);
    }
  }
  __syncthreads();
  float* partial = a.partial + (size_t)(group * KV_HEADS + head) * a.splits * 16 * (HEAD_DIM + 2);
  for (int i = tid; i < rows * HEAD_DIM; i += ATTENTION_WARPS * 32) {
    const int row = i / HEAD_DIM, d = i % HEAD_DIM;
    float high = -INFINITY, value = 0.f, total = 0.f;
#pragma unroll
    for (int w = 0; w < ATTENTION_WARPS; w++) high = fmaxf(high, sm[w][row]);
    const float anchor = high == -INFINITY ? 0.f : high;
#pragma unroll
    for (int w = 0; w < ATTENTION_WARPS; w++) {
      const float f = exp2f(sm[w][row] - anchor);
      value += f * so[w][row][d];
      total += f * sl[w][row];
    }
    if (active == 1) {
      a.out[packed((head * GROUP + row % GROUP) * HEAD_DIM + d, first + row / GROUP, a.nt)] = to_bf16(value / total);
    } else {
      float* to = partial + (size_t)(split * 16 + row) * (HEAD_DIM + 2);
      __stcg(to + d, value);
      if (d == 0) __stcg(to + HEAD_DIM, high), __stcg(to + HEAD_DIM + 1, total);
    }
  }
  if (active == 1) return;
  __threadfence();
  __syncthreads();
  if (tid == 0) arrived = atomicAdd(a.counters + group * KV_HEADS + head, 1u);
  __syncthreads();
  if (arrived != active - 1) return;
  if (tid == 0) a.counters[group * KV_HEADS + head] = 0;
  __threadfence();
  // The weights of the splits (one warp per row, one lane per split), then the weighted sum with batched loads.
  float(*weight)[32] = (float(*)[32]) & so[0][0][0];
  for (int row = warp; row < rows; row += ATTENTION_WARPS) {
    const float* from = partial + (size_t)(lane * 16 + row) * (HEAD_DIM + 2) + HEAD_DIM;
    const float top = lane < active ? load_float(from) : -INFINITY, total = lane < active ? load_float(from + 1) : 0.f;
    float high = top;
#pragma unroll
    for (int x = 16; x; x >>= 1) high = fmaxf(high, __shfl_xor_sync(~0u, high, x));
    const float f = exp2f(top - high);
    weight[row][lane] = f / warp_sum(f * total);
  }
  __syncthreads();
  for (int i = tid; i < rows * HEAD_DIM; i += ATTENTION_WARPS * 32) {
    const int row = i / HEAD_DIM, d = i % HEAD_DIM;
    const float* from = partial + (size_t)row * (HEAD_DIM + 2) + d;
    float value = 0.f;
    for (int s = 0; s < active; s += 8) {
      float v[8];
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] = s + e < active ? load_float(from + (size_t)(s + e) * 16 * (HEAD_DIM + 2)) : 0.f;
#pragma unroll
      for (int e = 0; e < 8; e++) value += s + e < active ? weight[row][s + e] * v[e] : 0.f;
    }
    a.out[packed((head * GROUP + row % GROUP) * HEAD_DIM + d, first + row / GROUP, a.nt)] = to_bf16(value);
  }
}
