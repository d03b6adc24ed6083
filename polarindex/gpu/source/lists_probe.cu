// Which lists queries probe, and the lists' queries: see gpu/probing.py. One block a query but where it is said.

// added[q] = <row, mu> as the CPU sums it, one term after the other. A thread a query.
extern "C" __global__ void __launch_bounds__(64) add_constants(const __grid_constant__ Lists S, double* added) {
  const int q = blockIdx.x * 64 + threadIdx.x;
  if (q >= S.nq) return;
  const float* row = S.rows + (size_t)q * S.dim;
  double sum = 0.0;
  for (int j = 0; j < S.dim; j++) sum = __fma_rn((double)row[j], (double)S.mu[j], sum);
  added[q] = sum;
}

// The nprobe best lists of the `look` best groups, ties to the smaller number, but none more than `gap` below the first.
// Keys are in shared memory where they fit, else where the scores were.
#define CHOOSERS 256
extern "C" __global__ void __launch_bounds__(CHOOSERS) choose_lists(const __grid_constant__ Lists S, int shared_keys) {
  extern __shared__ uint32_t words[];
  __shared__ Sums<CHOOSERS> sums;
  __shared__ uint32_t best;
  __shared__ int held;
  const int q = blockIdx.x, tid = threadIdx.x;
  float* scores = S.scores + (size_t)q * S.coarse;
  const bool grouped = S.look < S.groups;
  uint32_t* seen = words;  // a bit a group
  uint32_t* keys = shared_keys ? words + (S.groups + 31) / 32 : (uint32_t*)scores;
  const int32_t* order = S.order;
  if (tid == 0) { best = 0; held = 0; }
  if (grouped) {
    const float* centres = scores + S.centres_at;
    for (int i = tid; i < (S.groups + 31) / 32; i += CHOOSERS) seen[i] = 0;
    __syncthreads();
    auto key = [&](int g) { return ordered(centres[g]); };
    const Limit limit = limit_of<CHOOSERS, 1>(S.groups, S.look, key, [](int g) { return g; }, sums);
    for (int g = tid; g < S.groups; g += CHOOSERS)
      if (limit.has(key(g), g)) atomicOr(seen + (g >> 5), 1u << (g & 31));
  }
  __syncthreads();
  uint32_t mine = 0;
  for (int i = tid; i < S.nlist; i += CHOOSERS) {
    const int g = i / S.group_size;
    const uint32_t key = grouped && !((seen[g >> 5] >> (g & 31)) & 1u) ? 0u : ordered(scores[i]);
    keys[i] = key;
    mine = max(mine, key);
  }
#pragma unroll
  for (int o = 16; o; o >>= 1) mine = max(mine, __shfl_xor_sync(~0u, mine, o));
  if ((tid & 31) == 0) atomicMax(&best, mine);
  __syncthreads();
  const float floor = __fsub_rn(unordered(best), S.gap);
  const Limit limit = limit_of<CHOOSERS, 16>(
      S.nlist, S.nprobe, [&](int i) { return keys[i]; }, [&](int i) { return order[i]; }, sums);
  for (int i = tid; i < S.nlist; i += CHOOSERS)
    if (keys[i] >= limit.key && limit.has(keys[i], order[i]) && unordered(keys[i]) >= floor)
      S.numbers[(size_t)q * S.nprobe + atomicAdd(&held, 1)] = order[i];
  __syncthreads();
  if (tid == 0) S.counts[q] = held;
}

// What a query's lists are to it: the offset of their keys, its number among the list's queries, and where its maxima
// are, one a page. Half a warp a list.
#define PLACERS 128
extern "C" __global__ void __launch_bounds__(PLACERS) place_picks(const __grid_constant__ Lists S) {
  __shared__ int used;
  const int q = blockIdx.x, count = S.counts[q], half = threadIdx.x >> 4;
  if (threadIdx.x == 0) used = 0;
  __syncthreads();
  const float* row = S.rows + (size_t)q * S.dim;
  for (int first = 0; first < count; first += PLACERS / 16) {
    const int i = min(first + half, count - 1), list = S.numbers[(size_t)q * S.nprobe + i];
    const float* centre = S.centres + (size_t)list * S.dim;
    double parts[2] = {0.0, 0.0};
    each_coordinate(S.dim, [&](int j, int turn) {
      const float centred = __fsub_rn(row[j], S.mu[j]);
      const float difference = __fsub_rn(centre[j], centred);
      const double a = S.metric == L2 ? difference : centre[j], b = S.metric == L2 ? difference : centred;
      if (turn) parts[1] = __fma_rn(a, b, parts[1]); else parts[0] = __fma_rn(a, b, parts[0]);
    });
    const double sum = lanes_total(parts);
    if ((threadIdx.x & 15) == 0 && first + half < count) {
      const float offset = __double2float_rn(S.metric == L2 ? -sum : __dadd_rn(sum, (double)S.constants[list]));
      const int pages = S.firsts[list + 1] - S.firsts[list];
      S.picks[(size_t)q * S.nprobe + i] = Pick{list, atomicAdd(S.tally + list, 1), atomicAdd(&used, pages), offset};
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) S.used[q] = used;
}

// Where each list's queries begin among the pairs, and its work among the items: so many queries and pages. One block.
#define STARTERS 1024
extern "C" __global__ void __launch_bounds__(STARTERS) start_lists(
    const __grid_constant__ Lists S, int item_queries, int item_pages) {
  __shared__ int2 partial[STARTERS / 32];
  const int tid = threadIdx.x, each = (S.nlist + STARTERS - 1) / STARTERS;
  const int from = min(tid * each, S.nlist), to = min(from + each, S.nlist);
  auto items = [&](int list) {
    const int pages = S.firsts[list + 1] - S.firsts[list];
    return (S.tally[list] + item_queries - 1) / item_queries * ((pages + item_pages - 1) / item_pages);
  };
  int2 mine = make_int2(0, 0);
  for (int list = from; list < to; list++) { mine.x += S.tally[list]; mine.y += items(list); }
  int2 before = mine;
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    const int x = __shfl_up_sync(~0u, before.x, o), y = __shfl_up_sync(~0u, before.y, o);
    if ((tid & 31) >= o) { before.x += x; before.y += y; }
  }
  if ((tid & 31) == 31) partial[tid >> 5] = before;
  __syncthreads();
  before.x -= mine.x; before.y -= mine.y;
  for (int w = 0; w < tid >> 5; w++) { before.x += partial[w].x; before.y += partial[w].y; }
  for (int list = from; list < to; list++) {
    S.pair_starts[list] = before.x; S.item_starts[list] = before.y;
    before.x += S.tally[list]; before.y += items(list);
  }
  if (tid == STARTERS - 1) { S.pair_starts[S.nlist] = before.x; S.item_starts[S.nlist] = before.y; }
}

// Picks beside the others of their lists. A thread a pick.
extern "C" __global__ void __launch_bounds__(256) pair_queries(const __grid_constant__ Lists S) {
  const long long at = (long long)blockIdx.x * 256 + threadIdx.x;
  const int q = (int)(at / S.nprobe);
  if (q >= S.nq || (int)(at % S.nprobe) >= S.counts[q]) return;
  const Pick pick = S.picks[at];
  S.pairs[S.pair_starts[pick.list] + pick.rank] = Pair{q, pick.start, pick.offset, S.gains[q]};
}
