// The scan by wgmma (compute capability 9.0): codes go from memory to registers to the tensor cores, queries stay in
// shared memory. NT queries a block, WG warpgroups, each with tiles of its own; DEPTH chunks are loaded ahead.
//
// Wgmma<NT>, the matrix instruction of NT columns, is written by polarindex/gpu/source.py.
constexpr int ABUF = DEPTH > 1 ? 2 : 1;
static_assert(CHUNKS % DEPTH == 0, "DEPTH");

#if QUEUED
// Scales, shifts and bits of a warpgroup's tiles on their way, by copies that hold no registers: these are all taken by
// dots. Three tiles, so that nobody writes what another warp, at most a tile behind, has yet to read.
struct Staged { float scales[3][64], shifts[3][64]; uint32_t allowed[3][2]; };
__device__ __forceinline__ void copy_word(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from));
}
__device__ __forceinline__ void stage(Staged& staged, int at, const Scan& S, int tile, int thread) {
  const int row = thread & 63;
  if (thread < 64) copy_word(&staged.scales[at][row], S.scales + tile * 64 + row);
  else if (S.shifts) copy_word(&staged.shifts[at][row], S.shifts + tile * 64 + row);
  if (S.allowed && thread < 2) copy_word(&staged.allowed[at][thread], S.allowed + tile * 2 + thread);
  asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ __forceinline__ Loaded take_staged(const Staged& staged, int at, const Scan& S, int row, int group) {
  asm volatile("cp.async.wait_group 1;" ::: "memory");                    // all but the next tile's
  asm volatile("bar.sync %0, 128;" :: "r"(1 + group) : "memory");  // every warp's
  Loaded l{staged.scales[at][row], staged.scales[at][row + 8], 0.f, 0.f, ~0u};
  if (S.shifts) { l.shift0 = staged.shifts[at][row]; l.shift1 = staged.shifts[at][row + 8]; }
  if (S.allowed) l.allowed = staged.allowed[at][row >> 5];
  return l;
}
#endif

// What becomes of the dots of the t-th tile, rows row0 and row0 + 8 this thread's, with the queries `query` and on
template <int MODE> __device__ __forceinline__ void finish(
    const Scan& S, const Limits& limits, const int (&acc)[NT / 2], const Row& r0, const Row& r1, int row0, int t, int query,
    Queue& queue) {
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3, g = lane >> 2, tig = lane & 3;
  uint32_t below_each = 0;
#pragma unroll
  for (int j = 0; j < NT / 8; j++) {
    const int col = 8 * j + 2 * tig;
    if (MODE == DOTS) {
      int32_t* out = S.dots + (size_t)(query + col) * S.width + row0;
      if (row0 < S.n) { out[0] = acc[4 * j]; out[S.width] = acc[4 * j + 1]; }
      if (row0 + 8 < S.n) { out[8] = acc[4 * j + 2]; out[S.width + 8] = acc[4 * j + 3]; }
      continue;
    }
    if (MODE == FILTER) {
      const float4 two = *(const float4*)(limits.first + col);
      const uint32_t below =
          glance(acc[4 * j], r0, two.x, two.y) & glance(acc[4 * j + 1], r0, two.z, two.w) &
          glance(acc[4 * j + 2], r1, two.x, two.y) & glance(acc[4 * j + 3], r1, two.z, two.w);
      below_each = __funnelshift_l(below, below_each, 1);
    } else {
      const float2 gains = *(const float2*)(limits.gains + col);
      const float k00 = key_of(acc[4 * j], gains.x, r0.scale, r0.shift);
      const float k01 = key_of(acc[4 * j + 1], gains.y, r0.scale, r0.shift);
      const float k10 = key_of(acc[4 * j + 2], gains.x, r1.scale, r1.shift);
      const float k11 = key_of(acc[4 * j + 3], gains.y, r1.scale, r1.shift);
      float m0 = fmaxf(k00, k10), m1 = fmaxf(k01, k11);
#pragma unroll
      for (int o = 4; o < 32; o <<= 1) {
        m0 = fmaxf(m0, __shfl_xor_sync(~0u, m0, o)); m1 = fmaxf(m1, __shfl_xor_sync(~0u, m1, o));
      }
      if (g == 0) {
        int q;  // opaque: else the addresses of all columns are kept in registers
        asm volatile("add.s32 %0, %1, %2;" : "=r"(q) : "r"(query + 2 * tig), "r"(8 * j));
        float* out = S.maxima + (size_t)q * S.width + t * 4 + warp;
        out[0] = m0; out[S.width] = m1;
      }
    }
  }
  if (MODE == FILTER)
    take_marked<NT / 8>(S, limits, marked<NT / 8>(below_each), acc, r0, r1, row0, query, queue);
}

template <int MODE> __device__ __forceinline__ void scan(const Scan& S) {
  extern __shared__ __align__(1024) uint8_t shared[];
  Limits& limits = *(Limits*)(shared + (size_t)NT * DIM);
  const int tid = threadIdx.x, wg = tid >> 7, lane = tid & 31, warp = (tid >> 5) & 3, g = lane >> 2, tig = lane & 3;
  const int thread = tid & 127;
  // blocks that share rows run together: the codes come from memory once and from L2 otherwise
  const int qt = blockIdx.x % S.nqt, group = blockIdx.x / S.nqt, groups = gridDim.x / S.nqt;
  if (group >= groups) return;
  {
    const uint4* from = (const uint4*)(S.queries + (size_t)qt * NT * DIM);
    for (int i = tid; i < NT * DIM / 16; i += WG * 128) {
      const int row = i / (DIM / 16), c = i % (DIM / 16);
      *(uint4*)(shared + (size_t)(c >> 3) * (NT * 128) + row * 128 + (((c & 7) ^ (row & 7)) << 4)) = from[i];
    }
    fill<MODE>(limits, S, qt * NT, tid, WG * 128);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
  }
  const uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
  const uint64_t desc0 = (uint64_t)((base & 0x3FFFF) >> 4) | (1ull << 16) | ((uint64_t)(1024 >> 4) << 32) | (1ull << 62);
  const int step = groups * WG;
  int t = group * WG + wg;
  const Table T = S.table;
  Chunk ahead[DEPTH];
  int tile = t < S.ntiles ? S.tile(t) : 0;
  if (t < S.ntiles) {
#pragma unroll
    for (int i = 0; i < DEPTH; i++) ahead[i] = load_chunk(S.codes + ((size_t)tile * CHUNKS + i) * CHUNK, thread);
  }
  const int number = blockIdx.x * WG * 4 + (tid >> 5);
  Queue queue{S.queues + (size_t)number * PLACES, 0};
#if QUEUED
  Staged& staged = ((Staged*)(&limits + 1))[wg];
  int at = 0;
  if (t < S.ntiles) stage(staged, at, S, tile, thread);
#else
  Loaded loaded = load_rows(S, tile * 64 + warp * 16 + g);
#endif
  int acc[NT / 2];
  for (; t < S.ntiles; t += step) {
    const int next = t + step < S.ntiles ? S.tile(t + step) : tile;
    const uint8_t* here = S.codes + (size_t)tile * CHUNKS * CHUNK;
    const uint8_t* there = S.codes + (size_t)next * CHUNKS * CHUNK;
    const int row0 = tile * 64 + warp * 16 + g;
#if QUEUED
    const int after = at == 2 ? 0 : at + 1;
    stage(staged, after, S, next, thread);
#else
    const Loaded coming = load_rows(S, next * 64 + warp * 16 + g);
#endif
    uint32_t a[ABUF][STEPS][4];
#pragma unroll 1
    for (int jo = 0; jo < CHUNKS / DEPTH; jo++) {
      const uint8_t* from = jo + 1 < CHUNKS / DEPTH ? here + (size_t)(jo + 1) * DEPTH * CHUNK : there;
      const uint64_t dj = desc0 + (uint64_t)((((jo * DEPTH * KC) / 128) * (NT * 128) + (jo * DEPTH * KC) % 128) >> 4);
#pragma unroll
      for (int ji = 0; ji < DEPTH; ji++) {
        decode_chunk(ahead[ji], T, a[ji % ABUF]);
        ahead[ji] = load_chunk(from + ji * CHUNK, thread);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
          const int k = ji * KC + s * 32;  // inside the DEPTH chunks
          const uint64_t d = (DEPTH * KC) % 128 == 0
            ? dj + (uint64_t)(((k / 128) * (NT * 128) + (k % 128)) >> 4)
            : desc0 + (uint64_t)((((jo * DEPTH * KC + k) / 128) * (NT * 128) + ((jo * DEPTH * KC + k) % 128)) >> 4);
          uint32_t(&x)[4] = a[ji % ABUF][s];
          Wgmma<NT>::add(acc, x[0], x[1], x[2], x[3], d, (jo | ji | s) != 0);
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        if (ABUF > 1) asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        else asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      }
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < NT / 2; i++) asm volatile("" : "+r"(acc[i]) :: "memory");
#if QUEUED
    const Loaded loaded = take_staged(staged, at, S, warp * 16 + g, wg);
#endif
    const Row r0 = row_of(S, row0, loaded.scale0, loaded.shift0, loaded.allowed);
    const Row r1 = row_of(S, row0 + 8, loaded.scale1, loaded.shift1, loaded.allowed);
    finish<MODE>(S, limits, acc, r0, r1, row0, t, qt * NT, queue);
#if QUEUED
    at = after;
#else
    loaded = coming;
#endif
    tile = next;
  }
#if QUEUED
  if (MODE == FILTER && lane == 0) S.queued[number] = min(queue.held, PLACES);
#endif
}

extern "C" __global__ void __launch_bounds__(WG * 128, BLOCKS) scan_filter(const __grid_constant__ Scan S) { scan<FILTER>(S); }
extern "C" __global__ void __launch_bounds__(WG * 128, BLOCKS) scan_maxima(const __grid_constant__ Scan S) { scan<MAXIMA>(S); }
extern "C" __global__ void __launch_bounds__(WG * 128, BLOCKS) scan_dots(const __grid_constant__ Scan S) { scan<DOTS>(S); }
