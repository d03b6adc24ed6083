// Thresholds from maxima, thresholds from hits, and the k best of the hits. One block a query.
#define BLOCK 256
#define HELD 16  // maxima a thread keeps in registers

__device__ __forceinline__ int warp_sum(int c) {
#if __CUDA_ARCH__ >= 800
  return __reduce_add_sync(~0u, c);
#else
#pragma unroll
  for (int o = 16; o; o >>= 1) c += __shfl_xor_sync(~0u, c, o);
  return c;
#endif
}

__device__ __forceinline__ uint32_t warp_max(uint32_t x) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(~0u, x);
#else
#pragma unroll
  for (int o = 16; o; o >>= 1) x = max(x, __shfl_xor_sync(~0u, x, o));
  return x;
#endif
}

__device__ __forceinline__ long long warp_least(long long x) {
#pragma unroll
  for (int o = 16; o; o >>= 1) x = min(x, __shfl_xor_sync(~0u, x, o));
  return x;
}

__device__ __forceinline__ int block_sum(int c, int* partial) {
  c = warp_sum(c);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = c;
  __syncthreads();
  int total = 0;
  for (int i = 0; i < (int)blockDim.x / 32; i++) total += partial[i];
  return total;
}

__device__ __forceinline__ float lowest() { return -3.402823466e38f; }  // finite: keys of -inf are never hits

// tau = a lower bound of the k-th largest of m <= HELD * blockDim maxima, each of other rows, exact in its upper 24
// bits; padded queries get +inf. Counters become 0.
template <int THREADS> __device__ __forceinline__ void thresholds_(
    const float* maxima, int m, int width, int k, int nq, float* taus, long long* tau_ids, int* counts) {
  __shared__ int partial[2][THREADS / 32];
  const float* mine = maxima + (size_t)blockIdx.x * width;
  uint32_t keys[HELD];
#pragma unroll
  for (int i = 0; i < HELD; i++) {
    const int j = threadIdx.x + i * THREADS;
    keys[i] = j < m ? ordered(mine[j]) : 0u;
  }
  uint32_t found = 0;
  for (int bit = 31; bit >= 8; bit--) {
    const uint32_t tried = found | (1u << bit);
    int c = 0;
#pragma unroll
    for (int i = 0; i < HELD; i++) c += keys[i] >= tried;
    c = warp_sum(c);
    if ((threadIdx.x & 31) == 0) partial[bit & 1][threadIdx.x >> 5] = c;
    __syncthreads();
    int total = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) total += partial[bit & 1][i];
    if (total >= k) found = tried;
  }
  if (threadIdx.x == 0) {
    const int q = blockIdx.x;
    taus[q] = q >= nq ? __int_as_float(0x7f800000) : found >= 0x00800000u ? unordered(found) : lowest();
    tau_ids[q] = 0x7fffffffffffffffll;
    counts[q] = 0;
  }
}
extern "C" __global__ void __launch_bounds__(256) thresholds(
    const float* maxima, int m, int width, int k, int nq, float* taus, long long* tau_ids, int* counts) {
  thresholds_<256>(maxima, m, width, k, nq, taus, tau_ids, counts);
}
extern "C" __global__ void __launch_bounds__(1024) thresholds_of_many(
    const float* maxima, int m, int width, int k, int nq, float* taus, long long* tau_ids, int* counts) {
  thresholds_<1024>(maxima, m, width, k, nq, taus, tau_ids, counts);
}

// The k-th largest of a warp's 256 keys, exact in its upper 24 bits; 0 where fewer are more than 0.
__device__ __forceinline__ uint32_t warp_kth(const uint32_t (&keys)[8], int k) {
  uint32_t found = 0;
  for (int bit = 31; bit >= 8; bit--) {
    const uint32_t tried = found | (1u << bit);
    int c = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) c += keys[i] >= tried;
    if (warp_sum(c) >= k) found = tried;
  }
  return found;
}

// The same for few k, by a warp a query: the maxima are made 256 first, the j-th the largest of j, j + 256, ... At k = 10
// two of the k largest are seldom of one, and all others are a bound that lets 2 % more hits through. Eight loads are
// under way at once: one after the other they took a third of the kernel's 8 us.
extern "C" __global__ void __launch_bounds__(128) thresholds_of_few(
    const float* maxima, int m, int width, int k, int nq, int held, float* taus, long long* tau_ids, int* counts) {
  const int q = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (q >= held) return;
  const float4* mine = (const float4*)(maxima + (size_t)q * width);
  uint32_t keys[8] = {};
  for (int i = lane; i < m / 4; i += 256) {
    float4 v[8];
#pragma unroll
    for (int h = 0; h < 8; h++) {
      const float none = __int_as_float(0xff800000);
      v[h] = i + 32 * h < m / 4 ? mine[i + 32 * h] : make_float4(none, none, none, none);
    }
#pragma unroll
    for (int h = 0; h < 8; h++) {
      const int to = 4 * (h & 1);
      keys[to] = max(keys[to], ordered(v[h].x)); keys[to + 1] = max(keys[to + 1], ordered(v[h].y));
      keys[to + 2] = max(keys[to + 2], ordered(v[h].z)); keys[to + 3] = max(keys[to + 3], ordered(v[h].w));
    }
  }
  const uint32_t found = warp_kth(keys, k);
  if (lane == 0) {
    taus[q] = q >= nq ? __int_as_float(0x7f800000) : found >= 0x00800000u ? unordered(found) : lowest();
    tau_ids[q] = 0x7fffffffffffffffll;
    counts[q] = 0;
  }
}

// Some rows are filtered, more are to come: the threshold becomes the k-th of the hits so far, if they are as many, or
// where they are more than 256, the k-th of the largest of j, j + 256, ... A warp a query; k is small, and so are the lists.
extern "C" __global__ void __launch_bounds__(128) tighten_thresholds(
    const uint64_t* hits, const int* counts, int room, int k, int nq, float* taus) {
  const int q = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (q >= nq || counts[q] < k) return;
  const int c = min(counts[q], room);
  const uint64_t* list = hits + (size_t)q * room;
  uint32_t keys[8] = {};
  for (int i = lane; i < c; i += 256)
#pragma unroll
    for (int h = 0; h < 8; h++)
      if (i + 32 * h < c) keys[h] = max(keys[h], (uint32_t)(list[i + 32 * h] >> 32));
  const uint32_t found = warp_kth(keys, k);
  if (lane == 0 && found >= 0x00800000u) taus[q] = fmaxf(taus[q], unordered(found));
}

// Hits from the warps' queues to the queries' lists. One block for some of the queues of a tile of `columns` queries: it
// counts a query's hits first, so that one atomic makes room for all of them (one a hit: 27 us in place of 5).
extern "C" __global__ void __launch_bounds__(256) bin_hits(
    const uint4* queues, const int* queued, int groups, int nqt, int warps, int columns, int room, int* counts,
    uint64_t* hits) {
  __shared__ int held[256], first[256];
  const int qt = blockIdx.x % nqt, part = blockIdx.x / nqt, parts = gridDim.x / nqt;
  const int lane = threadIdx.x & 31, query = qt * columns;
  if (threadIdx.x < columns) held[threadIdx.x] = 0;
  __syncthreads();
  for (int pass = 0; pass < 2; pass++) {
    for (int u = threadIdx.x >> 5; u < (groups - part + parts - 1) / parts * warps; u += 8) {
      const int queue = ((part + u / warps * parts) * nqt + qt) * warps + u % warps;
      const uint4* mine = queues + (size_t)queue * PLACES;
      for (int i = lane; i < queued[queue]; i += 32) {
        const int column = (int)mine[i].z - query, at = atomicAdd(held + column, 1);
        if (pass && first[column] + at < room)
          hits[(size_t)mine[i].z * room + first[column] + at] = ((uint64_t)mine[i].x << 32) | mine[i].y;
      }
    }
    __syncthreads();
    if (pass == 0 && threadIdx.x < columns) {
      const int count = held[threadIdx.x];
      first[threadIdx.x] = count ? atomicAdd(counts + query + threadIdx.x, count) : 0;
      held[threadIdx.x] = 0;
    }
    __syncthreads();
  }
}

// The threshold becomes the k-th of the stored hits, by key and id, if there are k; hits that do not reach it leave the
// list, and those of rows first .. stop - 1, which a list that overflowed are to be scanned again. At least room - k of
// what such a list held is then no hit, so that this ends, whatever the order of rows and however many tie.
extern "C" __global__ void __launch_bounds__(BLOCK) raise_thresholds(
    uint64_t* hits, const long long* ids, int room, int k, int first, int stop, float* taus, long long* tau_ids,
    int* counts) {
  __shared__ int partial[BLOCK / 32];
  const int q = blockIdx.x, c = min(counts[q], room);
  uint64_t* mine = hits + (size_t)q * room;
  uint32_t key = 0;
  long long id = 0x7fffffffffffffffll;
  if (c >= k) {
    int above = 0;  // hits with larger keys
    for (int bit = 31; bit >= 0; bit--) {
      const uint32_t tried = key | (1u << bit);
      int reach = 0;
      for (int i = threadIdx.x; i < c; i += BLOCK) reach += (uint32_t)(mine[i] >> 32) >= tried;
      reach = block_sum(reach, partial);
      if (reach >= k) key = tried; else above = reach;
    }
    id = 0;  // the largest id with fewer than k - above ties before it
    for (int bit = 62; bit >= 0; bit--) {
      const long long tried = id | (1ll << bit);
      int before = 0;
      for (int i = threadIdx.x; i < c; i += BLOCK) {
        const uint32_t row = (uint32_t)mine[i];
        before += (uint32_t)(mine[i] >> 32) == key && (ids ? ids[row] : (long long)row) < tried;
      }
      if (block_sum(before, partial) < k - above) id = tried;
    }
    if (threadIdx.x == 0) { taus[q] = unordered(key); tau_ids[q] = id; }
  }
  int kept = 0;
  for (int begin = 0; begin < c; begin += BLOCK) {
    const int i = begin + threadIdx.x;
    uint64_t hit = 0;
    bool stays = false;
    if (i < c) {
      hit = mine[i];
      const uint32_t row = (uint32_t)hit, reached = (uint32_t)(hit >> 32);
      stays = (row < (uint32_t)first || row >= (uint32_t)stop) &&
              (reached > key || (reached == key && (ids ? ids[row] : (long long)row) <= id));
    }
    const uint32_t staying = __ballot_sync(~0u, stays);
    __syncthreads();  // all have read their hits of this round, and the counts of the last
    if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = __popc(staying);
    __syncthreads();
    int at = kept + __popc(staying & ((1u << (threadIdx.x & 31)) - 1u));
    for (int warp = 0; warp < BLOCK / 32; warp++) {
      if (warp < (threadIdx.x >> 5)) at += partial[warp];
      kept += partial[warp];
    }
    if (stays) mine[at] = hit;
  }
  __syncthreads();
  if (threadIdx.x == 0) counts[q] = kept;
}

// The k best of each list, by key and id: bitonic sort of at most `room` hits, a power of two. Empty places: -inf and
// the largest id.
extern "C" __global__ void __launch_bounds__(BLOCK) best_hits(
    const uint64_t* hits, const long long* ids, const int* counts, int room, int k, float* keys, long long* found) {
  extern __shared__ long long names[];  // (room), then keys (room)
  const int q = blockIdx.x, c = min(counts[q], room);
  int m = 64;
  while (m < c) m <<= 1;
  uint32_t* order = (uint32_t*)(names + m);
  for (int i = threadIdx.x; i < m; i += BLOCK) {
    const uint64_t hit = i < c ? hits[(size_t)q * room + i] : 0ull;
    order[i] = (uint32_t)(hit >> 32);
    names[i] = i < c ? (ids ? ids[(uint32_t)hit] : (long long)(uint32_t)hit) : 0x7fffffffffffffffll;
  }
  __syncthreads();
  for (int size = 2; size <= m; size <<= 1)
    for (int stride = size >> 1; stride > 0; stride >>= 1) {
      for (int i = threadIdx.x; i < m / 2; i += BLOCK) {
        const int lo = 2 * i - (i & (stride - 1)), hi = lo + stride;
        const uint32_t a = order[lo], b = order[hi];
        const long long x = names[lo], y = names[hi];
        const bool after = a < b || (a == b && x > y);  // lo comes after hi
        if (after == ((lo & size) == 0)) { order[lo] = b; order[hi] = a; names[lo] = y; names[hi] = x; }
      }
      __syncthreads();
    }
  for (int i = threadIdx.x; i < k; i += BLOCK) {
    const bool there = i < c;
    keys[(size_t)q * k + i] = there ? unordered(order[i]) : minus_infinity();
    found[(size_t)q * k + i] = there ? names[i] : 0x7fffffffffffffffll;
  }
}

// The same for k <= 32, by a warp a query: in every round the best that comes after the one before.
extern "C" __global__ void __launch_bounds__(128) best_of_few(
    const uint64_t* hits, const long long* ids, const int* counts, int room, int k, int nq, float* keys,
    long long* found) {
  const int q = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (q >= nq) return;
  const int c = min(counts[q], room);
  const uint64_t* list = hits + (size_t)q * room;
  const long long none = 0x7fffffffffffffffll;
  uint32_t before = 0xffffffffu, mine = 0u;
  long long name_before = -1, my_name = none;
  for (int r = 0; r < k; r++) {
    uint32_t best = 0u;
    long long name = none;
    for (int i = lane; i < c; i += 32) {
      const uint64_t hit = list[i];
      const uint32_t key = (uint32_t)(hit >> 32);
      if (key > before || key < best) continue;
      const long long id = ids ? ids[(uint32_t)hit] : (long long)(uint32_t)hit;
      if ((key == before && id <= name_before) || (key == best && id >= name)) continue;
      best = key;
      name = id;
    }
    before = warp_max(best);
    name_before = warp_least(best == before ? name : none);
    if (before == 0u) break;
    if (lane == r) { mine = before; my_name = name_before; }
  }
  if (lane < k) {
    keys[(size_t)q * k + lane] = mine ? unordered(mine) : minus_infinity();
    found[(size_t)q * k + lane] = my_name;
  }
}
