// What source/encode.cu asks of CUDA, for a warp of 32 threads of the CPU that wait for each other at every vote.
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
using std::max;
using std::min;
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct uint4 { uint32_t x, y, z, w; };
struct Index { int x; };
static thread_local Index threadIdx;
static Index blockIdx, gridDim;
static std::barrier<> together_now(32);
static uint64_t told[32];
uint4 memory[1 << 14];

inline size_t __cvta_generic_to_shared(const void* p) { return (size_t)((const char*)p - (const char*)memory); }
inline void* __cvta_shared_to_generic(uint32_t at) { return (char*)memory + (int32_t)at; }
inline void __syncwarp() { together_now.arrive_and_wait(); }
inline void __syncthreads() { together_now.arrive_and_wait(); }
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }

template <class T> T __shfl_sync(uint32_t, T value, int from) {
  std::memcpy(&told[threadIdx.x], &value, sizeof(T));
  together_now.arrive_and_wait();
  std::memcpy(&value, &told[from], sizeof(T));
  together_now.arrive_and_wait();
  return value;
}
template <class T> T __shfl_xor_sync(uint32_t all, T value, int bits) { return __shfl_sync(all, value, threadIdx.x ^ bits); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __double2float_rn(double a) { return (float)a; }
inline int __double2int_rn(double a) { return (int)std::rint(a); }
inline float __uint_as_float(uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline uint32_t __float_as_uint(float x) { uint32_t bits; std::memcpy(&bits, &x, 4); return bits; }

// votes.cuh
inline uint32_t bit(float z, float threshold, uint32_t& entry, int step) {
  const bool passed = z >= threshold;
  told[threadIdx.x] = passed;
  together_now.arrive_and_wait();
  uint32_t word = 0;
  for (int lane = 0; lane < 32; lane++) word |= (uint32_t)told[lane] << lane;
  together_now.arrive_and_wait();
  if (passed) entry += step;
  return word;
}
inline void two_bits(float z, const float (&first)[3], uint32_t& entry, int step, uint32_t (&word)[2]) {
  const uint32_t before = entry;
  word[0] = bit(z, first[0], entry, 2 * step);
  word[1] = bit(z, entry != before ? first[2] : first[1], entry, step);
}

// Blocks of one warp, one after the other; what a row does not write is NaN
template <class Kernel> void run(int blocks, Kernel kernel) {
  gridDim.x = blocks;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    std::memset(memory, 0xff, sizeof(memory));
    std::vector<std::thread> lanes;
    for (int lane = 0; lane < 32; lane++) lanes.emplace_back([&, lane] { threadIdx.x = lane; kernel(); });
    for (auto& lane : lanes) lane.join();
  }
}
