// The scan by mma.sync (compute capability 8.0 and later): a warp has 32 rows and NT queries, which lie in shared
// memory in the order of the instruction's second operand.
template <int MODE> __device__ __forceinline__ void scan(const Scan& S) {
  extern __shared__ __align__(128) uint8_t shared[];
  uint4* B = (uint4*)shared;  // [DIM / 64][NT / 8][32 lanes], two steps of 32 coordinates each
  Limits& limits = *(Limits*)(shared + (size_t)NT * DIM);
  const int tid = threadIdx.x, w = tid >> 5, lane = tid & 31, g = lane >> 2, tig = lane & 3, half = w & 1;
  const int qt = blockIdx.x % S.nqt, group = blockIdx.x / S.nqt, groups = gridDim.x / S.nqt;
  if (group >= groups) return;
  const uint32_t* from = (const uint32_t*)(S.queries + (size_t)qt * NT * DIM);
  for (int i = tid; i < NT * DIM / 16; i += 256) {
    const int l = i & 31, nb = (i >> 5) % (NT / 8), k = (i >> 5) / (NT / 8);
    const uint32_t* at = from + (size_t)(nb * 8 + (l >> 2)) * (DIM / 4) + k * 16 + (l & 3);
    B[i] = make_uint4(at[0], at[4], at[8], at[12]);
  }
  fill<MODE>(limits, S, qt * NT, tid, 256);
  __syncthreads();
  const int number = blockIdx.x * 8 + w;
  Queue queue{S.queues + (size_t)number * PLACES, 0};
  const Table T = S.table;
  const int step = groups * 4;
  for (int t = group * 4 + (w >> 1); t < S.ntiles; t += step) {
    const int tile = S.tile(t);
    const uint8_t* p = S.codes + (size_t)tile * CHUNKS * CHUNK;
    const int thread = half * 64 + lane;
    const Loaded loaded[2] = {load_rows(S, tile * 64 + half * 32 + g), load_rows(S, tile * 64 + half * 32 + 16 + g)};
    int acc[2][NT / 2];
#pragma unroll
    for (int i = 0; i < NT / 2; i++) { acc[0][i] = 0; acc[1][i] = 0; }
    Chunk x0 = load_chunk(p, thread), x1 = load_chunk(p, thread + 32);
    Chunk y0 = x0, y1 = x1;
    if (CHUNKS > 1) { y0 = load_chunk(p + CHUNK, thread); y1 = load_chunk(p + CHUNK, thread + 32); }
#pragma unroll 1
    for (int c = 0; c < CHUNKS; c++) {
      uint32_t a0[STEPS][4], a1[STEPS][4];
      decode_chunk(x0, T, a0); decode_chunk(x1, T, a1);
      x0 = y0; x1 = y1;
      if (c + 2 < CHUNKS) {
        y0 = load_chunk(p + (size_t)(c + 2) * CHUNK, thread); y1 = load_chunk(p + (size_t)(c + 2) * CHUNK, thread + 32);
      }
      multiply_chunk(acc, a0, a1, B, c, lane);
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const int part = half * 2 + m, row0 = tile * 64 + part * 16 + g;
      const Row r0 = row_of(S, row0, loaded[m].scale0, loaded[m].shift0, loaded[m].allowed);
      const Row r1 = row_of(S, row0 + 8, loaded[m].scale1, loaded[m].shift1, loaded[m].allowed);
      uint32_t below_each = 0;
#pragma unroll
      for (int j = 0; j < NT / 8; j++) {
        const int col = 8 * j + 2 * tig;
        int q;  // opaque: else the addresses of all columns are kept in registers
        asm volatile("add.s32 %0, %1, %2;" : "=r"(q) : "r"(qt * NT + 2 * tig), "r"(8 * j));
        const int* d = acc[m] + 4 * j;
        if (MODE == DOTS) {
          int32_t* out = S.dots + (size_t)q * S.width + row0;
          if (row0 < S.n) { out[0] = d[0]; out[S.width] = d[1]; }
          if (row0 + 8 < S.n) { out[8] = d[2]; out[S.width + 8] = d[3]; }
          continue;
        }
        if (MODE == FILTER) {
          const float4 two = *(const float4*)(limits.first + col);
          const uint32_t below = glance(d[0], r0, two.x, two.y) & glance(d[1], r0, two.z, two.w) &
                                 glance(d[2], r1, two.x, two.y) & glance(d[3], r1, two.z, two.w);
          below_each = __funnelshift_l(below, below_each, 1);
        } else {
          const float2 gains = *(const float2*)(limits.gains + col);
          const float k00 = key_of(d[0], gains.x, r0.scale, r0.shift), k01 = key_of(d[1], gains.y, r0.scale, r0.shift);
          const float k10 = key_of(d[2], gains.x, r1.scale, r1.shift), k11 = key_of(d[3], gains.y, r1.scale, r1.shift);
          float m0 = fmaxf(k00, k10), m1 = fmaxf(k01, k11);
#pragma unroll
          for (int o = 4; o < 32; o <<= 1) {
            m0 = fmaxf(m0, __shfl_xor_sync(~0u, m0, o)); m1 = fmaxf(m1, __shfl_xor_sync(~0u, m1, o));
          }
          if (g == 0) {
            float* out = S.maxima + (size_t)q * S.width + t * 4 + part;
            out[0] = m0; out[S.width] = m1;
          }
        }
      }
      if (MODE == FILTER) take_marked<NT / 8>(S, limits, marked<NT / 8>(below_each), acc[m], r0, r1, row0, qt * NT, queue);
    }
  }
#if QUEUED
  if (MODE == FILTER && lane == 0) S.queued[number] = min(queue.held, PLACES);
#endif
}

extern "C" __global__ void __launch_bounds__(256, 1) scan_filter(const __grid_constant__ Scan S) { scan<FILTER>(S); }
extern "C" __global__ void __launch_bounds__(256, 1) scan_maxima(const __grid_constant__ Scan S) { scan<MAXIMA>(S); }
extern "C" __global__ void __launch_bounds__(256, 1) scan_dots(const __grid_constant__ Scan S) { scan<DOTS>(S); }
