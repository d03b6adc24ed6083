// Comparisons voted over a warp, in PTX: from C++ the predicate is made a number, and the number a predicate again.
// tests/gpu/one_warp.h says the same in C++.

// Who has passed the threshold, as a word; there, the entry is `step` bytes further
__device__ __forceinline__ uint32_t bit(float z, float threshold, uint32_t& entry, int step) {
  uint32_t word;
  asm volatile("{.reg .pred p; setp.ge.f32 p, %2, %3; vote.sync.ballot.b32 %1, p, -1; @p add.u32 %0, %0, %4;}"
      : "+r"(entry), "=r"(word) : "f"(z), "f"(threshold), "r"(step));
  return word;
}
// The same of first[0], with 2 step, and then of first[2] where z has passed, else of first[1]
__device__ __forceinline__ void two_bits(
    float z, const float (&first)[3], uint32_t& entry, int step, uint32_t (&word)[2]) {
  asm volatile("{.reg .pred p, q; .reg .f32 t;"
      "setp.ge.f32 p, %3, %4; vote.sync.ballot.b32 %1, p, -1; @p add.u32 %0, %0, %7; selp.f32 t, %6, %5, p;"
      "setp.ge.f32 q, %3, t; vote.sync.ballot.b32 %2, q, -1; @q add.u32 %0, %0, %8;}"
      : "+r"(entry), "=r"(word[0]), "=r"(word[1])
      : "f"(z), "f"(first[0]), "f"(first[1]), "f"(first[2]), "r"(2 * step), "r"(step));
}
