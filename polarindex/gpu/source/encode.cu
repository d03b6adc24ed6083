// From rows to words of codes, bit for bit as kernels/encoding.py makes them on the CPU: centre, rotate, quantize, pack.
//
// Given at compile time: D coordinates, P the transform's size, WINDOWS (1 where P = D, else 2), ROUNDS, CODE bits; Q0,
// Q1, Q2 levels of the transform in its passes; KEPT, 1 where the last of two leaves coordinate 32 i + c in register i;
// R times V rows a warp, V of them side by side; WARPS a block, BLOCKS a multiprocessor. places.py chooses them, and
// makes the tables.
// Work:      a row has UNITS lanes. A pass is 2^Q coordinates, of V rows, in a lane's registers.
// Exact:     every sum and product of the rotation is that of hadamard.py, in its order: (a + b, a - b) at distance
//            1, 2, 4, ..., each rounded, then times the norm. Float64 sums are added in the order of sums.py, a lane a
//            part; their terms are exact products, so fused or not is one.
// Memory:    a row is held twice: where a round reads it, in slots so chosen that no two lanes of an access have one
//            bank, whatever the order; and where its passes exchange, 2^Q0 coordinates and a slot that stays empty.
// Measured:  with V = 2, 229 million rows of 1,024 a second at 4 bits (one H200); with V = 1 217, for what a lane does
//            about places it then does for one row.
constexpr int UNITS = 32 / R;
constexpr int LINES = (D + 31) / 32;  // of 32 coordinates; words of a plane
constexpr int CODED = 32 * LINES;     // slots of what a round reads
constexpr int GROUP = 1 << Q0;
constexpr int USED = CODED + ((D + GROUP - 1) / GROUP) * (GROUP + 1);
constexpr int STRIDE = USED + (UNITS - USED % 32 + 32) % 32;  // slots a row: rows of a warp begin UNITS banks apart
constexpr int WORD_COUNT = CODE == 8 ? (D + 3) / 4 : CODE * LINES;
constexpr int PLANES = CODE == 8 ? 1 : CODE;
constexpr int SECOND = D - P;  // where the second window begins
constexpr int LAST = Q2 ? Q2 : Q1 ? Q1 : Q0;  // levels of the last pass
constexpr uint32_t ALL = ~0u, SLOT = 0x7fff;

struct alignas(4 * V) Slot { float of[V]; };  // one coordinate of V rows
struct alignas(16) Eight { uint32_t two[4]; };  // places: slots of 15 bits, and whether the sign is flipped
struct Map { const uint16_t* start; const uint16_t* reads; const uint16_t* tails; const uint16_t* writes; float norm; };

__device__ __forceinline__ Eight eight(const uint16_t* places) {
  const uint4 w = __ldg((const uint4*)places);
  return {{w.x, w.y, w.z, w.w}};
}
__device__ __forceinline__ uint32_t slot(const Eight& places, int i, uint32_t mask) {
  return (i & 1 ? places.two[i >> 1] >> 16 : places.two[i >> 1]) & mask;
}
// A row is known by where it begins in shared memory: a slot's address is then one instruction
struct Row {
  uint32_t begin;
  __device__ __forceinline__ Slot& operator[](uint32_t slot) const {
    return *(Slot*)__cvta_shared_to_generic(begin + slot * sizeof(Slot));
  }
};
__device__ __forceinline__ Row row_at(const void* memory, int slot) {
  uint32_t begin = (uint32_t)__cvta_generic_to_shared(memory) + slot * (int)sizeof(Slot);
  asm volatile("" : "+r"(begin));  // one number to the compiler, which else adds its parts again for every slot
  return {begin};
}
__device__ __forceinline__ float flipped(float x, const Eight& places, int i) {
  return __uint_as_float(__float_as_uint(x) ^ ((i & 1 ? places.two[i >> 1] : places.two[i >> 1] << 16) & 0x80000000u));
}

// A lane's coordinate of a line: byte and bit that it has in a word are the lane, so that a ballot is a word
__device__ __forceinline__ int own() { return (threadIdx.x & 7) << 2 | (threadIdx.x >> 3 & 3); }
__device__ __host__ constexpr int spread(int c) { return UNITS == 32 ? (c & ~31) | (c & 3) << 3 | (c >> 2 & 7) : c; }

// The same for all lanes, which the compiler then knows
__device__ __forceinline__ int warp_number() { return __shfl_sync(ALL, (int)threadIdx.x / 32, 0); }

// Where the passes exchange coordinate j
__device__ __forceinline__ int between(int j) { return CODED + (j >> Q0) * (GROUP + 1) + spread(j & (GROUP - 1)); }

// --- the transform's passes: coordinate FIRST + low + (i << FROM) in register i, low by the group's number u

template <int FROM, int COUNT> __device__ __forceinline__ int lowest(int u) {
  if (FROM == 0) return u << COUNT;
  if (UNITS == 32) u = (u & ~31) | own();
  return (u & ((1 << FROM) - 1)) | (u >> FROM) << (FROM + COUNT);
}
template <int FROM, int FIRST> __device__ __forceinline__ int exchange(int low) {
  return FROM ? between(FIRST + low) : CODED + ((FIRST - FIRST % GROUP + low) >> Q0) * (GROUP + 1);
}
template <int FROM, int FIRST> __device__ constexpr int offset(int i) {
  return FROM ? (i << FROM >> Q0) * (GROUP + 1)
              : ((FIRST % GROUP + i) >> Q0) * (GROUP + 1) + spread((FIRST % GROUP + i) & (GROUP - 1));
}

template <int COUNT> __device__ __forceinline__ void butterflies(Slot (&v)[1 << COUNT]) {
#pragma unroll
  for (int half = 1; half < (1 << COUNT); half <<= 1)
#pragma unroll
    for (int i = 0; i < (1 << COUNT); i++)
      if (!(i & half))
#pragma unroll
        for (int r = 0; r < V; r++) {
          const float a = v[i].of[r], b = v[i + half].of[r];
          v[i].of[r] = __fadd_rn(a, b); v[i + half].of[r] = __fsub_rn(a, b);
        }
}

template <int COUNT> __device__ __forceinline__ const uint16_t* places_of(const uint16_t* table, int set, int u) {
  constexpr int SIZE = COUNT < 3 ? 8 : 1 << COUNT;  // eight by eight, neighbouring lanes side by side
  return table + (size_t)set * (P >> COUNT) * SIZE + 8 * u;
}

// What the last pass leaves goes, times the norm and its sign, where the next round or window reads it
template <int COUNT>
__device__ __forceinline__ void write(const Slot (&v)[1 << COUNT], Row row, const Map& map, int set, int u) {
  const uint16_t* table = places_of<COUNT>(map.writes, set, u);
#pragma unroll
  for (int first = 0; first < (1 << COUNT); first += 8) {
    const Eight places = eight(table + first * (P >> COUNT));
#pragma unroll
    for (int i = 0; i < 8 && first + i < (1 << COUNT); i++) {
      const float factor = flipped(map.norm, places, i);
      Slot out;
#pragma unroll
      for (int r = 0; r < V; r++) out.of[r] = __fmul_rn(v[first + i].of[r], factor);
      row[slot(places, i, SLOT)] = out;
    }
  }
}

template <int FROM, int COUNT, int WINDOW> __device__ __forceinline__ void pass(Row row, const Map& map, int round) {
  constexpr int FIRST = WINDOW ? SECOND : 0;
  constexpr bool FINAL = (P >> (FROM + COUNT)) == 1;
  for (int u = threadIdx.x % UNITS; u < (P >> COUNT); u += UNITS) {
    Slot v[1 << COUNT];
    const int at = exchange<FROM, FIRST>(lowest<FROM, COUNT>(u));
    if (FROM == 0 && WINDOW == 0) {
      const uint16_t* table = places_of<COUNT>(map.reads, round, u);
#pragma unroll
      for (int first = 0; first < (1 << COUNT); first += 8) {
        const Eight places = eight(table + first * (P >> COUNT));
#pragma unroll
        for (int i = 0; i < 8 && first + i < (1 << COUNT); i++) v[first + i] = row[slot(places, i, 0xffff)];
      }
    } else {
#pragma unroll
      for (int i = 0; i < (1 << COUNT); i++) v[i] = row[at + offset<FROM, FIRST>(i)];
    }
    butterflies<COUNT>(v);
    if (FINAL) {
      write<COUNT>(v, row, map, round * WINDOWS + WINDOW, u);
    } else {
#pragma unroll
      for (int i = 0; i < (1 << COUNT); i++) row[at + offset<FROM, FIRST>(i)] = v[i];
    }
  }
  __syncwarp();
}

template <int WINDOW> __device__ __forceinline__ void window(Row row, const Map& map, int round) {
  pass<0, Q0, WINDOW>(row, map, round);
  if constexpr (Q1 > 0) pass<Q0, Q1, WINDOW>(row, map, round);
  if constexpr (Q2 > 0) pass<Q0 + Q1, Q2, WINDOW>(row, map, round);
}

// All rounds of a lane's row. Where KEEP, `last` is what the last pass leaves, without the norm; else that lies in the
// order of coordinates.
template <bool KEEP> __device__ __forceinline__ void rotate(Row row, const Map& map, Slot (&last)[1 << LAST]) {
#pragma unroll 1
  for (int round = 0; round < ROUNDS; round++) {
    if constexpr (KEEP) {
      pass<0, Q0, 0>(row, map, round);
      const int at = exchange<Q0, 0>(lowest<Q0, LAST>(threadIdx.x % UNITS));
#pragma unroll
      for (int i = 0; i < (1 << LAST); i++) last[i] = row[at + offset<Q0, 0>(i)];
      butterflies<LAST>(last);
      if (round + 1 < ROUNDS) write<LAST>(last, row, map, round, threadIdx.x % UNITS);
      __syncwarp();
    } else {
      if (WINDOWS == 2)  // what the first window has not
        for (int j = threadIdx.x % UNITS; j < SECOND; j += UNITS)
          row[between(P + j)] = row[__ldg(map.tails + round * SECOND + j)];
      window<0>(row, map, round);
      if constexpr (WINDOWS == 2) window<1>(row, map, round);
    }
  }
}

// --- rows

struct Totals { double norm, offset, dot; int energy; };  // a lane has those of row `lane`

// The sum of what the lanes have, one a coordinate c < 32: c and c + 16, then c and c + 8, ...
__device__ __forceinline__ double together(double sum) {
#pragma unroll
  for (int step = 0; step < 5; step++) {
    const int bit = step < 3 ? 4 >> step : 64 >> (step - 1);  // 4, 2, 1, 16, 8: c's bits from the highest, by `own`
    sum = __dadd_rn(sum, __shfl_xor_sync(ALL, sum, bit));
  }
  return sum;
}

// Rows minus mu where the first round reads them
template <bool SUMS>
__device__ __forceinline__ void load(
    const void* rows, const float* x, const float* mu, int base, int n, const Map& map, Totals& totals) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int row = 0; row < R; row++) {
    const Row at = row_at(rows, row * STRIDE);
    const float* from[V];
    double norms[V], offsets[V];
#pragma unroll
    for (int r = 0; r < V; r++) {
      from[r] = x + (size_t)min(base + row * V + r, n - 1) * D;
      norms[r] = offsets[r] = 0.0;
    }
#pragma unroll 4
    for (int first = 0; first < LINES; first += 8) {
      const Eight places = eight(map.start + first * 32 + 8 * lane);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int j = 32 * (first + i) + own();
        if (first + i < LINES && (D % 32 == 0 || j < D)) {
          const float c = __ldg(mu + j);
          Slot out;
#pragma unroll
          for (int r = 0; r < V; r++) {
            const float rest = __fsub_rn(__ldcs(from[r] + j), c);
            if (SUMS) {
              const double exact = (double)rest;
              norms[r] = __fma_rn(exact, exact, norms[r]);
              offsets[r] = __fma_rn(exact, (double)c, offsets[r]);
            }
            out.of[r] = flipped(rest, places, i);
          }
          at[slot(places, i, SLOT)] = out;
        }
      }
    }
    if (SUMS)
#pragma unroll
      for (int r = 0; r < V; r++) {
        const double norm = together(norms[r]), shift = together(offsets[r]);
        if (lane == row * V + r) totals.norm = norm, totals.offset = shift;
      }
  }
  __syncwarp();
}

struct Book { const float* thresholds; const float* levels; };  // 2^CODE - 1 and 2^CODE
constexpr int ENTRY = 8;  // bytes, in shared memory: of the threshold above a code; after them, of a code's level

template <class T> __device__ __forceinline__ T shared_at(uint32_t address) {
  return *(const T*)__cvta_shared_to_generic(address);
}

struct Quantizer {
  uint32_t entries;  // where they begin in shared memory: a threshold for every code, then a level
  float first[3];    // the middle threshold, and those of the lower and the upper half

  // The code of line i's coordinate: `planes` gets its words where `mine`; at 8 bits, the code
  __device__ __forceinline__ void code(
      int i, bool mine, float y, float gain, uint32_t (&planes)[PLANES], double& dot, double& energy) const {
    const bool there = D % 32 == 0 || 32 * i + own() < D;
    const float z = there ? __fmul_rn(y, gain) : __uint_as_float(0x7fffffffu);  // NaN passes none
    uint32_t entry = entries, words[CODE];
    if constexpr (CODE > 1) two_bits(z, first, entry, ENTRY << (CODE - 2), (uint32_t(&)[2])words);
    else words[0] = bit(z, first[0], entry, ENTRY);
#pragma unroll
    for (int b = CODE - 3; b >= 0; b--)
      words[CODE - 1 - b] = bit(z, shared_at<float>(entry + ENTRY * ((1 << b) - 1)), entry, ENTRY << b);
    if (CODE == 8) planes[0] = (entry - entries) / ENTRY;
    else
#pragma unroll
      for (int p = 0; p < PLANES; p++) planes[p] = mine ? words[p] : planes[p];
    const double level = there ? shared_at<double>(entry + (ENTRY << CODE)) : 0.0;
    dot = __fma_rn(there ? (double)y : 0.0, level, dot);
    energy = __fma_rn(level, level, energy);
  }
};

__device__ __forceinline__ void store(const uint32_t (&planes)[PLANES], int i, uint32_t* words, int row, int n) {
  const int lane = threadIdx.x % 32;
  if (row >= n) return;
  uint32_t* out = words + (size_t)row * WORD_COUNT;
  if (CODE == 8) {
    const int j = 32 * i + own();
    if (j < 4 * WORD_COUNT) ((uint8_t*)out)[j] = (uint8_t)planes[0];
    return;
  }
  const int line = i / 32 * 32 + lane;
#pragma unroll
  for (int p = 0; p < PLANES; p++)
    if (line < LINES) out[p * LINES + line] = planes[p];
}

// words (n, WORD_COUNT); sums (4, n) float64: |r|^2, <mu, r>, <R r, levels>, |levels|^2
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) encode_rows(
    const float* x, int n, const float* mu, const __grid_constant__ Map map, const __grid_constant__ Book book,
    double root_of_dim, uint32_t* words, double* sums) {
  extern __shared__ uint4 memory[];
  __shared__ double entries[2 << CODE];
  for (int i = threadIdx.x; i < (1 << CODE); i += 32 * WARPS) {
    *(float*)(entries + i) = i + 1 < (1 << CODE) ? __ldg(book.thresholds + i) : 0.f;
    entries[(1 << CODE) + i] = (double)__ldg(book.levels + i);
  }
  __syncthreads();
  constexpr int HALF = 1 << CODE >> 1, QUARTER = HALF >> 1;
  Quantizer quantizer = {(uint32_t)__cvta_generic_to_shared(entries), {__ldg(book.thresholds + HALF - 1)}};
  if (CODE > 1) {
    quantizer.first[1] = __ldg(book.thresholds + QUARTER - 1);
    quantizer.first[2] = __ldg(book.thresholds + HALF + QUARTER - 1);
  }
  const int lane = threadIdx.x % 32, warp = warp_number();
  Slot* rows = (Slot*)memory + warp * R * STRIDE;
  for (int base = (blockIdx.x * WARPS + warp) * R * V; base < n; base += gridDim.x * WARPS * R * V) {
    Totals totals = {0.0, 0.0, 0.0, 0};
    load<true>(rows, x, mu, base, n, map, totals);
    Slot last[1 << LAST];
    rotate<KEPT>(row_at(rows, lane / UNITS * STRIDE), map, last);
    float gain = 0.f;
    if (lane < R * V && totals.norm > 0.0)
      gain = __double2float_rn(fmin(__ddiv_rn(root_of_dim, __dsqrt_rn(totals.norm)), 3.4028234663852886e38));
#pragma unroll 1
    for (int row = 0; row < R; row++) {
      uint32_t planes[V][PLANES] = {};
      float gains[V];
      double dots[V], energies[V];
#pragma unroll
      for (int r = 0; r < V; r++) gains[r] = __shfl_sync(ALL, gain, row * V + r), dots[r] = energies[r] = 0.0;
      const Row at = row_at(rows, row * STRIDE + spread(own()));
#pragma unroll (KEPT ? LINES : 8)
      for (int i = 0; i < LINES; i++) {
        Slot y;
        if (KEPT)
#pragma unroll
          for (int r = 0; r < V; r++) y.of[r] = __fmul_rn(last[i % (1 << LAST)].of[r], map.norm);
        else y = at[32 * i];  // where a row has ended, whatever was there
        int me = lane;
        asm volatile("" : "+r"(me));  // else all lines' comparisons are made before, and packed into registers
#pragma unroll
        for (int r = 0; r < V; r++) {
          quantizer.code(i, me == i % 32, y.of[r], gains[r], planes[r], dots[r], energies[r]);
          if (CODE == 8 || i % 32 == 31 || i == LINES - 1) store(planes[r], i, words, base + row * V + r, n);
        }
        if (KEPT && i % 2) __syncwarp();  // else all levels are looked up at the end, and what leads to them is packed
      }
#pragma unroll
      for (int r = 0; r < V; r++) {
        const double dot = together(dots[r]);
        int energy = __double2int_rn(energies[r]);
#pragma unroll
        for (int step = 1; step < 32; step <<= 1) energy += __shfl_xor_sync(ALL, energy, step);
        if (lane == row * V + r) totals.dot = dot, totals.energy = energy;
      }
    }
    const int mine = base + lane;
    if (lane < R * V && mine < n) {
      sums[mine] = totals.norm;
      sums[(size_t)n + mine] = totals.offset;
      sums[(size_t)2 * n + mine] = totals.dot;
      sums[(size_t)3 * n + mine] = (double)totals.energy;
    }
    __syncwarp();
  }
}

// queries: levels rint(y 127 / peak) in float64, peak = max |y|, of y = R (q - mu); gains = peak times `factor`
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) prepare_queries(
    const float* q, int nq, const float* mu, const __grid_constant__ Map map, float factor, int width, int8_t* out,
    float* gains) {
  extern __shared__ uint4 memory[];
  const int lane = threadIdx.x % 32, warp = warp_number(), base = (blockIdx.x * WARPS + warp) * R * V;
  Slot* rows = (Slot*)memory + warp * R * STRIDE;
  if (base >= nq) return;
  Totals none;
  load<false>(rows, q, mu, base, nq, map, none);
  Slot last[1 << LAST];
  rotate<false>(row_at(rows, lane / UNITS * STRIDE), map, last);
  for (int row = 0; row < R * V && base + row < nq; row++) {
    const Row at = row_at(rows, row / V * STRIDE + spread(own()));
    uint32_t peak = 0;  // floats >= 0 are in the order of their bits
#pragma unroll 4
    for (int i = 0; i < LINES; i++)
      if (D % 32 == 0 || 32 * i + own() < D) peak = max(peak, __float_as_uint(at[32 * i].of[row % V]) & 0x7fffffffu);
#pragma unroll
    for (int step = 1; step < 32; step <<= 1) peak = max(peak, __shfl_xor_sync(ALL, peak, step));
    const float most = __uint_as_float(peak);
    const double step = most > 0.f ? __ddiv_rn(127.0, (double)most) : 0.0;
    int8_t* levels = out + (size_t)(base + row) * width + own();
#pragma unroll 4
    for (int i = 0; i < LINES; i++)
      if (D % 32 == 0 || 32 * i + own() < D)
        levels[32 * i] = (int8_t)__double2int_rn(__dmul_rn((double)at[32 * i].of[row % V], step));
    if (lane == 0) gains[base + row] = __fmul_rn(most, factor);
  }
}
