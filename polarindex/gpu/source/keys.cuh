// What a scan does with its integer dots: keys as the CPU computes them, and the hits that reach a query's threshold.
//
//   key = shift_row + (float(dot) * gain_query) * scale_row     each operation rounded, in this order, none fused
//
// Order of results: key descending, then id ascending. A threshold is a key and an id: what comes after it is no hit.
struct Scan {
  const uint8_t* codes; const float* scales; const float* shifts;  // shifts: null for 0
  const uint32_t* allowed;                                         // a bit a row, null for all
  const int32_t* tiles;                                            // which tiles to read, null for all in order
  const int8_t* queries; const float* gains;                       // levels (nqt * NT, DIM), gains (nqt * NT)
  const float* taus; const long long* tau_ids;                      // (nqt * NT): the thresholds
  const long long* ids;                                             // null: a row's id is its number
  int32_t* counts; uint64_t* hits;                                 // (nqt * NT), (nqt * NT, room)
  float* maxima; int32_t* dots;                                    // the results of the other modes
  uint4* queues; int32_t* queued;                                  // (warps, PLACES), (warps): see Queue
  Table table; int n, ntiles, stride, nqt, room, width, raised;    // raised: ids are part of the thresholds
  int skipped;                                                     // not 0: tiles 0, skipped, 2 skipped, ... are left out
  __device__ __forceinline__ int tile(int t) const {
    const int at = skipped ? t + t / (skipped - 1) + 1 : t * stride;
    return tiles ? tiles[at] : at;
  }
};

#define FILTER 0   // hits of every row
#define MAXIMA 1   // the largest key of every 16 rows: maxima[query * width + 4 t + part]
#define DOTS 2     // dots[query * width + row]

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }
// floats in the order of unsigned integers; both zeros are one
__device__ __forceinline__ uint32_t ordered(float f) {
  uint32_t u = __float_as_uint(__fadd_rn(f, 0.f)); return (u & 0x80000000u) ? ~u : (u | 0x80000000u);
}
__device__ __forceinline__ float unordered(uint32_t u) {
  return __uint_as_float((u & 0x80000000u) ? (u & 0x7fffffffu) : ~u);
}
__device__ __forceinline__ float key_of(int dot, float gain, float scale, float shift) {
  return __fadd_rn(shift, __fmul_rn(__fmul_rn((float)dot, gain), scale));
}

#define SLACK 9.53674316e-7f  // 2^-20

// What is loaded of rows `row` and `row + 8`, well before it is used: the loads take longer than a short row's dots
struct Loaded { float scale0, scale1, shift0, shift1; uint32_t allowed; };
__device__ __forceinline__ Loaded load_rows(const Scan& S, int row) {
  Loaded l{S.scales[row], S.scales[row + 8], 0.f, 0.f, ~0u};
  if (S.shifts) { l.shift0 = S.shifts[row]; l.shift1 = S.shifts[row + 8]; }
  if (S.allowed) l.allowed = S.allowed[row >> 5];
  return l;
}

// shift -inf: the row may not be returned, and its keys reach no threshold
struct Row { float scale, shift, loose; };
__device__ __forceinline__ Row row_of(const Scan& S, int row, float scale, float shift, uint32_t allowed) {
  const bool there = row < S.n && ((allowed >> (row & 31)) & 1u);
  if (!there) return Row{0.f, minus_infinity(), -3.402823466e38f};
  return Row{scale, shift, __fmaf_rn(fabsf(shift), SLACK, shift)};
}

// A first look at a key, without rounding as the CPU does and without a comparison: the sign of
//   (key - tau) / gain = dot * scale + (shift / gain - tau / gain)
// Predicates that depend on each other cost more than the arithmetic; signs are combined by AND. Its error is below
// 2^-20 (|tau| + |shift|) / gain, which `loose` and `fill` give away, so no hit is overlooked; the key itself decides.
__device__ __forceinline__ uint32_t glance(int dot, const Row& row, float per_gain, float limit) {
  return __float_as_uint(__fmaf_rn((float)dot, row.scale, __fmaf_rn(row.loose, per_gain, limit)));
}

// What a block keeps of its queries: what `glance` takes, thresholds and gains
struct Limits { float2 first[NT]; float taus[NT]; float gains[NT]; };
template <int MODE> __device__ __forceinline__ void fill(Limits& L, const Scan& S, int query, int thread, int threads) {
  const float infinity = -minus_infinity();
  for (int i = thread; i < NT; i += threads) {
    const float gain = S.gains[query + i], tau = MODE == FILTER ? S.taus[query + i] : 0.f;
    const float loose = __fadd_rn(__fmaf_rn(-fabsf(tau), SLACK, tau), -7.88860905e-31f);  // 2^-100, for denormal keys
    float per_gain;
    asm("rcp.approx.f32 %0, %1;" : "=f"(per_gain) : "f"(gain));
    const bool usual = gain > 8.67361738e-19f && gain < 1.15292150e18f;  // 2^-60 to 2^60; for others the key decides
    L.first[i] = tau == infinity ? make_float2(0.f, -infinity)           // no query
               : usual ? make_float2(per_gain, __fmul_rn(-loose, per_gain)) : make_float2(0.f, infinity);
    L.taus[i] = tau;
    L.gains[i] = gain;
  }
}

// A key has reached the threshold: is it a hit?
__device__ __forceinline__ bool is_hit(const Scan& S, float key, int row, int query) {
  return !S.raised || key != S.taus[query] || (S.ids ? S.ids[row] : (long long)row) <= S.tau_ids[query];
}
__device__ __forceinline__ void list_hit(const Scan& S, uint32_t key, int row, int query) {
  const int at = atomicAdd(S.counts + query, 1);
  if (at < S.room) S.hits[(size_t)query * S.room + at] = ((uint64_t)key << 32) | (uint32_t)row;
}
// Where queries are many, a warp writes its hits one after the other into a queue of its own, which `bin_hits` sorts
// out: an atomic that returns where a hit goes would stall the warp for a microsecond, and with it the tensor cores.
#define PLACES 512
__device__ __forceinline__ uint32_t warp_or(uint32_t bits) {
#if __CUDA_ARCH__ >= 800
  return __reduce_or_sync(~0u, bits);
#else
#pragma unroll
  for (int o = 16; o; o >>= 1) bits |= __shfl_xor_sync(~0u, bits, o);
  return bits;
#endif
}
struct Queue {
  uint4* mine; int held;
  __device__ __forceinline__ void take(const Scan& S, bool reached, float key, int row, int query) {  // by whole warps
    const bool hit = reached && is_hit(S, key, row, query);
    const uint32_t hits = __ballot_sync(~0u, hit);
    if (!hits) return;
    if (hit) {
      const int at = held + __popc(hits & ((1u << (threadIdx.x & 31)) - 1u));
      if (at < PLACES) mine[at] = make_uint4(ordered(key), (uint32_t)row, (uint32_t)query, 0u);
      else list_hit(S, ordered(key), row, query);
    }
    held += __popc(hits);
  }
};

// acc[4 j ...] of a j that is the same for a warp, by a jump: to choose among them lane by lane takes 5 instructions for each
template <int J> __device__ __forceinline__ void pick(const int (&acc)[4 * J], int j, int (&x)[4]) {
#define CASE(I) \
  case I: \
    if constexpr (I < J) { x[0] = acc[4 * (I)]; x[1] = acc[4 * (I) + 1]; x[2] = acc[4 * (I) + 2]; x[3] = acc[4 * (I) + 3]; } \
    break;
#define CASES(I) CASE(I) CASE(I + 1) CASE(I + 2) CASE(I + 3)
  switch (j) { CASES(0) CASES(4) CASES(8) CASES(12) CASES(16) CASES(20) CASES(24) default: __builtin_unreachable(); }
#undef CASES
#undef CASE
}

// Signs of `glance` for j = 0, 1, ..., shifted in one by one -> bit j is set where a key may be a hit
template <int J> __device__ __forceinline__ uint32_t marked(uint32_t below) { return __brev(~below) >> (32 - J); }

// The hits among a thread's dots of rows row0 and row0 + 8 with columns 8 j + 2 tig and the next, acc[4 j ...], of those
// j that are marked. One text for all j: were it beside each, the hot code would not fit in the instruction cache.
template <int J> __device__ __forceinline__ void take_marked(
    const Scan& S, const Limits& L, uint32_t marks, const int (&acc)[4 * J], const Row& r0, const Row& r1, int row0,
    int query, Queue& queue) {
  static_assert(J <= 28, "J");
  const int tig = threadIdx.x & 3;
  for (uint32_t left = warp_or(marks); left; left &= left - 1u) {
    const int j = __ffs(left) - 1, pair = 8 * j + 2 * tig;
    int x[4];
    pick<J>(acc, j, x);
    const float2 gains = *(const float2*)(L.gains + pair), taus = *(const float2*)(L.taus + pair);
    const float keys[4] = {key_of(x[0], gains.x, r0.scale, r0.shift), key_of(x[1], gains.y, r0.scale, r0.shift),
                           key_of(x[2], gains.x, r1.scale, r1.shift), key_of(x[3], gains.y, r1.scale, r1.shift)};
    uint32_t reached = (keys[0] >= taus.x) | (keys[1] >= taus.y) << 1 | (keys[2] >= taus.x) << 2 | (keys[3] >= taus.y) << 3;
    if (!((marks >> j) & 1u)) reached = 0u;
#pragma unroll 1
    for (uint32_t each = warp_or(reached); each; each &= each - 1u) {
      const int i = __ffs(each) - 1, row = row0 + 8 * (i >> 1), column = query + pair + (i & 1);
      const float low = i & 1 ? keys[1] : keys[0], high = i & 1 ? keys[3] : keys[2], key = i & 2 ? high : low;
      const bool hit = (reached >> i) & 1u;
#if QUEUED
      queue.take(S, hit, key, row, column);
#else
      if (hit && is_hit(S, key, row, column)) list_hit(S, ordered(key), row, column);
#endif
    }
  }
}
