// Shared by the two NF4 products: the record, how it is decoded, and where results are written.
// Compiled with -DNESTED=0|1 (whether absmax is nested 8-bit, as in bitsandbytes' double quantization, or fp32),
// -DTABLE_ROW=128|256 (bytes of the table per byte of codes), -DHEAD_DIM, -DPAGE (tokens per page of the KV cache) and
// -DKV_HEADS.
//
// A record is 16 rows x 256 columns: 4 blocks of 64 columns, then the absmax of 16 rows x 4 blocks. Each block is 16
// bytes per lane. Their words are k16 steps, and their bytes are the lane's A fragment (rows g, g+8; columns 2t, 2t+8).
// The 16 rows are two runs of 8 ("low" and "high"): gate/up, or the two halves of a rotary pair, or plain.
#define CODE_BYTES 2048
#if NESTED
#define RECORD 2112
#else
#define RECORD 2304
#endif
#define LUT_BYTES (256 * TABLE_ROW)

enum { QKV, RESIDUAL, SILU };

struct Tile {
  int low, high;              // first row of each run of 8, in the joined matrix
  int start_low, start_high;  // absmax block of that row's column 0, counted so that block >> 8 indexes absmax2
  float offset_low, offset_high;
};

struct Linear {
  const char* records;
  const Tile* tiles;
  const float* absmax2;
  const float* code2;  // [256]
  const u32* lut;      // [256] byte -> bf16 pair, codes times 1 / code_scale
  const uint4* x;      // packed activations
  const float* ssq_in; // [ssq_count][columns] partial sums of squares, or null: no norm
  float4* partial;     // [splits][tiles][NT][32]
  u32* counters;       // [row blocks], zero between launches
  float* h;            // [columns][width] residual stream
  bf16* x_out;
  const bf16* gain;    // one column: gain of the norm before (qkv, silu); otherwise of the norm after (residual)
  float* ssq_out;
  bf16* q;             // [columns][q_rows]
  bf16* kv;            // this layer's pages: [page][2][KV_HEADS][PAGE][HEAD_DIM]
  const int* slot;
  const int* pos;
  const int* pages;    // [slots][max_pages]
  const float2* rope;  // [position][HEAD_DIM / 2] cos, sin
  int num_tiles, units, ssq_count, splits;
  int q_rows, k_rows, max_pages, columns, width, blocks_per_row;
  float eps, inv_width, code_scale;
  Ahead ahead;
};

// The tables, in two halves. They are loaded before the weights; otherwise they would queue behind them (2 us).
struct Tables {
  u32 pair;
  float code2;
};

__device__ __forceinline__ Tables ask_tables(const Linear& a, int tid) { return {a.lut[tid & 255], a.code2[tid & 255]}; }

__device__ __forceinline__ void fill_tables(char* lut, float* code2, const Tables& v, int tid) {
  const int e = tid & 255, parts = blockDim.x >> 8;
  const uint4 q = make_uint4(v.pair, v.pair, v.pair, v.pair);
  for (int i = tid >> 8; i < 8; i += parts) ((uint4*)lut)[e * (TABLE_ROW / 16) + ((i + e) & 7)] = q;
  if (tid < 256) code2[tid] = v.code2;
}

__device__ __forceinline__ void fetch_record(char* ring, const char* record, int lane) {
#pragma unroll
  for (int i = 0; i < 4; i++) copy16(ring + i * 512 + lane * 16, record + i * 512 + lane * 16);
  if (lane < (RECORD - CODE_BYTES) / 16) copy16(ring + CODE_BYTES + lane * 16, record + CODE_BYTES + lane * 16);
}

// absmax of block i for rows g and g+8 of a record
__device__ __forceinline__ float2 scales(const char* ring, const float* code2, int g, int i, float s2a, float s2b,
                                         float offa, float offb) {
#if NESTED
  const uint2 all = *(const uint2*)(ring + CODE_BYTES + g * 8);
  const u32 w = ((i < 2 ? all.x : all.y) >> ((i & 1) * 16)) & 0xffff;
  return make_float2(__fadd_rn(__fmul_rn(code2[w & 255], s2a), offa), __fadd_rn(__fmul_rn(code2[w >> 8], s2b), offb));
#else
  return *(const float2*)(ring + CODE_BYTES + g * 32 + i * 8);
#endif
}

// Returns the A fragment of one k16 step from a table of which each lane has a copy in its own bank. `at` is lane * 4,
// and `lut` is the table's address in shared memory. A row of the table takes 256 bytes, half of them unused, so that
// one byte permutation of w and `at` gives an address: integer arithmetic runs at half rate and is the limit here.
__device__ __forceinline__ void decode(u32 (&a)[4], u32 w, u32 at, u32 lut) {
#pragma unroll
  for (int b = 0; b < 4; b++) {
#if TABLE_ROW == 256
    a[b] = shared_u32(__byte_perm(w, at, 0x5504 + b * 16) + lut);
#else
    a[b] = shared_u32(__byte_perm(w, 0, 0x4440 + b) * TABLE_ROW + (lut + at));
#endif
  }
}

__device__ __forceinline__ bf16* kv_row(const Linear& a, int m, int which, int head) {
  const int p = a.pos[m], page = a.pages[a.slot[m] * a.max_pages + p / PAGE];
  return a.kv + ((((size_t)page * 2 + which) * KV_HEADS + head) * PAGE + p % PAGE) * HEAD_DIM;
}

// Half of a rotated pair. Both products and their sum are rounded, as in the model.
__device__ __forceinline__ float rotate(float a, float c, float b, float s) { return round_bf16(a * c) + round_bf16(b * s); }

// One rotary pair, or two plain rows, of q, k or v for column m. `row` is the row of `lo`.
__device__ __forceinline__ void store_qkv(const Linear& a, const Tile& tile, int g, int m, float lo, float hi) {
  lo = round_bf16(lo), hi = round_bf16(hi);
  int row = tile.low + g;
  if (row < a.q_rows + a.k_rows) {
    const int d = row % HEAD_DIM;
    const float2 r = a.rope[(size_t)a.pos[m] * (HEAD_DIM / 2) + d];
    const float x = rotate(lo, r.x, -hi, r.y), y = rotate(hi, r.x, lo, r.y);
    bf16* to = row < a.q_rows ? a.q + (size_t)m * a.q_rows + row : kv_row(a, m, 0, (row - a.q_rows) / HEAD_DIM) + d;
    to[0] = to_bf16(x);
    to[HEAD_DIM / 2] = to_bf16(y);
  } else {
    row -= a.q_rows + a.k_rows;
    bf16* to = kv_row(a, m, 1, row / HEAD_DIM) + row % HEAD_DIM;
    to[0] = to_bf16(lo);
    to[8] = to_bf16(hi);
  }
}

__device__ __forceinline__ float silu(float v) { return v / (1.f + __expf(-v)); }
