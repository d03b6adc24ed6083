// The scan by dp4a: every card, and every dimension whose NT queries fit in shared memory. A warp has 16 rows.
template <int MODE> __device__ __forceinline__ void scan(const Scan& S) {
  extern __shared__ __align__(16) uint32_t words[];  // [NT][DIM / 4]
  const int tid = threadIdx.x, lane = tid & 31, g = lane >> 2, tig = lane & 3;
  const int qt = blockIdx.x % S.nqt, group = blockIdx.x / S.nqt, groups = gridDim.x / S.nqt;
  if (group >= groups) return;
  const uint32_t* from = (const uint32_t*)(S.queries + (size_t)qt * NT * DIM);
  for (int i = tid; i < NT * DIM / 4; i += 256) words[i] = from[i];
  float gains[NT], taus[NT];
#pragma unroll
  for (int i = 0; i < NT; i++) { gains[i] = S.gains[qt * NT + i]; taus[i] = MODE == FILTER ? S.taus[qt * NT + i] : 0.f; }
  __syncthreads();
  const Table T = S.table;
  for (int slot = group * 8 + (tid >> 5); slot < S.ntiles * 4; slot += groups * 8) {
    const int t = slot >> 2, part = slot & 3, tile = S.tile(t);
    const uint8_t* p = S.codes + (size_t)tile * CHUNKS * CHUNK;
    const int row0 = tile * 64 + part * 16 + g;
    const Loaded loaded = load_rows(S, row0);
    int d0[NT], d1[NT];
#pragma unroll
    for (int i = 0; i < NT; i++) { d0[i] = 0; d1[i] = 0; }
#pragma unroll 4
    for (int c = 0; c < CHUNKS; c++) {
      uint32_t a[STEPS][4];
      decode_chunk(load_chunk(p + (size_t)c * CHUNK, part * 32 + lane), T, a);
#pragma unroll
      for (int s = 0; s < STEPS; s++)
#pragma unroll
        for (int i = 0; i < NT; i++) {
          const uint32_t* q = words + (size_t)i * (DIM / 4) + (c * STEPS + s) * 8 + tig;
          const int b0 = (int)q[0], b1 = (int)q[4];
          d0[i] = __dp4a((int)a[s][0], b0, d0[i]); d0[i] = __dp4a((int)a[s][2], b1, d0[i]);
          d1[i] = __dp4a((int)a[s][1], b0, d1[i]); d1[i] = __dp4a((int)a[s][3], b1, d1[i]);
        }
    }
    const Row r0 = row_of(S, row0, loaded.scale0, loaded.shift0, loaded.allowed);
    const Row r1 = row_of(S, row0 + 8, loaded.scale1, loaded.shift1, loaded.allowed);
#pragma unroll
    for (int i = 0; i < NT; i++) {
      int x0 = d0[i], x1 = d1[i];
      const int q = qt * NT + i;
      x0 += __shfl_xor_sync(~0u, x0, 1); x0 += __shfl_xor_sync(~0u, x0, 2);
      x1 += __shfl_xor_sync(~0u, x1, 1); x1 += __shfl_xor_sync(~0u, x1, 2);
      if (MODE == DOTS) {
        int32_t* out = S.dots + (size_t)q * S.width + row0;
        if (tig == 0 && row0 < S.n) out[0] = x0;
        if (tig == 0 && row0 + 8 < S.n) out[8] = x1;
        continue;
      }
      const float k0 = key_of(x0, gains[i], r0.scale, r0.shift), k1 = key_of(x1, gains[i], r1.scale, r1.shift);
      if (MODE == FILTER) {
        if (tig == 0 && k0 >= taus[i] && is_hit(S, k0, row0, q)) list_hit(S, ordered(k0), row0, q);
        if (tig == 0 && k1 >= taus[i] && is_hit(S, k1, row0 + 8, q)) list_hit(S, ordered(k1), row0 + 8, q);
      } else {
        float m = fmaxf(k0, k1);
#pragma unroll
        for (int o = 4; o < 32; o <<= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, o));
        if (lane == 0) S.maxima[(size_t)q * S.width + t * 4 + part] = m;
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) scan_filter(const __grid_constant__ Scan S) { scan<FILTER>(S); }
extern "C" __global__ void __launch_bounds__(256) scan_maxima(const __grid_constant__ Scan S) { scan<MAXIMA>(S); }
extern "C" __global__ void __launch_bounds__(256) scan_dots(const __grid_constant__ Scan S) { scan<DOTS>(S); }
