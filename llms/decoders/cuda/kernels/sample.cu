// Samples the next token of each column on the device by the rules of llms/decoders/sampling.py: penalty, biases,
// temperature, top-k, top-p, min-p, then the inverse of the cumulative distribution at a counter-based random number.
// Probabilities are integers (2^32 for the most probable token), so sums do not depend on the order of threads.
// Logits are ordered by a 32-bit key, and each cut is found by bisection of the key's range. Each step of it is a
// reduction without atomics: 16 steps for the model's own bf16 logits, 32 for logits that penalty or biases have changed,
// which are kept in fp32. The total order is: higher logit first, then the lower token id.

struct Sample {
  const bf16* logits;  // [columns][vocabulary]
  float* wide;         // [columns][vocabulary]: changed logits
  int* history;        // [slots][window]: the tokens of each slot; every column adds its own
  const int* bias_ids;       // [slots][most]
  const float* bias_values;  // [slots][most]
  const int* token;    // of each column, as all that follow
  const int* slot;
  const int* pos;      // of the column's token; the number is drawn at pos + 1
  const int* top_k;    // 0: all
  const float* temperature;  // 0: the most probable token
  const float* top_p;
  const float* min_p;
  const u32* seed_low;
  const u32* seed_high;
  const float* penalty;  // 0 and 1: none
  const int* biases;     // how many
  long long* out;
  int vocabulary, window, most;
};

#define THREADS 1024

template <typename T>
__device__ __forceinline__ T block_total(T v) {
  __shared__ T part[THREADS / 32 + 1];
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    T s = part[threadIdx.x];
#pragma unroll
    for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
    if (threadIdx.x == 0) part[THREADS / 32] = s;
  }
  __syncthreads();
  return part[THREADS / 32];
}

__device__ __forceinline__ u32 order(float v) {
  const u32 bits = __float_as_uint(v);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Row {
  const bf16* logits;
  const float* wide;     // null: the model's own logits
  int size;
  u32 grain;             // distance of two neighbouring keys
  float top, scale;      // weight = 2^32 exp2((logit - top) * scale)
  u32 cut_key;           // kept: key above, or equal and id <= cut_id
  int cut_id;
  u64 least;             // kept: weight at least

  __device__ __forceinline__ float logit(int i) const { return wide ? wide[i] : to_float(logits[i]); }
  __device__ __forceinline__ u64 weight(float v) const { return (u64)(exp2f((v - top) * scale) * 4294967296.f); }
  __device__ __forceinline__ bool kept(u32 key, int id) const { return key > cut_key || (key == cut_key && id <= cut_id); }
  // The mass (or number) of kept tokens in one run of ids whose keys are at least `from` (and at most `to`).
  __device__ u64 mass(bool count, u32 from, u32 to, int begin, int end, int stride) const {
    u64 s = 0;
    for (int i = begin; i < end; i += stride) {
      const float v = logit(i);
      const u32 key = order(v);
      if (key < from || key > to || !kept(key, i)) continue;
      const u64 w = weight(v);
      if (w >= least) s += count ? 1 : w;
    }
    return s;
  }
  __device__ u64 total(bool count, u32 from) const { return block_total(mass(count, from, ~0u, threadIdx.x, size, THREADS)); }

  // The first token in the total order (or in the order of ids) at which the cumulative mass exceeds `target`.
  __device__ void find(bool count, bool by_id, u64 target, u32& key, int& id) const {
    u32 at = 0;
    if (!by_id) {
      for (u32 bit = 0x80000000u; bit >= grain; bit >>= 1)
        if (total(count, at | bit) > target) at |= bit;
      if (at < ~0u - grain) target -= total(count, at + grain);
    }
    __shared__ u64 part[32];
    __shared__ int found;
    const int chunk = (size + THREADS - 1) / THREADS, begin = min((int)threadIdx.x * chunk, size), end = min(begin + chunk, size);
    const u32 to = by_id ? ~0u : at + (grain - 1);
    const u64 mine = mass(count, at, to, begin, end, 1);
    u64 up = mine;  // inclusive scan over the warp
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const u64 v = __shfl_up_sync(~0u, up, o);
      if (lane >= o) up += v;
    }
    __syncthreads();
    if (lane == 31) part[warp] = up;
    if (threadIdx.x == 0) found = -1;
    __syncthreads();
    u64 before = up - mine;
    for (int w = 0; w < warp; w++) before += part[w];
    if (before <= target && target < before + mine) {
      for (int i = begin; i < end; i++) {
        before += mass(count, at, to, i, i + 1, 1);
        if (before > target) {
          found = i;
          break;
        }
      }
    }
    __syncthreads();
    id = found;
    key = id < 0 ? 0 : order(logit(id));
    __syncthreads();
  }
};

__device__ __forceinline__ u64 draw(u64 seed, u64 position) {  // splitmix64; 53 bits
  u64 z = seed * 0x9E3779B97F4A7C15ull + (position + 1) * 0xD1B54A32D192ED03ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return (z ^ (z >> 31)) >> 11;
}

// Writes the column's logits with penalty and biases applied. The slot's tokens of this step are read from the columns,
// because the blocks that write them into the history run at the same time.
__device__ __noinline__ void change(const Sample& a, int m, float penalty, int biases, const bf16* logits, float* wide) {
  extern __shared__ u32 seen[];  // one bit per token
  const int slot = a.slot[m];
  for (int i = threadIdx.x; i < a.vocabulary; i += THREADS) wide[i] = to_float(logits[i]);
  for (int i = threadIdx.x; i < (a.vocabulary + 31) / 32; i += THREADS) seen[i] = 0;
  __syncthreads();
  if (penalty != 0.f && penalty != 1.f) {
    int first = a.pos[m];
    for (int j = 0; j < m; j++)
      if (a.slot[j] == slot) first = min(first, a.pos[j]);
    const int* history = a.history + (size_t)slot * a.window;
    for (int i = threadIdx.x; i < first + m + 1; i += THREADS) {
      if (i >= first && a.slot[i - first] != slot) continue;
      const int token = i < first ? history[i] : a.token[i - first];
      const u32 bit = 1u << (token & 31);
      if (atomicOr(&seen[token >> 5], bit) & bit) continue;
      const float v = wide[token];
      wide[token] = v > 0.f ? v / penalty : v * penalty;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < biases; i += THREADS) {
    const size_t at = (size_t)slot * a.most + i;
    wide[a.bias_ids[at]] += a.bias_values[at];
  }
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS) sample(const __grid_constant__ Sample a) {
  const int m = blockIdx.x;
  Row row{a.logits + (size_t)m * a.vocabulary, nullptr, a.vocabulary, 0x10000u, 0.f, 0.f, 0u, 0x7fffffff, 0ull};
  const float penalty = a.penalty[m];
  const int biases = a.biases[m];
  if ((penalty != 0.f && penalty != 1.f) || biases > 0) {
    float* wide = a.wide + (size_t)m * a.vocabulary;
    change(a, m, penalty, biases, row.logits, wide);
    row.wide = wide, row.grain = 1;
  }
  if (threadIdx.x == 0) a.history[(size_t)a.slot[m] * a.window + a.pos[m]] = a.token[m];
  u64 best = 0;  // key, then the complement of the id: the maximum is the first of the most probable
  for (int i = threadIdx.x; i < a.vocabulary; i += THREADS) {
    const u64 v = (u64)order(row.logit(i)) << 32 | (0xffffffffu - i);
    best = v > best ? v : best;
  }
  __shared__ u64 bests[32];
#pragma unroll
  for (int o = 16; o; o >>= 1) {
    const u64 v = __shfl_xor_sync(~0u, best, o);
    best = v > best ? v : best;
  }
  if ((threadIdx.x & 31) == 0) bests[threadIdx.x >> 5] = best;
  __syncthreads();
  for (int w = 0; w < 32; w++) best = bests[w] > best ? bests[w] : best;
  int id = (int)(0xffffffffu - (u32)best);
  const float temperature = a.temperature[m];
  if (temperature > 0.f) {
    row.top = row.logit(id);
    row.scale = 1.4426950408889634f / temperature;
    const int k = a.top_k[m];
    const float p = a.top_p[m], least = a.min_p[m];
    u32 key;
    int at;
    if (k > 0 && k < a.vocabulary) {
      row.find(true, false, (u64)k - 1, key, at);
      row.cut_key = key, row.cut_id = at;
    }
    if (p < 1.f) {
      const u64 goal = (u64)ceil((double)p * (double)row.total(false, 0));
      row.find(false, false, goal ? goal - 1 : 0, key, at);
      row.cut_key = key, row.cut_id = at;
    }
    if (least > 0.f) row.least = (u64)((double)least * 4294967296.0);
    const u64 number = draw((u64)a.seed_high[m] << 32 | a.seed_low[m], (u64)a.pos[m] + 1);
    const bool by_id = k <= 0 && p >= 1.f && least <= 0.f;
    row.find(false, by_id, __umul64hi(number << 11, row.total(false, 0)), key, at);
    if (at >= 0) id = at;
  }
  if (threadIdx.x == 0) a.out[m] = id;
}
