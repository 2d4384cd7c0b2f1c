// One source for every instruction set: the build compiles it once with each set's flags and with
// ANIMEDRAG_KERNELS naming the table that this object file exports (ANIMEDRAG_SCALAR its type).
//
// A plane streams through row by row; nothing larger than a few rows is ever held. Upsampled rows
// are kept as `phases` (sample X lies in phase X mod L, place X div L, with L the least common
// multiple of both factors), so that every filter becomes a weighted sum of contiguous rows, the
// one primitive that is worth vectorising.

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
// Rows carry this many spare values on each side: reads past an end meet zeros, not a branch.
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

inline int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
inline int floor_mod(int a, int b) { return a - floor_div(a, b) * b; }
inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
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
  l.period = std::lcm(x.up, x.down);
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
  l.margin = round_up(std::max(reach_up, reach_down) + spread, kLanes) + kBlock + 4 * kMaskLanes;
  const auto stride = [&](int places) { return round_up(places, kLanes) + 2 * l.margin; };
  l.in_stride = stride(l.in_places);
  l.mid_stride = stride(l.mid_places);
  l.out_stride = round_up(l.out_places, kLanes) + kBlock;
  l.in_row = l.in_stride * l.in_phases;
  l.mid_row = l.mid_stride * l.period;
  l.out_row = l.out_stride * l.out_phases;
  l.in_rows = ceil_div(y.up_count, y.up) + 1;
  l.held_rows = y.down_count;
  return l;
}

std::size_t scratch_values(const Job& job) {
  const Layout l = layout_of(job);
  // A separable second filter holds filtered rows, a 2-D one whole activated rows.
  const int held_row = job.down_taps_2d ? l.mid_row : l.out_row;
  return static_cast<std::size_t>(l.in_rows) * l.in_row + l.in_row + l.mid_row +
         static_cast<std::size_t>(l.held_rows) * held_row + l.out_row +
         (job.down_taps_2d ? static_cast<std::size_t>(l.held_rows / 2) * l.mid_row : 0) +
         (sizeof(Term) / sizeof(Scalar)) *
             std::max(job.x.up_count * job.y.up_count, job.x.down_count * job.y.down_count) +
         kLanes;
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
  Term* terms;
  bool mirrored;  // the 2-D second filter reads the same from below as from above

  Plane(const Job& j, Scalar* scratch) : job(j), l(layout_of(j)) {
    const int held_row = job.down_taps_2d ? l.mid_row : l.out_row;
    in_ring = scratch;
    mixed = in_ring + static_cast<std::size_t>(l.in_rows) * l.in_row;
    mid = mixed + l.in_row;
    held = mid + l.mid_row;
    result = held + static_cast<std::size_t>(l.held_rows) * held_row;
    folds = result + l.out_row;
    const std::size_t fold_values =
        job.down_taps_2d ? static_cast<std::size_t>(l.held_rows / 2) * l.mid_row : 0;
    terms = reinterpret_cast<Term*>(round_up_pointer(folds + fold_values));
    mirrored = job.down_taps_2d != nullptr && l.held_rows > 1;
    for (int k = 0; mirrored && k < l.held_rows / 2; ++k)
      mirrored = std::equal(job.down_taps_2d + k * j.x.down_count,
                            job.down_taps_2d + (k + 1) * j.x.down_count,
                            job.down_taps_2d + (l.held_rows - 1 - k) * j.x.down_count);
  }

  static Scalar* round_up_pointer(Scalar* p) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    return reinterpret_cast<Scalar*>((address + sizeof(Term) - 1) / sizeof(Term) * sizeof(Term));
  }

  Scalar* in_line(int row) const { return in_ring + (row % l.in_rows) * l.in_row + l.margin; }

  // Terms of the horizontal upsampling of one input line into phase p.
  int up_terms(const Scalar* line, const Scalar* taps, int phase, Scalar factor, Term* out) const {
    const Line& x = job.x;
    int count = 0;
    for (int k = floor_mod(x.up_start - phase, x.up); k < x.up_count; k += x.up) {
      const int place = (phase + k - x.up_start) / x.up;  // exact: k was chosen so
      const Scalar* row = line + floor_mod(place, l.in_phases) * l.in_stride +
                         floor_div(place, l.in_phases);
      out[count++] = {row, taps[k] * factor};
    }
    return count;
  }

  // Terms of the horizontal downsampling of one activated line into output phase q.
  int down_terms(const Scalar* line, const Scalar* taps, int phase, Term* out) const {
    const Line& x = job.x;
    for (int k = 0; k < x.down_count; ++k) {
      const int place = x.down * phase + k + x.down_start;
      out[k] = {line + floor_mod(place, l.period) * l.mid_stride + floor_div(place, l.period),
                taps[k]};
    }
    return x.down_count;
  }

  // Row Y of the upsampled plane into `line` (phase rows, margins left alone).
  void upsample_row(int row, Scalar* line) {
    const Line &x = job.x, &y = job.y;
    const int first = floor_mod(y.up_start - row, y.up);
    if (job.up_taps_2d) {
      for (int phase = 0; phase < l.period; ++phase) {
        int count = 0;
        for (int k = first; k < y.up_count; k += y.up) {
          const int source = (row + k - y.up_start) / y.up;
          if (source < 0 || row + k < y.up_start || source >= y.in) continue;
          count += up_terms(in_line(source), job.up_taps_2d + k * x.up_count, phase, Scalar(1.0),
                            terms + count);
        }
        weighted_sum(terms, count, line + phase * l.mid_stride, l.mid_places);
      }
      return;
    }
    int count = 0;
    for (int k = first; k < y.up_count; k += y.up) {
      const int source = (row + k - y.up_start) / y.up;
      if (row + k < y.up_start || source >= y.in) continue;
      terms[count++] = {in_line(source), y.up_taps[k]};
    }
    const Scalar* source_line = mixed + l.margin;
    Scalar factor = Scalar(1.0);
    if (count == 1) {  // nothing to add up: read the line where it is
      source_line = terms[0].row;
      factor = terms[0].weight;
    } else {
      for (int phase = 0; phase < l.in_phases; ++phase) {
        weighted_sum(terms, count, mixed + l.margin + phase * l.in_stride, l.in_places);
        for (int t = 0; t < count; ++t) terms[t].row += l.in_stride;
      }
    }
    for (int phase = 0; phase < l.period; ++phase) {
      const int n = up_terms(source_line, x.up_taps, phase, factor, terms);
      weighted_sum(terms, n, line + phase * l.mid_stride, l.mid_places);
    }
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

  void downsample_row(const Scalar* line, Scalar* out) {
    for (int phase = 0; phase < l.out_phases; ++phase) {
      const int n = down_terms(line, job.x.down_taps, phase, terms);
      weighted_sum(terms, n, out + phase * l.out_stride, l.out_places);
    }
  }

  void run(const Scalar* x, Scalar* y, std::uint8_t* mask) {
    const bool whole_lines = job.down_taps_2d != nullptr;
    const int held_row = whole_lines ? l.mid_row : l.out_row;
    const std::size_t mask_bytes =
        static_cast<std::size_t>(l.period) * mask_quarter(l.mid_places);
    int loaded = 0;                           // input lines in the ring so far
    int done = std::max(0, job.y.down_start);  // upsampled lines before this one are not needed
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
        if (!whole_lines) downsample_row(line, slot);
      }
      done = std::max(done, end);
      if (mirrored && begin >= 0 && end - begin == job.y.down_count)
        finish_mirrored_row(begin);
      else
        finish_row(begin, end, whole_lines, held_row);
      join_phases(result, l.out_stride, l.out_phases,
                  y + static_cast<std::size_t>(j) * job.x.out, job.x.out);
    }
  }

  // Rows that meet the same taps are added first: half of the products of a radial filter.
  void finish_mirrored_row(int begin) {
    const int count = job.y.down_count, half = count / 2;
    const auto slot = [&](int k) {
      return held + ((begin + k) % l.held_rows) * static_cast<std::size_t>(l.mid_row);
    };
    for (int k = 0; k < half; ++k) {
      const Term pair[2] = {{slot(k), Scalar(1.0)}, {slot(count - 1 - k), Scalar(1.0)}};
      weighted_sum(pair, 2, folds + k * static_cast<std::size_t>(l.mid_row), l.mid_row);
    }
    for (int phase = 0; phase < l.out_phases; ++phase) {
      int terms_count = 0;
      for (int k = 0; k < count - half; ++k) {
        const Scalar* line =
            k < half ? folds + k * static_cast<std::size_t>(l.mid_row) : slot(k);
        terms_count += down_terms(line + l.margin, job.down_taps_2d + k * job.x.down_count, phase,
                                  terms + terms_count);
      }
      weighted_sum(terms, terms_count, result + phase * l.out_stride, l.out_places);
    }
  }

  void finish_row(int begin, int end, bool whole_lines, int held_row) {
    for (int phase = 0; phase < l.out_phases; ++phase) {
      int count = 0;
      for (int row = std::max(begin, 0); row < end; ++row) {
        const Scalar* slot = held + (row % l.held_rows) * static_cast<std::size_t>(held_row);
        const int k = row - begin;
        if (whole_lines) {
          count += down_terms(slot + l.margin, job.down_taps_2d + k * job.x.down_count, phase,
                              terms + count);
        } else {
          terms[count++] = {slot + phase * l.out_stride, job.y.down_taps[k]};
        }
      }
      weighted_sum(terms, count, result + phase * l.out_stride, l.out_places);
    }
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

#include "winograd.h"

}  // namespace

const Kernels<Scalar> ANIMEDRAG_KERNELS = {
    ANIMEDRAG_NAME, scratch_values, run_plane,            lrelu,      lrelu_backward, tile_scratch,
    tiles_in,       tiles_out,      tiles_out_transposed, kernels_in, kernels_out};

}  // namespace animedrag
