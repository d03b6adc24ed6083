// The pages of lists against the queries that probe them: the largest key of every page and query. And all centroids,
// as pages of 8-bit codes, against all queries: their scores. A block has NT queries at a time, in shared memory.
//
// Given at compile time: NT; MMA: whether mma.sync multiplies (compute capability 8.0 and later, NT a multiple of 8) or
// dp4a (NT up to 4); WARPS a block, BLOCKS a multiprocessor; ITEM_PAGES.
struct Asked { float gains[NT]; float offsets[NT]; int queries[NT]; int starts[NT]; };

struct Rows16 { float scale0, shift0, scale1, shift1; };  // of a lane's rows g and g + 8 of a page
__device__ __forceinline__ Rows16 rows_of_page(const Lists& S, int page, uint32_t allowed) {
  const int g = (threadIdx.x & 31) >> 2, place = PAGE * page + g;
  Rows16 r{S.scales[place], S.shifts[place], S.scales[place + 8], S.shifts[place + 8]};
  if (!((allowed >> g) & 1u)) r.shift0 = minus_infinity();
  if (!((allowed >> (g + 8)) & 1u)) r.shift1 = minus_infinity();
  return r;
}

__device__ __forceinline__ void put_none(const Lists& S, const Asked& A, int count, int j) {
  for (int i = threadIdx.x & 31; i < count; i += 32)
    S.maxima[(size_t)A.queries[i] * S.width + A.starts[i] + j] = minus_infinity();
}

#if MMA
// Queries in the order of the instruction's second operand: [DIM / 64][NT / 8][32 lanes], two steps each
__device__ __forceinline__ void load_queries(const Lists& S, const Asked& A) {
  extern __shared__ __align__(128) uint4 operand[];
  for (int i = threadIdx.x; i < NT * DIM / 16; i += 32 * WARPS) {
    const int l = i & 31, nb = (i >> 5) % (NT / 8), k = (i >> 5) / (NT / 8);
    const uint32_t* at = (const uint32_t*)(S.levels + (size_t)A.queries[nb * 8 + (l >> 2)] * S.stride) + k * 16 + (l & 3);
    operand[i] = make_uint4(at[0], at[4], at[8], at[12]);
  }
}

// Pages from .. to - 1 of a list, or of all where `pages` is null; a warp has two at a time
template <bool COARSE> __device__ __forceinline__ void scan_pages(
    const Lists& S, const Asked& A, int count, const int32_t* pages, int from, int to) {
  extern __shared__ __align__(128) uint4 operand[];
  const int w = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, tig = lane & 3;
  const Table T = S.table;
  for (int j = from + 2 * w; j < to; j += 2 * WARPS) {
    const bool two = j + 1 < to;
    const int page0 = COARSE ? j : pages[j], page1 = !two ? page0 : COARSE ? j + 1 : pages[j + 1];
    const uint32_t allowed0 = COARSE ? 0xffffu : allowed_rows(S, page0);
    const uint32_t allowed1 = COARSE ? 0xffffu : allowed_rows(S, page1);
    if (!COARSE && !(allowed0 | allowed1)) {
      put_none(S, A, count, j);
      if (two) put_none(S, A, count, j + 1);
      continue;
    }
    const uint8_t* p0 = S.codes + (size_t)page0 * PAGE_BYTES;
    const uint8_t* p1 = S.codes + (size_t)page1 * PAGE_BYTES;
    const Rows16 rows[2] = {rows_of_page(S, page0, allowed0), rows_of_page(S, page1, allowed1)};
    int acc[2][NT / 2];
#pragma unroll
    for (int i = 0; i < NT / 2; i++) { acc[0][i] = 0; acc[1][i] = 0; }
    Chunk x0 = load_page(p0, lane), x1 = load_page(p1, lane), y0 = x0, y1 = x1;
    if (CHUNKS > 1) { y0 = load_page(p0 + PAGE_CHUNK, lane); y1 = load_page(p1 + PAGE_CHUNK, lane); }
#pragma unroll 1
    for (int c = 0; c < CHUNKS; c++) {
      uint32_t a0[STEPS][4], a1[STEPS][4];
      decode_chunk(x0, T, a0); decode_chunk(x1, T, a1);
      x0 = y0; x1 = y1;
      if (c + 2 < CHUNKS) {
        y0 = load_page(p0 + (size_t)(c + 2) * PAGE_CHUNK, lane); y1 = load_page(p1 + (size_t)(c + 2) * PAGE_CHUNK, lane);
      }
      multiply_chunk(acc, a0, a1, operand, c, lane);
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
      if (m && !two) break;
      const Rows16 r = rows[m];
#pragma unroll
      for (int n = 0; n < NT / 8; n++) {
        const int col = 8 * n + 2 * tig;
        const int* d = acc[m] + 4 * n;
        const float2 gain = *(const float2*)(A.gains + col), offset = *(const float2*)(A.offsets + col);
        const float k00 = list_key(d[0], gain.x, r.scale0, r.shift0, offset.x);
        const float k01 = list_key(d[1], gain.y, r.scale0, r.shift0, offset.y);
        const float k10 = list_key(d[2], gain.x, r.scale1, r.shift1, offset.x);
        const float k11 = list_key(d[3], gain.y, r.scale1, r.shift1, offset.y);
        if (COARSE) {
          float* out = S.scores + (size_t)A.queries[col] * S.coarse + PAGE * (j + m) + g;
          if (col < count) { out[0] = k00; out[8] = k10; }
          out = S.scores + (size_t)A.queries[col + 1] * S.coarse + PAGE * (j + m) + g;
          if (col + 1 < count) { out[0] = k01; out[8] = k11; }
          continue;
        }
        float m0 = fmaxf(k00, k10), m1 = fmaxf(k01, k11);
#pragma unroll
        for (int o = 4; o < 32; o <<= 1) {
          m0 = fmaxf(m0, __shfl_xor_sync(~0u, m0, o)); m1 = fmaxf(m1, __shfl_xor_sync(~0u, m1, o));
        }
        if (g == 0 && col < count) S.maxima[(size_t)A.queries[col] * S.width + A.starts[col] + j + m] = m0;
        if (g == 1 && col + 1 < count) S.maxima[(size_t)A.queries[col + 1] * S.width + A.starts[col + 1] + j + m] = m1;
      }
    }
  }
}
#else
__device__ __forceinline__ void load_queries(const Lists& S, const Asked& A) {
  extern __shared__ __align__(16) uint32_t operand[];  // [NT][DIM / 4]
  for (int i = threadIdx.x; i < NT * DIM / 4; i += 32 * WARPS)
    operand[i] = ((const uint32_t*)(S.levels + (size_t)A.queries[i / (DIM / 4)] * S.stride))[i % (DIM / 4)];
}

template <bool COARSE> __device__ __forceinline__ void scan_pages(
    const Lists& S, const Asked& A, int count, const int32_t* pages, int from, int to) {
  extern __shared__ __align__(16) uint32_t operand[];
  const int lane = threadIdx.x & 31, g = lane >> 2, tig = lane & 3;
  const Table T = S.table;
  for (int j = from + (threadIdx.x >> 5); j < to; j += WARPS) {
    const int page = COARSE ? j : pages[j];
    const uint32_t allowed = COARSE ? 0xffffu : allowed_rows(S, page);
    if (!allowed) { put_none(S, A, count, j); continue; }
    const Rows16 r = rows_of_page(S, page, allowed);
    int d0[NT], d1[NT];
    page_dots<NT>(S.codes + (size_t)page * PAGE_BYTES, operand, T, d0, d1);
#pragma unroll
    for (int i = 0; i < NT; i++) {
      const float k0 = list_key(d0[i], A.gains[i], r.scale0, r.shift0, A.offsets[i]);
      const float k1 = list_key(d1[i], A.gains[i], r.scale1, r.shift1, A.offsets[i]);
      if (i >= count) continue;
      if (COARSE) {
        float* out = S.scores + (size_t)A.queries[i] * S.coarse + PAGE * j + g;
        if (tig == 0) { out[0] = k0; out[8] = k1; }
        continue;
      }
      float most = fmaxf(k0, k1);
#pragma unroll
      for (int o = 4; o < 32; o <<= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
      if (lane == 0) S.maxima[(size_t)A.queries[i] * S.width + A.starts[i] + j] = most;
    }
  }
}
#endif

// The list that has an item: the last that begins at it or before. By one warp, 32 ways at a time.
__device__ __forceinline__ int list_of_item(const Lists& S, int item) {
  int low = 0, high = S.nlist;
  while (high - low > 1) {
    const int step = (high - low + 31) / 32, tried = low + ((int)threadIdx.x & 31) * step;
    const bool begun = tried < high && S.item_starts[tried] <= item;
    low += (__popc(__ballot_sync(~0u, begun)) - 1) * step;
    high = min(high, low + step);
  }
  return low;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) scan_lists(const __grid_constant__ Lists S) {
  __shared__ __align__(16) Asked A;
  __shared__ int where;
  const int total = S.item_starts[S.nlist];
  for (int item = blockIdx.x; item < total; item += gridDim.x) {
    if (threadIdx.x < 32) {
      const int list = list_of_item(S, item);
      if (threadIdx.x == 0) where = list;
    }
    __syncthreads();
    const int list = where, first = S.firsts[list], pages = S.firsts[list + 1] - first;
    const int parts = (pages + ITEM_PAGES - 1) / ITEM_PAGES, number = item - S.item_starts[list];
    const int begin = S.pair_starts[list] + number / parts * NT, count = min(NT, S.pair_starts[list + 1] - begin);
    const int from = number % parts * ITEM_PAGES;
    if (threadIdx.x < NT) {
      const Pair pair = S.pairs[begin + min((int)threadIdx.x, count - 1)];
      A.queries[threadIdx.x] = pair.query; A.starts[threadIdx.x] = pair.start;
      A.gains[threadIdx.x] = pair.gain; A.offsets[threadIdx.x] = pair.offset;
    }
    __syncthreads();
    load_queries(S, A);
    __syncthreads();
    scan_pages<false>(S, A, count, S.pages + first, from, min(from + ITEM_PAGES, pages));
    __syncthreads();
  }
}

// blockIdx.x: NT queries; blockIdx.y: ITEM_PAGES pages
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) scan_centroids(const __grid_constant__ Lists S) {
  __shared__ __align__(16) Asked A;
  const int first = blockIdx.x * NT, count = min(NT, S.nq - first), from = blockIdx.y * ITEM_PAGES;
  if (threadIdx.x < NT) {
    const int q = first + min((int)threadIdx.x, count - 1);
    A.queries[threadIdx.x] = q; A.starts[threadIdx.x] = 0;
    A.gains[threadIdx.x] = S.gains[q]; A.offsets[threadIdx.x] = 0.f;
  }
  __syncthreads();
  load_queries(S, A);
  __syncthreads();
  scan_pages<true>(S, A, count, nullptr, from, min(from + ITEM_PAGES, S.coarse / PAGE));
}
