// An inverted file as its kernels see it: pages of 16 rows, the lists they are in, and what becomes of some queries.
//
// A page is a quarter of a tile of layout.py, its chunks one after the other: lane 4 g + i of a warp has 16 bytes of rows
// g and g + 8. A row's place is 16 page + lane, as on the host. Shift -inf: no row is there.
constexpr int PAGE = 16;
constexpr int PAGE_CHUNK = CHUNK / 4, PAGE_BYTES = CHUNKS * PAGE_CHUNK;

struct Pick { int list, rank, start; float offset; };    // a list that a query probes: see place_picks
struct Pair { int query, start; float offset, gain; };   // the same, beside the others of its list

struct Lists {
  const uint8_t* codes; const float* scales; const float* shifts; const long long* ids;  // by place
  const uint32_t* allowed;                                      // a bit a place, null for all
  const int32_t* pages; const int32_t* firsts;                  // list l has pages[firsts[l]] .. pages[firsts[l + 1] - 1]
  const float* centres; const float* constants; const float* mu;  // (nlist, dim), (nlist), (dim)
  const int32_t* order;                                         // the lists in the order of the centroids' groups
  const void* originals; const float* original_scales;          // by place
  const float* given; const float* rows;                        // queries (nq, dim), and as they are coded
  const int8_t* levels; const float* gains; const double* added;  // (nq, stride), (nq), (nq): null for 0
  float* scores;                                                // (nq, coarse), of centroids and from `centres_at` on groups
  int32_t* numbers; int32_t* counts;                            // (nq, nprobe), (nq): the lists that are probed
  Pick* picks; int32_t* used;                                   // (nq, nprobe), (nq): maxima in use
  int32_t* tally; int32_t* pair_starts; int32_t* item_starts;   // (nlist), (nlist + 1), (nlist + 1)
  Pair* pairs; float* maxima;                                   // (pairs), (nq, width)
  float* hit_keys; long long* hit_ids; int32_t* hit_places;     // (nq, room), null where shared memory has the room
  float* distances; long long* found;                           // (nq, k)
  Table table;
  int nq, dim, stride, nlist, nprobe, coarse, centres_at, groups, group_size, look, width, keep, k, room, metric, kind;
  float gap;
};

#define L2 0
#define INNER_PRODUCT 1
#define COSINE 2

__device__ __forceinline__ Chunk load_page(const uint8_t* chunk, int lane) {
  Chunk c;
  c.v = *(const uint4*)(chunk + 16 * lane);
#if BITS == 3
  c.top = *(const uint2*)(chunk + 512 + 8 * lane);
#endif
  return c;
}

// Dots of a page's rows g and g + 8 with COUNT queries, words[query][DIM / 4] in shared memory; in all lanes of a row
template <int COUNT> __device__ __forceinline__ void page_dots(
    const uint8_t* page, const uint32_t* words, const Table& T, int (&d0)[COUNT], int (&d1)[COUNT]) {
  const int lane = threadIdx.x & 31, tig = lane & 3;
#pragma unroll
  for (int i = 0; i < COUNT; i++) d0[i] = d1[i] = 0;
#pragma unroll 4
  for (int c = 0; c < CHUNKS; c++) {
    uint32_t a[STEPS][4];
    decode_chunk(load_page(page + (size_t)c * PAGE_CHUNK, lane), T, a);
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const uint32_t* q = words + (size_t)i * (DIM / 4) + (c * STEPS + s) * 8 + tig;
        const int b0 = (int)q[0], b1 = (int)q[4];
        d0[i] = __dp4a((int)a[s][0], b0, d0[i]); d0[i] = __dp4a((int)a[s][2], b1, d0[i]);
        d1[i] = __dp4a((int)a[s][1], b0, d1[i]); d1[i] = __dp4a((int)a[s][3], b1, d1[i]);
      }
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++)
#pragma unroll
    for (int o = 1; o < 4; o <<= 1) {
      d0[i] += __shfl_xor_sync(~0u, d0[i], o); d1[i] += __shfl_xor_sync(~0u, d1[i], o);
    }
}

// A bit a row of a page: whether it may be returned
__device__ __forceinline__ uint32_t allowed_rows(const Lists& S, int page) {
  return S.allowed ? (S.allowed[page >> 1] >> (16 * (page & 1))) & 0xffffu : 0xffffu;
}

// key = (shift + (dot * gain) * scale) + offset, each operation rounded
__device__ __forceinline__ float list_key(int dot, float gain, float scale, float shift, float offset) {
  return __fadd_rn(key_of(dot, gain, scale, shift), offset);
}

// --- choosing: the k-th largest of many keys, by a block of THREADS

template <int THREADS> struct Sums { int partial[2][THREADS / 32]; };

// The sum of c over a block; `turn` is odd and even in turns, so that one barrier is enough
template <int THREADS> __device__ __forceinline__ int block_total(int c, Sums<THREADS>& sums, int turn) {
#if __CUDA_ARCH__ >= 800
  c = __reduce_add_sync(~0u, c);
#else
#pragma unroll
  for (int o = 16; o; o >>= 1) c += __shfl_xor_sync(~0u, c, o);
#endif
  if ((threadIdx.x & 31) == 0) sums.partial[turn & 1][threadIdx.x >> 5] = c;
  __syncthreads();
  int total = 0;
#pragma unroll
  for (int i = 0; i < THREADS / 32; i++) total += sums.partial[turn & 1][i];
  return total;
}

// Those whose key is above `key`, or is it and whose number is at most `number`
struct Limit {
  uint32_t key; int number;
  __device__ __forceinline__ bool has(uint32_t k, int n) const { return k > key || (k == key && n <= number); }
};

// The limit of the `wanted` <= n best of key(0) .. key(n - 1), ties to the smaller number(i). Up to HELD a thread are kept
// in registers.
template <int THREADS, int HELD, class Key, class Number> __device__ __forceinline__ Limit limit_of(
    int n, int wanted, Key key, Number number, Sums<THREADS>& sums) {
  uint32_t found = 0;
  int reached = n, above = 0;
  if (n <= HELD * THREADS) {
    uint32_t mine[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      const int at = threadIdx.x + i * THREADS;
      mine[i] = at < n ? key(at) : 0u;
    }
    for (int bit = 31; bit >= 0 && reached != wanted; bit--) {
      const uint32_t tried = found | (1u << bit);
      int c = 0;
#pragma unroll
      for (int i = 0; i < HELD; i++) c += mine[i] >= tried;
      c = block_total(c, sums, bit);
      if (c >= wanted) { found = tried; reached = c; } else above = c;
    }
  } else {
    for (int bit = 31; bit >= 0 && reached != wanted; bit--) {
      const uint32_t tried = found | (1u << bit);
      int c = 0;
      for (int i = threadIdx.x; i < n; i += THREADS) c += key(i) >= tried;
      c = block_total(c, sums, bit);
      if (c >= wanted) { found = tried; reached = c; } else above = c;
    }
  }
  if (reached == wanted) return Limit{found, 0x7fffffff};
  __syncthreads();
  int most = 0;  // the largest number that fewer than wanted - above ties have less than
  for (int bit = 30; bit >= 0; bit--) {
    const int tried = most | (1 << bit);
    int c = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) c += key(i) == found && number(i) < tried;
    if (block_total(c, sums, bit) < wanted - above) most = tried;
  }
  return Limit{found, most};
}

// --- sums of kernels/rescore.py: sixteen lanes, two sums each in turns, products exact in float64

__device__ __forceinline__ double lanes_total(const double (&sums)[2]) {
  double total = __dadd_rn(sums[0], sums[1]);
#pragma unroll
  for (int o = 8; o; o >>= 1) total = __dadd_rn(total, __shfl_xor_sync(~0u, total, o));
  return total;
}

// take(j, block) for the coordinates j of a lane, in blocks of sixteen; what is left is in the last lanes
template <class Take> __device__ __forceinline__ void each_coordinate(int dim, Take take) {
  const int lane = threadIdx.x & 15, whole = dim / 16, rest = dim % 16;
#pragma unroll 4
  for (int block = 0; block < whole; block++) take(16 * block + lane, block & 1);
  if (lane >= 16 - rest) take(dim - 16 + lane, whole & 1);
}
