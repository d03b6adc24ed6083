// From rows to words of codes, as kernels/encoding.py makes them on the CPU, bit for bit: centre, rotate, quantize, pack.
//
// Given at compile time: D coordinates, P the transform's size and M = log2 P, WINDOWS (1 where P = D, else 2), ROUNDS,
// CODE bits, R rows a block of THREADS, Q0 levels of the transform in the first pass, BLOCKS a multiprocessor.
// Exact:     every sum and product of the rotation is that of hadamard.py, in its order: (a + b, a - b) at distance
//            1, 2, 4, ..., each rounded, then times the norm. |r|^2, <mu, r> and <R r, levels> are summed in float64,
//            coordinate after coordinate, by one thread a row: their terms are exact products, so fused or not is one.
// Layout:    buffer[(j + j / 2^Q0) R + row]: neighbouring threads have neighbouring rows, and no two of a warp one bank.
constexpr int SLOTS = (D + (D >> Q0)) * R + R;
constexpr int UNITS_APART = THREADS / R;  // threads of one row
constexpr int WORDS32 = (D + 31) / 32;    // words of a plane
constexpr int WORD_COUNT = CODE == 8 ? (D + 3) / 4 : CODE * WORDS32;

__device__ __forceinline__ int slot(int j, int row) { return (j + (j >> Q0)) * R + row; }

struct Map { const int32_t* order; const float* flips; int second; float norm; };  // (ROUNDS, D), (ROUNDS, WINDOWS, D)

template <int COUNT> __device__ __forceinline__ void butterflies(float (&v)[1 << COUNT]) {
#pragma unroll
  for (int half = 1; half < (1 << COUNT); half <<= 1)
#pragma unroll
    for (int i = 0; i < (1 << COUNT); i++)
      if (!(i & half)) {
        const float a = v[i], b = v[i + half];
        v[i] = __fadd_rn(a, b); v[i + half] = __fsub_rn(a, b);
      }
}

// Levels FROM .. FROM + COUNT - 1 of the transform of coordinates first .. first + P - 1, in place
template <int FROM, int COUNT> __device__ __forceinline__ void pass(float* buffer, int first, float norm) {
  const int row = threadIdx.x % R;
  for (int u = threadIdx.x / R; u < (P >> COUNT); u += UNITS_APART) {
    const int low = (u & ((1 << FROM) - 1)) | ((u >> FROM) << (FROM + COUNT));
    float v[1 << COUNT];
#pragma unroll
    for (int i = 0; i < (1 << COUNT); i++) v[i] = buffer[slot(first + low + (i << FROM), row)];
    butterflies<COUNT>(v);
#pragma unroll
    for (int i = 0; i < (1 << COUNT); i++)
      buffer[slot(first + low + (i << FROM), row)] = FROM + COUNT == M ? __fmul_rn(v[i], norm) : v[i];
  }
  __syncthreads();
}

template <int FROM> __device__ __forceinline__ void passes(float* buffer, int first, float norm) {
  if constexpr (FROM < M) {
    constexpr int LEFT = M - FROM, COUNT = LEFT <= 5 ? LEFT : LEFT <= 8 ? (LEFT + 1) / 2 : LEFT == 9 || LEFT == 10 ? 5 : 4;
    pass<FROM, COUNT>(buffer, first, norm);
    passes<FROM + COUNT>(buffer, first, norm);
  }
}

// One round's order and signs: every thread reads all it will write before anyone writes
__device__ __forceinline__ void gather(float* buffer, const Map& map, int round) {
  constexpr int MINE = (D + UNITS_APART - 1) / UNITS_APART;
  const int row = threadIdx.x % R, first = threadIdx.x / R;
  float v[MINE];
#pragma unroll
  for (int i = 0; i < MINE; i++) {
    const int j = first + i * UNITS_APART;
    if (j < D) v[i] = __fmul_rn(map.flips[(size_t)round * WINDOWS * D + j], buffer[slot(map.order[(size_t)round * D + j], row)]);
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < MINE; i++) {
    const int j = first + i * UNITS_APART;
    if (j < D) buffer[slot(j, row)] = v[i];
  }
  __syncthreads();
}

// The same with the first pass, where one window is all and a thread has at most one group of it
constexpr bool FUSED = P == D && M > 0 && (P >> Q0) <= UNITS_APART;
__device__ __forceinline__ void gather_and_pass(float* buffer, const Map& map, int round) {
  const int row = threadIdx.x % R, u = threadIdx.x / R;
  const bool mine = u < (P >> Q0);
  float v[1 << Q0];
  if (mine) {
#pragma unroll
    for (int i = 0; i < (1 << Q0); i++) {
      const int j = (u << Q0) + i;
      v[i] = __fmul_rn(map.flips[(size_t)round * D + j], buffer[slot(map.order[(size_t)round * D + j], row)]);
    }
    butterflies<Q0>(v);
  }
  __syncthreads();
  if (mine) {
#pragma unroll
    for (int i = 0; i < (1 << Q0); i++) buffer[slot((u << Q0) + i, row)] = Q0 == M ? __fmul_rn(v[i], map.norm) : v[i];
  }
  __syncthreads();
}

__device__ __forceinline__ void rotate(float* buffer, const Map& map) {
  for (int round = 0; round < ROUNDS; round++) {
    if constexpr (FUSED) {
      gather_and_pass(buffer, map, round);
      passes<Q0>(buffer, 0, map.norm);
      continue;
    }
    gather(buffer, map, round);
    if (M == 0) continue;
    passes<0>(buffer, 0, map.norm);
    if (WINDOWS == 2) {
      const int row = threadIdx.x % R;
      for (int j = map.second + threadIdx.x / R; j < P; j += UNITS_APART)  // what the windows share
        buffer[slot(j, row)] = __fmul_rn(buffer[slot(j, row)], map.flips[((size_t)round * 2 + 1) * D + j]);
      __syncthreads();
      passes<0>(buffer, map.second, map.norm);
    }
  }
}

__device__ __forceinline__ void load_block(float* buffer, const float* x, const float* mu, int n) {
  const int base = blockIdx.x * R;
  for (int i = threadIdx.x; i < R * D; i += THREADS) {  // a row's coordinates by neighbouring threads
    const int row = i / D, j = i % D;
    buffer[slot(j, row)] = base + row < n ? __fsub_rn(x[(size_t)(base + row) * D + j], mu ? mu[j] : 0.f) : 0.f;
  }
  __syncthreads();
}

// A thread a row sums in order, and conversions to float64 are slow: which warp has them differs from block to block,
// so that a multiprocessor's four schedulers share them.
__device__ __forceinline__ int summing_thread() {
  return (int)threadIdx.x - 32 * (int)((blockIdx.x * 2654435761u) >> 30);
}
__device__ __forceinline__ double exactly(int level) {  // of |level| < 2^31, by the bits of 2^52 + 2^31 + level
  return __dadd_rn(__hiloint2double(0x43300000, level ^ 0x80000000), -4503601774854144.0);
}

struct Book { const float* thresholds; const float* levels; };  // 2^CODE - 1 and 2^CODE

// words (n, WORD_COUNT); sums (4, n) float64: |r|^2, <mu, r>, <R r, levels>, |levels|^2
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) encode_rows(
    const float* x, int n, const float* mu, const double* exact_mu, const __grid_constant__ Map map,
    const __grid_constant__ Book book, double root_of_dim, uint32_t* words, double* sums) {
  extern __shared__ float buffer[];
  int8_t* chosen = (int8_t*)(buffer + SLOTS);  // the level of every coordinate, slot by slot
  __shared__ float thresholds[1 << CODE], levels[1 << CODE], gains[R];
  __shared__ int energies[R];
  for (int i = threadIdx.x; i < (1 << CODE); i += THREADS) {
    thresholds[i] = i + 1 < (1 << CODE) ? book.thresholds[i] : 0.f;
    levels[i] = book.levels[i];
  }
  if (threadIdx.x < R) energies[threadIdx.x] = 0;
  load_block(buffer, x, mu, n);
  const int base = blockIdx.x * R, row = threadIdx.x % R, summing = summing_thread();
  if (summing >= 0 && summing < 2 * R) {  // one thread a row and sum
    const bool norms = summing < R;
    double sum = 0.0;
#pragma unroll 8
    for (int j = 0; j < D; j++) {
      const double r = (double)buffer[slot(j, row)];
      sum = __fma_rn(r, norms ? r : exact_mu[j], sum);
    }
    if (norms) {
      const double gain = sum > 0.0 ? fmin(__ddiv_rn(root_of_dim, __dsqrt_rn(sum)), 3.4028234663852886e38) : 0.0;
      gains[row] = __double2float_rn(gain);
    }
    if (base + row < n) sums[(size_t)(norms ? 0 : 1) * n + base + row] = sum;
  }
  __syncthreads();
  rotate(buffer, map);
  int energy = 0;
  for (int g = threadIdx.x / R; g < WORDS32; g += UNITS_APART) {
    uint32_t planes[CODE == 8 ? 8 : CODE];
#pragma unroll
    for (int p = 0; p < (CODE == 8 ? 8 : CODE); p++) planes[p] = 0;
#pragma unroll
    for (int i = 0; i < 32; i++) {
      const int j = 32 * g + i;
      if (j < D) {
        const float z = __fmul_rn(buffer[slot(j, row)], gains[row]);
        int code = 0;
#pragma unroll
        for (int step = 1 << (CODE - 1); step; step >>= 1)
          if (z >= thresholds[code + step - 1]) code += step;
        const int level = (int)levels[code];
        chosen[slot(j, row)] = (int8_t)level;
        energy += level * level;
        if (CODE == 8) planes[i >> 2] |= (uint32_t)code << (8 * (i & 3));
        else
#pragma unroll
          for (int p = 0; p < CODE; p++) planes[p] |= (((uint32_t)code >> (CODE - 1 - p)) & 1u) << (8 * (i & 3) + (i >> 2));
      }
    }
    if (base + row < n) {
      uint32_t* out = words + (size_t)(base + row) * WORD_COUNT;
#pragma unroll
      for (int p = 0; p < (CODE == 8 ? 8 : CODE); p++) {
        const int at = CODE == 8 ? 8 * g + p : p * WORDS32 + g;
        if (CODE != 8 || at < WORD_COUNT) out[at] = planes[p];
      }
    }
  }
  atomicAdd(&energies[row], energy);
  __syncthreads();
  if (summing >= 0 && summing < R && base + row < n) {
    double sum = 0.0;
#pragma unroll 8
    for (int j = 0; j < D; j++) sum = __fma_rn((double)buffer[slot(j, row)], exactly(chosen[slot(j, row)]), sum);
    sums[(size_t)2 * n + base + row] = sum;
    sums[(size_t)3 * n + base + row] = (double)energies[row];
  }
}

// queries: levels rint(y 127 / peak) in float64, peak = max |y|, of y = R (q - mu); gains = peak times `factor`
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) prepare_queries(
    const float* q, int nq, const float* mu, const __grid_constant__ Map map, float factor, int width, int8_t* out,
    float* gains) {
  extern __shared__ float buffer[];
  __shared__ uint32_t peaks[R];
  __shared__ double steps[R];
  if (threadIdx.x < R) peaks[threadIdx.x] = 0u;
  load_block(buffer, q, mu, nq);
  rotate(buffer, map);
  const int base = blockIdx.x * R, row = threadIdx.x % R;
  float peak = 0.f;
  for (int j = threadIdx.x / R; j < D; j += UNITS_APART) peak = fmaxf(peak, fabsf(buffer[slot(j, row)]));
  atomicMax(&peaks[row], __float_as_uint(peak));  // of floats >= 0 in the order of their bits
  __syncthreads();
  if (threadIdx.x < R) {
    const float most = __uint_as_float(peaks[threadIdx.x]);
    steps[threadIdx.x] = most > 0.f ? __ddiv_rn(127.0, (double)most) : 0.0;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < R * D; i += THREADS) {
    const int r = i / D, j = i % D;
    if (base + r < nq)
      out[(size_t)(base + r) * width + j] = (int8_t)__double2int_rn(__dmul_rn((double)buffer[slot(j, r)], steps[r]));
  }
  if (threadIdx.x < R && base + threadIdx.x < nq)
    gains[base + threadIdx.x] = __fmul_rn(__uint_as_float(peaks[threadIdx.x]), factor);
}
