// Codes as the scan kernels read them: chunks of 64 rows, decoded in registers to operands of the integer dot.
//
// Given at compile time: BITS (1, 2, 3, 4, 8), DIM (a multiple of 128 and of KC).
// A chunk is 64 rows x KC coordinates; thread t of 128 reads its 16 bytes at 16 t, coalesced, and they are its part of
// the matrix instruction's first operand once decoded. polarindex/gpu/layout.py says which code lies where.
constexpr int KC = BITS == 3 ? 128 : 256 / BITS;  // coordinates of a chunk
constexpr int CHUNK = 64 * KC * BITS / 8;         // its bytes
constexpr int CHUNKS = DIM / KC;                  // of a tile of 64 rows
constexpr int STEPS = KC / 32;                    // matrix instructions a chunk
static_assert(DIM % KC == 0 && DIM % 128 == 0, "DIM");

struct Table { uint32_t t0, t1, t2, t3; };  // the levels of codes 0 .. 15 as bytes, the first lowest

struct Chunk {
  uint4 v;
#if BITS == 3
  uint2 top;  // the third bits
#endif
};

__device__ __forceinline__ uint32_t prmt(uint32_t a, uint32_t b, uint32_t s) {
  uint32_t r; asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(s)); return r;
}

__device__ __forceinline__ Chunk load_chunk(const uint8_t* chunk, int thread) {
  Chunk c;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(c.v.x), "=r"(c.v.y), "=r"(c.v.z), "=r"(c.v.w) : "l"(chunk + 16 * thread));
#if BITS == 3
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
               : "=r"(c.top.x), "=r"(c.top.y) : "l"(chunk + 2048 + 8 * thread));
#endif
  return c;
}

// One word -> the levels of its codes, 4 bytes a word: r[2 s + h] is field s, bytes h of the two k-halves.
// `top`, at 3 bits: the word whose nibbles hold the third bits, at bit 2 p + s.
__device__ __forceinline__ void decode(uint32_t w, uint32_t top, int p, const Table& T, uint32_t* r) {
#if BITS == 4
  // selectors of prmt use 3 bits: look up in both halves of the table, then choose by the fourth
  uint32_t s7 = w & 0x77777777u, s8;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(s8) : "r"(w >> 1), "r"(0x44444444u), "r"(0x32103210u));  // (a & b) | c
  r[0] = prmt(prmt(T.t0, T.t1, s7), prmt(T.t2, T.t3, s7), s8);
  s7 >>= 16; s8 >>= 16;
  r[1] = prmt(prmt(T.t0, T.t1, s7), prmt(T.t2, T.t3, s7), s8);
#elif BITS == 3
#pragma unroll
  for (int s = 0; s < 2; s++) {
    uint32_t x = ((w >> (2 * s)) & 0x33333333u) | (((top >> (2 * p + s)) & 0x11111111u) << 2);
    r[2 * s] = prmt(T.t0, T.t1, x); r[2 * s + 1] = prmt(T.t0, T.t1, x >> 16);
  }
#elif BITS == 2
#pragma unroll
  for (int s = 0; s < 2; s++) {
    uint32_t x = (w >> (2 * s)) & 0x33333333u;
    r[2 * s] = prmt(T.t0, T.t0, x); r[2 * s + 1] = prmt(T.t0, T.t0, x >> 16);
  }
#elif BITS == 1
#pragma unroll
  for (int s = 0; s < 4; s++) {
    uint32_t x = (w >> s) & 0x11111111u;
    r[2 * s] = prmt(T.t0, T.t0, x); r[2 * s + 1] = prmt(T.t0, T.t0, x >> 16);
  }
#endif
}

// a[s][0], a[s][2]: row g of the warp's 16, halves 0 and 1 of step s; a[s][1], a[s][3]: row g + 8
__device__ __forceinline__ void decode_chunk(const Chunk& c, const Table& T, uint32_t (&a)[STEPS][4]) {
#if BITS == 8
  // stored as level ^ 0x80: wgmma would be serialised if its operands came straight from a load
  a[0][0] = c.v.x ^ 0x80808080u; a[0][1] = c.v.y ^ 0x80808080u;
  a[0][2] = c.v.z ^ 0x80808080u; a[0][3] = c.v.w ^ 0x80808080u;
#else
  constexpr int HALF = STEPS / 2;
  const uint32_t w[4] = {c.v.x, c.v.y, c.v.z, c.v.w};
#if BITS == 3
  const uint32_t top0 = c.top.x, top1 = c.top.y;
#else
  const uint32_t top0 = 0, top1 = 0;
#endif
#pragma unroll
  for (int p = 0; p < 2; p++) {
    uint32_t r0[2 * HALF], r1[2 * HALF];
    decode(w[2 * p], top0, p, T, r0); decode(w[2 * p + 1], top1, p, T, r1);
#pragma unroll
    for (int s = 0; s < HALF; s++) {
      a[p * HALF + s][0] = r0[2 * s]; a[p * HALF + s][2] = r0[2 * s + 1];
      a[p * HALF + s][1] = r1[2 * s]; a[p * HALF + s][3] = r1[2 * s + 1];
    }
  }
#endif
}
