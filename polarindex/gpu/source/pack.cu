// From rows of words, as the CPU keeps codes (polarindex/codes.py), to tiles. A thread writes one word of a tile.
__device__ __forceinline__ uint32_t code_at(const uint32_t* row, int coordinate, int dims, int plane_words) {
  if (coordinate >= dims) return 0;
#if BITS == 8
  return (row[coordinate >> 2] >> (8 * (coordinate & 3))) & 255u;
#else
  const int word = coordinate >> 5, bit = 8 * (coordinate & 3) + ((coordinate >> 2) & 7);
  uint32_t code = 0;
#pragma unroll
  for (int p = 0; p < BITS; p++) code = (code << 1) | ((row[p * plane_words + word] >> bit) & 1u);
  return code;
#endif
}

#ifndef UNIT_ROWS
#define UNIT_ROWS 64  // rows whose chunks follow each other: of a tile, or 16 of a page of lists.cuh
#endif

// words (count, width) of the rows rows[i], or first + i where rows is null; at 8 bits they are int8 levels
extern "C" __global__ void __launch_bounds__(256) pack_rows(
    const uint32_t* words, int width, int plane_words, int dims, int count, const long long* rows, long long first,
    uint8_t* tiles) {
  constexpr int WORDS = CHUNKS * CHUNK / 64 / 4;                              // of a row
  const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
  if (i >= (long long)count * WORDS) return;
  const int which = (int)(i / WORDS), word = (int)(i % WORDS);
  const uint32_t* from = words + (size_t)which * width;
  const long long row = rows ? rows[which] : first + which;
  constexpr int UNIT_CHUNK = CHUNK / 64 * UNIT_ROWS;
  const int w = (int)(row % UNIT_ROWS) >> 4, r = (int)(row & 15) >> 3, g = (int)row & 7;
  constexpr int PER = CHUNK / 64 / 4;  // words of a row in a chunk
  const int chunk = word / PER, rest = word % PER;
  uint8_t* at = tiles + ((size_t)(row / UNIT_ROWS) * CHUNKS + chunk) * UNIT_CHUNK;
  uint32_t out = 0;
#if BITS == 8
  const int tig = rest >> 1, h = rest & 1;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int c = chunk * KC + 16 * h + 4 * tig + j;
    out |= (code_at(from, c, dims, plane_words) ^ 0x80u) << (8 * j);
  }
  at += (w * 32 + g * 4 + tig) * 16 + (h * 2 + r) * 4;
#else
#if BITS == 3
  const bool top = rest >= 8;  // 8 words of the lower two bits, then 4 of the third
  const int tig = top ? rest - 8 : rest >> 1, p = top ? 0 : rest & 1;
  const int fields = top ? 4 : 2;
  at += top ? 32 * UNIT_ROWS + (w * 32 + g * 4 + tig) * 8 + r * 4 : (w * 32 + g * 4 + tig) * 16 + (p * 2 + r) * 4;
#else
  const int tig = rest >> 1, p = rest & 1;
  constexpr int fields = 4 / BITS;
  at += (w * 32 + g * 4 + tig) * 16 + (p * 2 + r) * 4;
#endif
  for (int s = 0; s < fields; s++)
#pragma unroll
    for (int nibble = 0; nibble < 8; nibble++) {
      const int h = nibble >> 2, j = nibble & 3;
      const int c = chunk * KC + 32 * (p * fields + s) + 16 * h + 4 * tig + j;
      const uint32_t code = code_at(from, c, dims, plane_words);
#if BITS == 3
      out |= (top ? code >> 2 : code & 3u) << (4 * nibble + (top ? s : 2 * s));
#else
      out |= code << (4 * nibble + BITS * s);
#endif
    }
#endif
  *(uint32_t*)at = out;
}
