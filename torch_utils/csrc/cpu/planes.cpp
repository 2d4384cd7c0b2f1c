// One source for every instruction set: the build compiles it once with each set's flags and with
// ANIMEDRAG_KERNELS naming the table that this object file exports (ANIMEDRAG_SCALAR its type).
//
// A plane streams through row by row; nothing larger than a few rows is ever held. Upsampled rows
// are kept as `phases` (sample X lies in phase X mod L, place X div L, with L a multiple of both
// factors), so that every filter becomes weighted sums of contiguous rows, the one primitive that is
// worth vectorising. Neighbouring phases read nearly the same rows: their sums are computed together,
// for reading is what such sums wait for.

#include "planes.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>

#if defined(__AVX512F__)
#define ANIMEDRAG_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define ANIMEDRAG_VECTOR_BYTES 32
#else
#define ANIMEDRAG_VECTOR_BYTES 16
#endif

#ifndef ANIMEDRAG_SCALAR
#define ANIMEDRAG_SCALAR float
#endif

namespace animedrag {
namespace {  // internal linkage: each object file keeps its own copy of everything below

using Scalar = ANIMEDRAG_SCALAR;
using Integer = std::conditional_t<sizeof(Scalar) == 8, std::int64_t, std::int32_t>;
using Job = PlaneJob<Scalar>;
using Line = Axis<Scalar>;

constexpr int kLanes = ANIMEDRAG_VECTOR_BYTES / sizeof(Scalar);
constexpr int kBlockVectors = 8;
constexpr int kBlock = kLanes * kBlockVectors;

typedef Scalar Vector __attribute__((vector_size(ANIMEDRAG_VECTOR_BYTES), aligned(sizeof(Scalar)), may_alias));
typedef Integer Integers __attribute__((vector_size(ANIMEDRAG_VECTOR_BYTES)));
typedef std::uint8_t Bytes __attribute__((vector_size(ANIMEDRAG_VECTOR_BYTES / sizeof(Scalar))));

inline Vector load(const Scalar* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(Scalar* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }

constexpr Scalar kUnlimited = std::numeric_limits<Scalar>::infinity();

struct Term {
  const Scalar* row;
  Scalar weight;
};

template <int N>
inline void sum_block(const Term* terms, int count, int at, Scalar* out) {
  Vector sum[N];
  for (int v = 0; v < N; ++v) sum[v] = Vector{} + Scalar(0.0);
  for (int t = 0; t < count; ++t) {
    const Scalar* row = terms[t].row + at;
    const Vector weight = Vector{} + terms[t].weight;
    for (int v = 0; v < N; ++v) sum[v] += weight * load(row + v * kLanes);
  }
  for (int v = 0; v < N; ++v) store(out + at + v * kLanes, sum[v]);
}

// out[i] = sum_t weight_t * row_t[i] for i in [0, n); writes up to the next multiple of kLanes.
void weighted_sum(const Term* terms, int count, Scalar* out, int n) {
  int at = 0;
  for (; at + kBlock <= n; at += kBlock) sum_block<kBlockVectors>(terms, count, at, out);
  for (; at + 4 * kLanes <= n; at += 4 * kLanes) sum_block<4>(terms, count, at, out);
  for (; at < n; at += kLanes) sum_block<1>(terms, count, at, out);
}

// A row that meets G sums, each with a weight of its own (zero where a filter does not reach).
template <int G>
struct Shared {
  const Scalar* row;
  Scalar weight[G];
};

// Vectors side by side: named ones, because compilers leave arrays of them in memory.
template <int N>
struct Run {
  Vector v0, v1, v2, v3;

  void clear() { v0 = v1 = v2 = v3 = Vector{} + Scalar(0.0); }
  void read(const Scalar* p) {
    v0 = load(p);
    if constexpr (N > 1) v1 = load(p + kLanes);
    if constexpr (N > 2) v2 = load(p + 2 * kLanes), v3 = load(p + 3 * kLanes);
  }
  void write(Scalar* p) const {
    store(p, v0);
    if constexpr (N > 1) store(p + kLanes, v1);
    if constexpr (N > 2) store(p + 2 * kLanes, v2), store(p + 3 * kLanes, v3);
  }
  void add(Scalar weight, const Run& x) {
    const Vector w = Vector{} + weight;
    v0 += w * x.v0;
    if constexpr (N > 1) v1 += w * x.v1;
    if constexpr (N > 2) v2 += w * x.v2, v3 += w * x.v3;
  }
};

template <int G, int N>
inline void sum_blocks(const Shared<G>* terms, int count, int at, Scalar* out, int stride) {
  Run<N> first, second, third, fourth, value;
  first.clear(), second.clear(), third.clear(), fourth.clear();
  for (int t = 0; t < count; ++t) {
    value.read(terms[t].row + at);
    first.add(terms[t].weight[0], value);
    if constexpr (G > 1) second.add(terms[t].weight[1], value);
    if constexpr (G > 2) third.add(terms[t].weight[2], value), fourth.add(terms[t].weight[3], value);
  }
  first.write(out + at);
  if constexpr (G > 1) second.write(out + at + stride);
  if constexpr (G > 2) third.write(out + at + 2 * stride), fourth.write(out + at + 3 * stride);
}

// G sums as weighted_sum makes them, `stride` values apart.
template <int G>
void weighted_sums(const Shared<G>* terms, int count, Scalar* out, int stride, int n) {
  constexpr int kMost = G > 2 && ANIMEDRAG_VECTOR_BYTES < 64 ? 2 : 4;  // what registers hold
  int at = 0;
  for (; at + kMost * kLanes <= n; at += kMost * kLanes)
    sum_blocks<G, kMost>(terms, count, at, out, stride);
  for (; at + 2 * kLanes <= n; at += 2 * kLanes) sum_blocks<G, 2>(terms, count, at, out, stride);
  for (; at < n; at += kLanes) sum_blocks<G, 1>(terms, count, at, out, stride);
}

inline int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
inline int floor_mod(int a, int b) { return a - floor_div(a, b) * b; }
inline int ceil_div(int a, int b) { return -floor_div(-a, b); }
inline int round_up(int n, int multiple) { return ceil_div(n, multiple) * multiple; }

// The horizontal layout of a job.
struct Layout {
  int period;                         // L
  int in_phases, out_phases;          // L / up, L / down
  int in_places, mid_places, out_places;
  int margin;                         // zeros on both sides of each phase row
  int in_stride, mid_stride, out_stride;  // values from one phase row to the next
  int in_row, mid_row, out_row;           // values of all the phase rows of one line
  int in_rows, held_rows;                 // ring sizes
};

Layout layout_of(const Job& job) {
  const Line &x = job.x, &y = job.y;
  Layout l;
  l.period = phases_of(x.up, x.down, x.mid);
  l.in_phases = l.period / x.up;
  l.out_phases = l.period / x.down;
  l.in_places = ceil_div(x.in, l.in_phases);
  l.mid_places = ceil_div(x.mid, l.period);
  l.out_places = ceil_div(x.out, l.out_phases);
  // The farthest any filter reaches past a phase row's ends, in places.
  const int reach_up = ceil_div(x.up_count + std::abs(x.up_start) + l.period, l.period) + 1;
  const int reach_down = ceil_div(x.down_count + std::abs(x.down_start) + l.period, l.period) + 1;
  const int spread = std::max({l.in_places, l.mid_places, l.out_places}) -
                     std::min({l.in_places, l.mid_places, l.out_places});
  // The mask's four quarters, too, may end past a row.
  l.margin = round_up(std::max(reach_up, reach_down) + spread, kLanes) + 4 * kMaskLanes;
  const auto stride = [&](int places) { return round_up(places, kLanes) + 2 * l.margin; };
  l.in_stride = stride(l.in_places);
  l.mid_stride = stride(l.mid_places);
  l.out_stride = round_up(l.out_places, kLanes) + kLanes;
  l.in_row = l.in_stride * l.in_phases;
  l.mid_row = l.mid_stride * l.period;
  l.out_row = l.out_stride * l.out_phases;
  l.in_rows = ceil_div(y.up_count, y.up) + 1;
  l.held_rows = y.down_count;
  return l;
}

constexpr int kGroup = 4;  // phases whose sums are computed together at most
constexpr int kCacheLine = 64;

// How many terms a group's sums have, and for how many lines of taps there are such.
struct Extent {
  int terms, lines;
};

Extent up_extent(const Job& job) {
  return {ceil_div(job.x.up_count + kGroup, job.x.up) + 1, job.up_taps_2d ? job.y.up_count : 1};
}

Extent down_extent(const Job& job) {
  return {job.x.down_count + kGroup * job.x.down, job.down_taps_2d ? job.y.down_count : 1};
}

std::size_t table_values(const Extent& extent, int phases) {
  const std::size_t terms = static_cast<std::size_t>(extent.terms) * extent.lines;
  const std::size_t bytes = std::max(phases * terms * sizeof(Shared<1>),
                                     ceil_div(phases, kGroup) * terms * sizeof(Shared<kGroup>));
  return round_up(static_cast<int>(bytes), kCacheLine) / sizeof(Scalar);
}

// Of the terms at hand: of all lines that meet one sample.
std::size_t term_values(const Job& job) {
  const Extent up = up_extent(job), down = down_extent(job);
  const int most = std::max({up.terms * up.lines, down.terms * down.lines, job.y.up_count,
                             job.y.down_count});
  return round_up(most * static_cast<int>(sizeof(Shared<kGroup>)), kCacheLine) / sizeof(Scalar);
}

std::size_t scratch_values(const Job& job) {
  const Layout l = layout_of(job);
  // A separable second filter holds filtered rows, a 2-D one whole activated rows.
  const int held_row = job.down_taps_2d ? l.mid_row : l.out_row;
  return static_cast<std::size_t>(l.in_rows) * l.in_row + l.in_row + l.mid_row +
         static_cast<std::size_t>(l.held_rows) * held_row + l.out_row +
         (job.down_taps_2d ? static_cast<std::size_t>(l.held_rows / 2) * l.mid_row : 0) +
         term_values(job) + table_values(up_extent(job), l.period) +
         table_values(down_extent(job), l.out_phases) + kCacheLine / sizeof(Scalar);
}

// x[phases * i + a] + bias => row of phase a, place i. The spare places keep their zeros.
void split_phases(const Scalar* x, int n, int phases, Scalar bias, Scalar* row, int stride) {
  if (phases == 1) {
    for (int i = 0; i < n; ++i) row[i] = x[i] + bias;
  } else if (phases == 2) {
    Scalar *even = row, *odd = row + stride;
    const int pairs = n / 2;
    for (int i = 0; i < pairs; ++i) {
      even[i] = x[2 * i] + bias;
      odd[i] = x[2 * i + 1] + bias;
    }
    if (n % 2) even[pairs] = x[n - 1] + bias;
  } else {
    for (int a = 0; a < phases; ++a)
      for (int i = 0; phases * i + a < n; ++i) row[a * stride + i] = x[phases * i + a] + bias;
  }
}

void join_phases(const Scalar* row, int stride, int phases, Scalar* y, int n) {
  if (phases == 1) {
    std::memcpy(y, row, sizeof(Scalar) * n);
  } else if (phases == 2) {
    const Scalar *even = row, *odd = row + stride;
    const int pairs = n / 2;
    for (int i = 0; i < pairs; ++i) {
      y[2 * i] = even[i];
      y[2 * i + 1] = odd[i];
    }
    if (n % 2) y[n - 1] = even[pairs];
  } else {
    for (int a = 0; a < phases; ++a)
      for (int i = 0; phases * i + a < n; ++i) y[phases * i + a] = row[a * stride + i];
  }
}

// ---- activation ------------------------------------------------------------------------------

inline Scalar lrelu_value(Scalar u, Scalar gain, Scalar slope_gain, Scalar limit) {
  const Scalar v = u * (u > Scalar(0.0) ? gain : slope_gain);
  return std::min(std::max(v, -limit), limit);
}

// A mask row packs sample i of each quarter of the row into one byte, 2 bits each:
// 0 positive, 1 negative, 2 clamped. Quarters are whole vectors long; the row's spare places,
// which are zero, fill the last one.
struct Limits {
  Vector gain, slope_gain, limit;
  Limits(Scalar g, Scalar sg, Scalar l)
      : gain(Vector{} + g), slope_gain(Vector{} + sg), limit(Vector{} + l) {}
};

// Activates one vector in place and returns its codes.
inline Integers activate_vector(Scalar* at, const Limits& c) {
  const Vector u = load(at);
  const Integers positive = u > Scalar(0.0);
  const Vector v = u * (positive ? c.gain : c.slope_gain);
  const Integers over = v > c.limit, under = v < -c.limit;
  store(at, over ? c.limit : under ? -c.limit : v);
  return ((over | under) & 2) | (~(over | under) & ~positive & 1);
}

void activate_and_write_mask(Scalar* row, int quarter, const Limits& c, std::uint8_t* mask) {
  for (int i = 0; i < quarter; i += kLanes) {
    const Integers codes = activate_vector(row + i, c) |
                           activate_vector(row + quarter + i, c) << 2 |
                           activate_vector(row + 2 * quarter + i, c) << 4 |
                           activate_vector(row + 3 * quarter + i, c) << 6;
    const Bytes packed = __builtin_convertvector(codes, Bytes);
    std::memcpy(mask + i, &packed, kLanes);
  }
}

void apply_mask(Scalar* row, int quarter, const Limits& c, const std::uint8_t* mask) {
  const Vector zero = Vector{} + Scalar(0.0);
  for (int i = 0; i < quarter; i += kLanes) {
    Bytes packed;
    std::memcpy(&packed, mask + i, kLanes);
    const Integers codes = __builtin_convertvector(packed, Integers);
    for (int part = 0; part < 4; ++part) {
      const Integers code = (codes >> (2 * part)) & 3;
      Scalar* at = row + part * quarter + i;
      store(at, load(at) * (code == 0 ? c.gain : code == 1 ? c.slope_gain : zero));
    }
  }
}

// ---- one plane -------------------------------------------------------------------------------

struct Plane {
  const Job& job;
  const Layout l;
  Scalar *in_ring, *mixed, *mid, *held, *result, *folds;
  void* terms;      // scratch for the terms of the sums at hand
  void* up_table;   // terms of every group and line of taps, as if of the line `mixed`
  void* down_table;  // the same of the line `mid`
  bool mirrored;  // the 2-D second filter reads the same from below as from above

  Plane(const Job& j, Scalar* scratch) : job(j), l(layout_of(j)) {
    const int held_row = job.down_taps_2d ? l.mid_row : l.out_row;
    in_ring = scratch;  // rows begin at cache lines, so that sums without a shift read whole ones
    mixed = in_ring + static_cast<std::size_t>(l.in_rows) * l.in_row;
    mid = mixed + l.in_row;
    held = mid + l.mid_row;
    result = held + static_cast<std::size_t>(l.held_rows) * held_row;
    folds = result + l.out_row;
    const std::size_t fold_values =
        job.down_taps_2d ? static_cast<std::size_t>(l.held_rows / 2) * l.mid_row : 0;
    Scalar* const tables = folds + round_up(static_cast<int>(fold_values), kLanes);
    terms = tables;
    up_table = tables + term_values(job);
    down_table = tables + term_values(job) + table_values(up_extent(job), l.period);
    mirrored = job.down_taps_2d != nullptr && l.held_rows > 1;
    for (int k = 0; mirrored && k < l.held_rows / 2; ++k)
      mirrored = std::equal(job.down_taps_2d + k * j.x.down_count,
                            job.down_taps_2d + (k + 1) * j.x.down_count,
                            job.down_taps_2d + (l.held_rows - 1 - k) * j.x.down_count);
    in_groups(l.period, [&](auto size) { make_up_table<size>(); });
    in_groups(l.out_phases, [&](auto size) { make_down_table<size>(); });
  }

  Scalar* in_line(int row) const { return in_ring + (row % l.in_rows) * l.in_row + l.margin; }

  // Calls work(std::integral_constant<int, G>) with how many of `phases` rows go together.
  template <typename Work>
  static void in_groups(int phases, const Work& work) {
    if (phases % 4 == 0)
      work(std::integral_constant<int, 4>{});
    else if (phases % 2 == 0)
      work(std::integral_constant<int, 2>{});
    else
      work(std::integral_constant<int, 1>{});
  }

  // Horizontal upsampling into G phases from `phase` on, for each of them and each line of taps.
  template <int G>
  void make_up_table() {
    const Line& x = job.x;
    const Extent extent = up_extent(job);
    auto* out = static_cast<Shared<G>*>(up_table);
    for (int phase = 0; phase < l.period; phase += G)
      for (int taps_line = 0; taps_line < extent.lines; ++taps_line) {
        const Scalar* taps =
            job.up_taps_2d ? job.up_taps_2d + taps_line * x.up_count : x.up_taps;
        const int first = ceil_div(phase - x.up_start, x.up);
        for (int i = 0; i < up_terms<G>(); ++i, ++out) {
          const int place = first + i;
          out->row = mixed + l.margin + floor_mod(place, l.in_phases) * l.in_stride +
                     floor_div(place, l.in_phases);
          for (int g = 0; g < G; ++g) {
            const int k = place * x.up - phase - g + x.up_start;
            out->weight[g] = k >= 0 && k < x.up_count ? taps[k] : Scalar(0.0);
          }
        }
      }
  }

  // Horizontal downsampling into G output phases from `phase` on.
  template <int G>
  void make_down_table() {
    const Line& x = job.x;
    const Extent extent = down_extent(job);
    auto* out = static_cast<Shared<G>*>(down_table);
    for (int phase = 0; phase < l.out_phases; phase += G)
      for (int taps_line = 0; taps_line < extent.lines; ++taps_line) {
        const Scalar* taps =
            job.down_taps_2d ? job.down_taps_2d + taps_line * x.down_count : x.down_taps;
        for (int i = 0; i < down_terms<G>(); ++i, ++out) {
          const int place = x.down * phase + x.down_start + i;
          out->row = mid + l.margin + floor_mod(place, l.period) * l.mid_stride +
                     floor_div(place, l.period);
          for (int g = 0; g < G; ++g) {
            const int k = i - x.down * g;
            out->weight[g] = k >= 0 && k < x.down_count ? taps[k] : Scalar(0.0);
          }
        }
      }
  }

  // Places that at least one of G neighbouring phases reads.
  template <int G>
  int up_terms() const {
    return (G - 1 + job.x.up_count - 1) / job.x.up + 1;
  }

  template <int G>
  int down_terms() const {
    return job.x.down * (G - 1) + job.x.down_count;
  }

  // A group's terms in a table.
  template <int G>
  const Shared<G>* terms_of(const void* table, int count, const Extent& extent, int phase,
                            int taps_line) const {
    return static_cast<const Shared<G>*>(table) +
           static_cast<std::size_t>(phase / G * extent.lines + taps_line) * count;
  }

  // The same terms of another line.
  template <int G>
  static void moved(const Shared<G>* from, int count, std::ptrdiff_t by, Scalar factor,
                    Shared<G>* to) {
    for (int i = 0; i < count; ++i) {
      to[i].row = from[i].row + by;
      for (int g = 0; g < G; ++g) to[i].weight[g] = from[i].weight[g] * factor;
    }
  }

  // Row Y of the upsampled plane into `line` (phase rows, margins left alone).
  void upsample_row(int row, Scalar* line) {
    const Line& y = job.y;
    const int first = floor_mod(y.up_start - row, y.up);
    if (job.up_taps_2d) {
      in_groups(l.period, [&](auto size) {
        constexpr int G = size;
        auto* shared = static_cast<Shared<G>*>(terms);
        for (int phase = 0; phase < l.period; phase += G) {
          int count = 0;
          for (int k = first; k < y.up_count; k += y.up) {
            const int source = (row + k - y.up_start) / y.up;
            if (source < 0 || row + k < y.up_start || source >= y.in) continue;
            moved(terms_of<G>(up_table, up_terms<G>(), up_extent(job), phase, k), up_terms<G>(),
                  in_line(source) - (mixed + l.margin), Scalar(1.0), shared + count);
            count += up_terms<G>();
          }
          weighted_sums<G>(shared, count, line + phase * l.mid_stride, l.mid_stride, l.mid_places);
        }
      });
      return;
    }
    auto* lines = static_cast<Term*>(terms);
    int count = 0;
    for (int k = first; k < y.up_count; k += y.up) {
      const int source = (row + k - y.up_start) / y.up;
      if (row + k < y.up_start || source >= y.in) continue;
      lines[count++] = {in_line(source), y.up_taps[k]};
    }
    const Scalar* source_line = mixed + l.margin;
    Scalar factor = Scalar(1.0);
    if (count == 1) {  // nothing to add up: read the line where it is
      source_line = lines[0].row;
      factor = lines[0].weight;
    } else {
      for (int phase = 0; phase < l.in_phases; ++phase) {
        weighted_sum(lines, count, mixed + l.margin + phase * l.in_stride, l.in_places);
        for (int t = 0; t < count; ++t) lines[t].row += l.in_stride;
      }
    }
    in_groups(l.period, [&](auto size) {
      constexpr int G = size;
      const int n = up_terms<G>();
      for (int phase = 0; phase < l.period; phase += G) {
        const Shared<G>* shared = terms_of<G>(up_table, n, up_extent(job), phase, 0);
        if (count == 1) {
          auto* own = static_cast<Shared<G>*>(terms);
          moved(shared, n, source_line - (mixed + l.margin), factor, own);
          shared = own;
        }
        weighted_sums<G>(shared, n, line + phase * l.mid_stride, l.mid_stride, l.mid_places);
      }
    });
  }

  void activate(Scalar* line, std::uint8_t* mask) {
    const Scalar slope_gain = job.gain * job.slope;
    const Scalar limit = job.clamp >= Scalar(0.0) ? job.clamp : kUnlimited;
    const Limits limits(job.gain, slope_gain, limit);
    const int quarter = mask_quarter(l.mid_places);
    for (int phase = 0; phase < l.period; ++phase) {
      Scalar* row = line + phase * l.mid_stride;
      const int n = std::max(0, ceil_div(job.x.mid - phase, l.period));
      // Samples past the line's end were computed along; the second filter must see zeros.
      std::fill(row + n, row + round_up(l.mid_places, kLanes), Scalar(0.0));
      switch (job.activation) {
        case Activation::kNone:
          break;
        case Activation::kLrelu:
          for (int i = 0; i < n; ++i) row[i] = lrelu_value(row[i], job.gain, slope_gain, limit);
          break;
        case Activation::kLreluMask:
          activate_and_write_mask(row, quarter, limits, mask + phase * quarter);
          break;
        case Activation::kFromMask:
          apply_mask(row, quarter, limits, mask + phase * quarter);
          break;
      }
    }
  }

  // The activated line `mid` by a separable filter.
  void downsample_row(Scalar* out) {
    in_groups(l.out_phases, [&](auto size) {
      constexpr int G = size;
      const int n = down_terms<G>();
      for (int phase = 0; phase < l.out_phases; phase += G)
        weighted_sums<G>(terms_of<G>(down_table, n, down_extent(job), phase, 0), n,
                         out + phase * l.out_stride, l.out_stride, l.out_places);
    });
  }

  // Terms of one held line, met by the line k of a two-dimensional filter's taps.
  template <int G>
  int held_terms(const Scalar* held_line, int k, int phase, Shared<G>* out) const {
    const int n = down_terms<G>();
    moved(terms_of<G>(down_table, n, down_extent(job), phase, k), n, held_line - mid, Scalar(1.0),
          out);
    return n;
  }

  // Whether the second filter changes nothing: its lines are the first one's.
  bool ends_activated() const {
    const auto same = [](const Line& a) {
      return a.down_taps && a.down == 1 && a.down_count == 1 && a.down_taps[0] == Scalar(1.0) &&
             a.down_start == 0 && a.out <= a.mid;
    };
    return same(job.x) && same(job.y);
  }

  void run(const Scalar* x, Scalar* y, std::uint8_t* mask) {
    const bool whole_lines = job.down_taps_2d != nullptr;
    const int held_row = whole_lines ? l.mid_row : l.out_row;
    const std::size_t mask_bytes =
        static_cast<std::size_t>(l.period) * mask_quarter(l.mid_places);
    int loaded = 0;                           // input lines in the ring so far
    int done = std::max(0, job.y.down_start);  // upsampled lines before this one are not needed
    const bool at_once = ends_activated();
    for (int j = 0; j < job.y.out; ++j) {
      const int begin = job.y.down * j + job.y.down_start;
      const int end = std::min(begin + job.y.down_count, job.y.mid);
      for (int row = std::max(done, std::max(begin, 0)); row < end; ++row) {
        // The last input line that this upsampled line needs.
        const int needed = floor_div(row + job.y.up_count - 1 - job.y.up_start, job.y.up);
        for (; loaded <= std::min(needed, job.y.in - 1); ++loaded) {
          Scalar* line = in_line(loaded);
          split_phases(x + static_cast<std::size_t>(loaded) * job.x.in, job.x.in, l.in_phases,
                       job.bias, line, l.in_stride);
        }
        Scalar* slot = held + (row % l.held_rows) * static_cast<std::size_t>(held_row);
        Scalar* line = (whole_lines ? slot : mid) + l.margin;
        upsample_row(row, line);
        activate(line, mask ? mask + row * mask_bytes : nullptr);
        if (!whole_lines && !at_once) downsample_row(slot);
      }
      done = std::max(done, end);
      Scalar* out = y + static_cast<std::size_t>(j) * job.x.out;
      if (at_once) {
        join_phases(mid + l.margin, l.mid_stride, l.period, out, job.x.out);
        continue;
      }
      if (mirrored && begin >= 0 && end - begin == job.y.down_count)
        finish_mirrored_row(begin);
      else
        finish_row(begin, end, whole_lines, held_row);
      join_phases(result, l.out_stride, l.out_phases, out, job.x.out);
    }
  }

  // Rows that meet the same taps are added first: half of the products of a radial filter.
  void finish_mirrored_row(int begin) {
    const int count = job.y.down_count, half = count / 2;
    const auto slot = [&](int k) {
      return held + ((begin + k) % l.held_rows) * static_cast<std::size_t>(l.mid_row);
    };
    for (int k = 0; k < half; ++k) {
      const Scalar *above = slot(k) + l.margin, *below = slot(count - 1 - k) + l.margin;
      Scalar* sum = folds + k * static_cast<std::size_t>(l.mid_row) + l.margin;
      for (int phase = 0; phase < l.period; ++phase) {  // their margins stay zero
        const int at = phase * l.mid_stride;
        for (int i = 0; i < l.mid_places; ++i) sum[at + i] = above[at + i] + below[at + i];
      }
    }
    in_groups(l.out_phases, [&](auto size) {
      constexpr int G = size;
      auto* shared = static_cast<Shared<G>*>(terms);
      for (int phase = 0; phase < l.out_phases; phase += G) {
        int n = 0;
        for (int k = 0; k < count - half; ++k) {
          const Scalar* line =
              k < half ? folds + k * static_cast<std::size_t>(l.mid_row) : slot(k);
          n += held_terms<G>(line, k, phase, shared + n);
        }
        weighted_sums<G>(shared, n, result + phase * l.out_stride, l.out_stride, l.out_places);
      }
    });
  }

  void finish_row(int begin, int end, bool whole_lines, int held_row) {
    const int first = std::max(begin, 0);
    const auto slot = [&](int row) {
      return held + (row % l.held_rows) * static_cast<std::size_t>(held_row);
    };
    if (!whole_lines) {
      auto* lines = static_cast<Term*>(terms);
      for (int phase = 0; phase < l.out_phases; ++phase) {
        int count = 0;
        for (int row = first; row < end; ++row)
          lines[count++] = {slot(row) + phase * l.out_stride, job.y.down_taps[row - begin]};
        weighted_sum(lines, count, result + phase * l.out_stride, l.out_places);
      }
      return;
    }
    in_groups(l.out_phases, [&](auto size) {
      constexpr int G = size;
      auto* shared = static_cast<Shared<G>*>(terms);
      for (int phase = 0; phase < l.out_phases; phase += G) {
        int count = 0;
        for (int row = first; row < end; ++row)
          count += held_terms<G>(slot(row), row - begin, phase, shared + count);
        weighted_sums<G>(shared, count, result + phase * l.out_stride, l.out_stride, l.out_places);
      }
    });
  }
};

void run_plane(const Job& job, const Scalar* x, Scalar* y, std::uint8_t* mask, Scalar* scratch) {
  Plane(job, scratch).run(x, y, mask);
}

void lrelu(const Scalar* x, Scalar bias, Scalar* y, std::size_t count, Scalar gain, Scalar slope,
           Scalar clamp) {
  const Scalar slope_gain = gain * slope;
  const Scalar limit = clamp >= Scalar(0.0) ? clamp : kUnlimited;
  for (std::size_t i = 0; i < count; ++i)
    y[i] = lrelu_value(x[i] + bias, gain, slope_gain, limit);
}

double lrelu_backward(const Scalar* dy, const Scalar* y, Scalar* dx, std::size_t count, Scalar gain,
                      Scalar slope, Scalar clamp) {
  const Scalar slope_gain = gain * slope;
  const Scalar limit = clamp >= Scalar(0.0) ? clamp : kUnlimited;
  double total = 0.0;
  constexpr std::size_t kChunk = 4096;  // Scalar sums inside a chunk, double across
  for (std::size_t start = 0; start < count; start += kChunk) {
    const std::size_t end = std::min(count, start + kChunk);
    Scalar sum[16] = {};
    std::size_t i = start;
    for (; i + 16 <= end; i += 16)
      for (int v = 0; v < 16; ++v) {
        const Scalar out = y[i + v];
        Scalar factor = out > Scalar(0.0) ? gain : slope_gain;
        factor = (out < limit && out > -limit) ? factor : Scalar(0.0);
        const Scalar value = dy[i + v] * factor;
        dx[i + v] = value;
        sum[v] += value;
      }
    for (; i < end; ++i) {
      Scalar factor = y[i] > Scalar(0.0) ? gain : slope_gain;
      factor = (y[i] < limit && y[i] > -limit) ? factor : Scalar(0.0);
      dx[i] = dy[i] * factor;
      sum[0] += dx[i];
    }
    for (int v = 0; v < 16; ++v) total += sum[v];
  }
  return total;
}

#include "bfloat16.h"
#include "winograd.h"

}  // namespace

const Kernels<Scalar> ANIMEDRAG_KERNELS = {
    ANIMEDRAG_NAME, scratch_values, run_plane,            lrelu,      lrelu_backward, tile_scratch,
    tiles_in,       tiles_out,      tiles_out_transposed, kernels_in, kernels_out,
    pack_bfloat16,  unpack_bfloat16};

}  // namespace animedrag
