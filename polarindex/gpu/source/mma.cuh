// mma.sync (compute capability 8.0 and later): a warp's 32 rows, decoded, by NT queries in shared memory, which lie there in
// the order of the instruction's second operand: [DIM / 64][NT / 8][32 lanes], two steps of 32 coordinates each.
#if NT >= 8 && __CUDA_ARCH__ >= 800
__device__ __forceinline__ void multiply(int* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Chunk c of rows a0 and of rows a1, 16 each
__device__ __forceinline__ void multiply_chunk(
    int (&acc)[2][NT / 2], const uint32_t (&a0)[STEPS][4], const uint32_t (&a1)[STEPS][4], const uint4* queries, int c,
    int lane) {
  if constexpr (STEPS == 1) {
    const uint2* from = (const uint2*)(queries + (size_t)(c >> 1) * (NT / 8) * 32 + lane) + (c & 1);
#pragma unroll
    for (int j = 0; j < NT / 8; j++) {
      const uint2 b = from[j * 64];
      multiply(acc[0] + 4 * j, a0[0], b.x, b.y); multiply(acc[1] + 4 * j, a1[0], b.x, b.y);
    }
  } else {
#pragma unroll
    for (int s = 0; s + 1 < STEPS; s += 2) {
      const uint4* from = queries + (size_t)((c * STEPS + s) >> 1) * (NT / 8) * 32 + lane;
#pragma unroll
      for (int j = 0; j < NT / 8; j++) {
        const uint4 b = from[j * 32];
        multiply(acc[0] + 4 * j, a0[s], b.x, b.y); multiply(acc[1] + 4 * j, a1[s], b.x, b.y);
        multiply(acc[0] + 4 * j, a0[s + 1], b.z, b.w); multiply(acc[1] + 4 * j, a1[s + 1], b.z, b.w);
      }
    }
  }
}
#endif
