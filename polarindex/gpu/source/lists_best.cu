// A query's best rows: those of the pages whose largest key may be among the best, scored again and sorted; then by the
// originals. One block a query.
//
// The keep-th largest of the pages' maxima bounds the keep-th best key from below, so only pages that reach it are read:
// about `keep` of them, and more where many keys are equal. What is held is cut to the best `keep` when its room is
// short, and the bound is raised; so neither ties nor the order of rows need more room.
#define FINDERS 128
#define WARPS (FINDERS / 32)
#define QUEUED_PAGES 512
#define LAST_ID 0x7fffffffffffffffll

struct Found { float* keys; long long* ids; int32_t* places; };  // `room` each, a power of two

// Bitonic: key descending, id ascending, of the first m entries, a power of two; keys compare as floats
__device__ __forceinline__ void sort_found(const Found& F, int m) {
  for (int size = 2; size <= m; size <<= 1)
    for (int stride = size >> 1; stride > 0; stride >>= 1) {
      __syncthreads();
      for (int i = threadIdx.x; i < m / 2; i += FINDERS) {
        const int lo = 2 * i - (i & (stride - 1)), hi = lo + stride;
        const float a = F.keys[lo], b = F.keys[hi];
        const long long x = F.ids[lo], y = F.ids[hi];
        const bool after = a < b || (a == b && x > y);  // lo comes after hi
        if (after == ((lo & size) == 0)) {
          const int32_t p = F.places[lo];
          F.keys[lo] = b; F.keys[hi] = a; F.ids[lo] = y; F.ids[hi] = x; F.places[lo] = F.places[hi]; F.places[hi] = p;
        }
      }
    }
  __syncthreads();
}

// Sort what is held, `count` entries, and say how many of the best are kept
__device__ __forceinline__ int cut(const Found& F, int count, int keep) {
  int m = 32;
  while (m < count) m <<= 1;
  for (int i = count + threadIdx.x; i < m; i += FINDERS) { F.keys[i] = minus_infinity(); F.ids[i] = LAST_ID; F.places[i] = 0; }
  sort_found(F, m);
  return min(count, keep);
}

__device__ __forceinline__ float original_at(const Lists& S, size_t at, float scale) {
  if (S.kind == 0) return ((const float*)S.originals)[at];
  if (S.kind == 1) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(((const unsigned short*)S.originals)[at]));
    return value;
  }
  return __fmul_rn((float)((const int8_t*)S.originals)[at], scale);
}

// What the stored row at a place is to a query as given, by half a warp: larger is better
__device__ __forceinline__ float exact_key(const Lists& S, int place, const float* query, double energy) {
  const float scale = S.kind == 2 ? S.original_scales[place] : 1.f;
  const size_t first = (size_t)place * S.dim;
  double dots[2] = {0.0, 0.0}, norms[2] = {0.0, 0.0};
  each_coordinate(S.dim, [&](int j, int turn) {
    const float value = original_at(S, first + j, scale), asked = query[j], difference = __fsub_rn(value, asked);
    const double a = S.metric == L2 ? difference : value, b = S.metric == L2 ? difference : asked;
    if (turn) dots[1] = __fma_rn(a, b, dots[1]); else dots[0] = __fma_rn(a, b, dots[0]);
    if (S.metric == COSINE) {
      if (turn) norms[1] = __fma_rn((double)value, (double)value, norms[1]);
      else norms[0] = __fma_rn((double)value, (double)value, norms[0]);
    }
  });
  const double dot = lanes_total(dots);
  if (S.metric == L2) return __double2float_rn(-dot);
  if (S.metric == INNER_PRODUCT) return __double2float_rn(dot);
  const double length = __dsqrt_rn(__dmul_rn(lanes_total(norms), energy));
  return length > 0.0 ? __double2float_rn(__ddiv_rn(dot, length)) : 0.f;
}

__device__ __forceinline__ double energy_of(const Lists& S, const float* query) {
  double sums[2] = {0.0, 0.0};
  each_coordinate(S.dim, [&](int j, int turn) {
    const double a = query[j];
    if (turn) sums[1] = __fma_rn(a, a, sums[1]); else sums[0] = __fma_rn(a, a, sums[0]);
  });
  return lanes_total(sums);
}

extern "C" __global__ void __launch_bounds__(FINDERS, 6) best_rows(const __grid_constant__ Lists S) {
  extern __shared__ __align__(16) uint32_t words[];  // levels, DIM bytes; then what is held, where there is room for it
  __shared__ int2 queue[QUEUED_PAGES];               // pages, and offsets as their bits
  __shared__ Sums<FINDERS> sums;
  __shared__ int queued, held;
  const int q = blockIdx.x, tid = threadIdx.x, w = tid >> 5, lane = tid & 31;
  const int count = S.counts[q], total = S.used[q];
  const float gain = S.gains[q];
  const float* maxima = S.maxima + (size_t)q * S.width;
  const Pick* picks = S.picks + (size_t)q * S.nprobe;
  const Table T = S.table;
  for (int i = tid; i < DIM / 4; i += FINDERS) words[i] = ((const uint32_t*)(S.levels + (size_t)q * S.stride))[i];
  long long* there = (long long*)(words + DIM / 4);
  const Found F = S.hit_keys
      ? Found{S.hit_keys + (size_t)q * S.room, S.hit_ids + (size_t)q * S.room, S.hit_places + (size_t)q * S.room}
      : Found{(float*)(there + S.room), there, (int32_t*)(there + S.room) + S.room};
  if (tid == 0) queued = held = 0;
  float tau = -3.402823466e38f;  // finite: keys of -inf are no rows
  __syncthreads();
  if (total >= S.keep) {
    const Limit limit = limit_of<FINDERS, 8>(
        total, S.keep, [&](int i) { return ordered(maxima[i]); }, [](int i) { return i; }, sums);
    tau = fmaxf(tau, unordered(max(limit.key, 0x00800000u)));  // what is less is -inf
  }

  auto score = [&](int2 entry) {  // by a warp: rows g and g + 8 of a page, in lanes 4 g
    int d0[1], d1[1];
    page_dots<1>(S.codes + (size_t)entry.x * PAGE_BYTES, words, T, d0, d1);
    const int half = lane & 3, row = (lane >> 2) + 8 * half;
    if (half >= 2 || !((allowed_rows(S, entry.x) >> row) & 1u)) return;
    const int place = PAGE * entry.x + row;
    const float key = list_key(half ? d1[0] : d0[0], gain, S.scales[place], S.shifts[place], __int_as_float(entry.y));
    if (!(key >= tau)) return;
    const int at = atomicAdd(&held, 1);
    F.keys[at] = key; F.ids[at] = S.ids[place]; F.places[at] = place;
  };
  auto score_queued = [&]() {
    __syncthreads();
    const int pages = queued;
    for (int first = 0; first < pages;) {
      __syncthreads();
      int so_far = held;
      __syncthreads();
      if (so_far > S.room - PAGE * WARPS) {
        so_far = cut(F, so_far, S.keep);
        if (so_far == S.keep) tau = fmaxf(tau, F.keys[S.keep - 1]);
        if (tid == 0) held = so_far;
        __syncthreads();
      }
      const int stop = min(pages, first + (S.room - so_far) / (PAGE * WARPS) * WARPS);  // for which there is room
      for (int i = first + w; i < stop; i += WARPS) score(queue[i]);
      first = stop;
    }
    __syncthreads();
    if (tid == 0) queued = 0;
    __syncthreads();
  };

  int waiting = 0;
  for (int first = 0; first < count; first += WARPS) {  // a list a warp
    const bool mine = first + w < count;
    const Pick pick = picks[mine ? first + w : first];
    const int begin = S.firsts[pick.list], pages = mine ? S.firsts[pick.list + 1] - begin : 0;
    int most = 0;
    for (int i = first; i < min(first + WARPS, count); i++) {
      const int list = picks[i].list;
      most = max(most, S.firsts[list + 1] - S.firsts[list]);
    }
    for (int j = lane; j < most + lane; j += 32) {
      const bool near = j < pages && maxima[pick.start + j] >= tau;
      const int more = __syncthreads_count(near);
      if (waiting + more > QUEUED_PAGES) { score_queued(); waiting = 0; }
      if (near) queue[atomicAdd(&queued, 1)] = make_int2(S.pages[begin + j], __float_as_int(pick.offset));
      waiting += more;
    }
  }
  score_queued();
  int kept = cut(F, held, S.keep);

  int m = 32;  // sorted again: by what originals say, or because rounding has made ties
  while (m < kept) m <<= 1;
  if (S.originals) {
    const float* query = S.given + (size_t)q * S.dim;
    const double energy = S.metric == COSINE ? energy_of(S, query) : 0.0;
    for (int first = 0; first < kept; first += FINDERS / 16) {
      const int i = first + (tid >> 4);
      const float key = exact_key(S, F.places[min(i, kept - 1)], query, energy);
      if (i < kept && (tid & 15) == 0) F.keys[i] = key;
    }
  } else if (S.added) {
    const double constant = S.added[q];
    for (int i = tid; i < kept; i += FINDERS) F.keys[i] = __double2float_rn(__dadd_rn((double)F.keys[i], constant));
  }
  if (S.originals || S.added) {
    __syncthreads();
    for (int i = kept + tid; i < m; i += FINDERS) { F.keys[i] = minus_infinity(); F.ids[i] = LAST_ID; }
    sort_found(F, m);
  }
  const float sign = S.metric == L2 ? -1.f : 1.f;
  for (int i = tid; i < S.k; i += FINDERS) {
    S.distances[(size_t)q * S.k + i] = __fmul_rn(sign, i < kept ? F.keys[i] : minus_infinity());
    S.found[(size_t)q * S.k + i] = i < kept ? F.ids[i] : -1ll;
  }
}
