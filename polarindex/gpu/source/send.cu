// Some tiles of a block of the host's memory, which begins with tile `first`, to their places in a buffer: read over the
// bus by 16 bytes a thread, so that a thousand short runs are one call.
extern "C" __global__ void __launch_bounds__(256) send_tiles(
    const uint4* from, uint4* to, const int* tiles, int count, int first) {
  constexpr long long PIECES = CHUNKS * CHUNK / 16;
  for (long long i = blockIdx.x * 256 + threadIdx.x; i < count * PIECES; i += gridDim.x * 256) {
    const long long at = (tiles[i / PIECES] - first) * PIECES + i % PIECES;
    to[at] = from[at];
  }
}
