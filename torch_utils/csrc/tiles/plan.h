// Which kernel runs a call, with which tiles: pure functions of sizes and of the device's limits.
//
// Host code only. Costs are in issue slots of one thread, by counting each phase's products and
// accesses; they only rank tiles and are not times.

#pragma once

#include <algorithm>
#include <vector>

#include "geometry.h"
#include "stream.h"

namespace animedrag {

constexpr int kThreads = 256;

// What a device offers; read from its properties.
struct DeviceLimits {
  int shared_per_block;  // bytes a block may ask for, 48 to 227 KB
  int shared_per_processor;
  int processors;
};

// One call, before it is cut into tiles. Counts are the filters' own; `square`: two dimensions.
struct Call {
  Axis x, y;
  bool up_square, down_square;
  int samples, channels;
  bool channels_last;
  Activation activation;
};

// A specialised kernel: taps of a radial filter along one side.
struct Case {
  Shape shape;
  int up, up_taps, down, down_taps;
};

// StyleGAN3's layers: T, then R, whose second filters are radial; each with what its gradients
// need. Kernels are compiled for these, in this order.
constexpr Case kCases[] = {
    {Shape::kSeparable, 2, 12, 2, 12},  {Shape::kSeparable, 4, 24, 2, 12},
    {Shape::kSeparable, 2, 12, 4, 24},  {Shape::kRadialDown, 2, 12, 2, 12},
    {Shape::kRadialDown, 4, 24, 2, 12}, {Shape::kRadialUp, 2, 12, 2, 12},
    {Shape::kRadialUp, 2, 12, 4, 24},
};
constexpr int kCaseCount = sizeof(kCases) / sizeof(kCases[0]);
constexpr int kGeneralCase = -1;

// The others only run on masks: no network filters forward that way.
constexpr bool runs_forward(const Case& k) { return k.shape != Shape::kRadialUp && k.down == 2; }

inline int choose_case(const Call& c) {
  const Axis &x = c.x, &y = c.y;
  if (c.activation == Activation::kNone || x.up != y.up || x.down != y.down || x.up_count != y.up_count ||
      x.down_count != y.down_count || (c.up_square && c.down_square))
    return kGeneralCase;
  const Shape shape = c.up_square     ? Shape::kRadialUp
                      : c.down_square ? Shape::kRadialDown
                                      : Shape::kSeparable;
  for (int i = 0; i < kCaseCount; ++i) {
    const Case& k = kCases[i];
    if (k.shape == shape && k.up == x.up && k.down == x.down && x.up_count <= k.up_taps &&
        x.down_count <= k.down_taps && (c.activation == Activation::kFromMask || runs_forward(k)))
      return i;
  }
  return kGeneralCase;
}

struct Plan {
  bool fits;
  int kernel;  // index into kCases, or kGeneralCase
  Axis x, y;   // with tiles and the kernel's own numbers of taps
  Layout layout;
  int planes;
  int up_piece, middle_piece, down_piece;
  double cost;
};

// The length of pieces into which `lines` of `length` are best cut for kThreads threads, a piece
// costing `warm` and `unit` more for each of its parts.
struct Cut {
  int piece;
  double cost;
};
inline Cut best_cut(int lines, int length, double unit, double warm, int multiple) {
  Cut best{0, 0};
  for (int pieces = 1; pieces <= 16; ++pieces) {
    const int piece = round_up(ceil_div(length, pieces), multiple);
    const int rounds = ceil_div(lines * ceil_div(length, piece), kThreads);
    const double cost = rounds * (warm + piece * unit);
    if (!best.piece || cost < best.cost) best = {piece, cost};
    if (piece == multiple) break;
  }
  return best;
}

// Fills in the layout, the pieces and the cost of one block for the plan's tile.
inline void measure(Plan& plan, const Case& k) {
  const Axis &x = plan.x, &y = plan.y;
  plan.layout = layout_of(k.shape, k.shape == Shape::kRadialUp, x, y, plan.planes);
  const Layout& l = plan.layout;
  const int window = ceil_div(k.up_taps, k.up), planes = plan.planes;
  const int mid_x = mid_x_of_tile(x), mid_y = mid_y_of_tile(y, k.shape);
  const int hidden = (k.up - 1) / k.down, per_beat = kBeat / k.down;
  const double up_sample = window, activation = 8;
  double cost = 6.0 * (cells_of(l.input, planes) + x.tile * y.tile * planes) / kThreads + 200;
  Cut up{1, 0}, middle{1, 0}, down{1, 0};
  if (k.shape != Shape::kRadialUp)
    up = best_cut(l.input.rows * planes, mid_x / k.up, k.up_taps + 2 + 2 * k.up, 20 + 2 * window, 1);
  const double down_sample = double(k.down_taps) / k.down;
  const int earlier = (k.down_taps + k.down - 1) / k.down;
  if (k.shape == Shape::kRadialDown) {
    const double beat = kBeat * (up_sample + activation + 2) + 8;
    middle = best_cut(mid_x * planes, mid_y / kBeat, beat, beat + 60, 1);
    const double step = k.down_taps * (k.down_taps + k.down) + 8;
    down = best_cut(x.tile * planes, y.tile, step, earlier * step, 1);
  } else {
    const int columns = k.shape == Shape::kRadialUp ? mid_x / k.up : mid_x;
    const double sides = k.shape == Shape::kRadialUp ? k.up : 1;
    const double filter = k.shape == Shape::kRadialUp ? window * k.up_taps / 2.0 : up_sample;
    const double beat = kBeat * sides * (filter + activation + down_sample) + 12;
    middle = best_cut(columns * planes, y.tile + hidden, beat / per_beat,
                      (earlier / double(per_beat)) * beat + 60, per_beat);
    down = best_cut(y.tile * planes, x.tile, k.down_taps + k.down + 3, 20 + k.down_taps, 1);
  }
  plan.up_piece = up.piece;
  plan.middle_piece = middle.piece;
  plan.down_piece = down.piece;
  plan.cost = cost + up.cost + middle.cost + down.cost;
}

inline std::vector<int> tile_sizes(int out) {
  std::vector<int> sizes;
  for (int pieces = 1; pieces <= 12; ++pieces) {
    const int size = ceil_div(out, pieces);
    if (size <= 128 && size >= std::min(out, 8)) sizes.push_back(size);
  }
  for (int size = 8; size <= 128; size += size < 64 ? 4 : 8)
    if (size < out) sizes.push_back(size);
  return sizes;
}

// Time of all blocks, given what one costs and how many run side by side.
inline double total_cost(const Plan& plan, const Call& call, const DeviceLimits& device) {
  const int bytes = plan.layout.cells * 4 + 1024;  // a block's own kilobyte is the driver's
  const int resident = std::max(1, std::min(4, device.shared_per_processor / bytes));
  const double busy[] = {0, 0.6, 0.85, 0.95, 1.0};
  const double blocks = double(call.samples) * ceil_div(call.channels, plan.planes) *
                        tiles_of(plan.x) * tiles_of(plan.y);
  const double waves = std::max(1.0, blocks / (double(device.processors) * resident));
  return waves * resident * plan.cost / busy[resident];
}

inline Plan plan_specialised(const Call& call, int kernel, const DeviceLimits& device) {
  const Case& k = kCases[kernel];
  Plan best{};
  double best_cost = 0;
  for (const int planes : {8, 4, 1}) {
    if (call.channels_last ? planes == 1 && best.fits : planes != 1) continue;
    for (const int tile_x : tile_sizes(call.x.out))
      for (const int tile_y : tile_sizes(call.y.out)) {
        Plan plan{true, kernel, call.x, call.y, {}, planes, 1, 1, 1, 0};
        for (Axis* a : {&plan.x, &plan.y}) {
          a->up_count = k.up_taps;
          a->down_count = k.down_taps;
        }
        plan.x.tile = tile_x;
        plan.y.tile = tile_y;
        measure(plan, k);
        if (plan.layout.cells * 4 > device.shared_per_block) continue;
        const double cost = total_cost(plan, call, device);
        if (!best.fits || cost < best_cost) {
          best = plan;
          best_cost = cost;
        }
      }
    if (best.fits && best.planes == planes) break;
  }
  return best;
}

// Tiles of up to 32x32 outputs, halved until they fit.
inline Plan plan_general(const Call& call, int bytes_a_cell, const DeviceLimits& device) {
  Plan plan{false, kGeneralCase, call.x, call.y, {}, call.channels_last ? 4 : 1, 1, 1, 1, 0};
  for (; plan.planes >= 1; plan.planes /= 4)
    for (int tile = 32; tile >= 1; tile /= 2) {
      plan.x.tile = std::min(tile, call.x.out);
      plan.y.tile = std::min(tile, call.y.out);
      plan.layout = layout_of(Shape::kGeneral, call.up_square, plan.x, plan.y, plan.planes);
      // Tiles of more than 4096 samples a side fit into no GPU's memory, and the products below have
      // to fit into an int.
      if (mid_x_of_tile(plan.x) > 4096 || mid_y_of_tile(plan.y, Shape::kGeneral) > 4096) continue;
      plan.fits = std::int64_t{1} * plan.layout.cells * bytes_a_cell <= device.shared_per_block;
      if (plan.fits && (tile >= 4 || plan.planes == 1)) return plan;
    }
  return plan;
}

inline Plan make_plan(const Call& call, bool in_double, const DeviceLimits& device) {
  const int kernel = in_double ? kGeneralCase : choose_case(call);
  if (kernel != kGeneralCase) {
    const Plan plan = plan_specialised(call, kernel, device);
    if (plan.fits) return plan;
  }
  return plan_general(call, in_double ? 8 : 4, device);
}

// ---- short filters without an activation -------------------------------------------------------

struct StreamPlan {
  bool fits;
  StreamCase kernel;
  StreamJob job;        // without pointers and strides
  bool filter_is_first;  // the up taps are the filter, the down taps one number; or the other way
  std::int64_t threads;
};

inline StreamPlan plan_stream(const Call& c, const DeviceLimits& device) {
  StreamPlan plan{};
  const Axis &x = c.x, &y = c.y;
  if (c.activation != Activation::kNone || c.up_square || c.down_square || x.up != y.up ||
      x.down != y.down || (x.up_count != 1 && x.down_count != 1))
    return plan;
  plan.filter_is_first = x.down_count == 1;
  const int count = plan.filter_is_first ? x.up_count : x.down_count;
  const auto* found = std::find_if(
      std::begin(kStreamCases), std::end(kStreamCases),
      [&](const StreamCase& k) { return k.up == x.up && k.down == x.down && count <= k.taps; });
  if (found == std::end(kStreamCases)) return plan;
  plan.kernel = *found;
  const auto axis = [&](const Axis& a) {
    const int offset = a.down_start - a.up_start;
    if (plan.filter_is_first)  // samples outside [0, mid) are no outputs
      return StreamAxis{a.in, a.out, offset, 0, a.in,
                        std::max(0, -floor_div(a.down_start, a.down)),
                        std::min(a.out, ceil_div(std::max(0, a.mid - a.down_start), a.down))};
    return StreamAxis{a.in, a.out, offset, std::max(0, -floor_div(a.up_start, a.up)),
                      std::min(a.in, ceil_div(std::max(0, a.mid - a.up_start), a.up)), 0, a.out};
  };
  StreamJob& job = plan.job;
  job.x = axis(x);
  job.y = axis(y);
  job.samples = c.samples;
  job.channels = c.channels;
  job.channels_last = c.channels_last;
  job.columns = ceil_div(x.out, x.up);
  const int steps = stream_steps(job.y, y.up);
  // Enough threads to fill the device twice, but pieces of at least eight steps: each piece reads
  // its window anew.
  const std::int64_t lines = std::int64_t{1} * c.samples * c.channels * job.columns;
  const std::int64_t wanted = (std::int64_t{4096} * device.processors + lines - 1) / lines;
  const int pieces = static_cast<int>(
      std::min<std::int64_t>(std::max<std::int64_t>(1, wanted), std::max(1, steps / 8)));
  job.piece = ceil_div(steps, pieces);
  job.pieces = ceil_div(steps, job.piece);
  job.by_columns = Divisor::of(job.columns);
  job.by_channels = Divisor::of(c.channels);
  plan.threads = lines * job.pieces;
  plan.fits = plan.threads < (std::int64_t{1} << 31) - 1024;
  return plan;
}

// The filter's taps, with the other one's number multiplied in, and zeros up to `length`.
inline void stream_taps(const StreamPlan& plan, const Call& c, const float* up_taps,
                        const float* down_taps, float* out, int length) {
  const float* taps = plan.filter_is_first ? up_taps : down_taps;
  const float factor = plan.filter_is_first ? down_taps[0] : up_taps[0];
  const int count = plan.filter_is_first ? c.x.up_count : c.x.down_count;
  for (int i = 0; i < length; ++i) out[i] = i < count ? taps[i] * factor : 0.0f;
}

inline FirJob job_of(const Call& call, const Plan& plan) {
  FirJob job{};
  job.x = plan.x;
  job.y = plan.y;
  job.layout = plan.layout;
  job.samples = call.samples;
  job.channels = call.channels;
  job.planes = plan.planes;
  job.up_piece = plan.up_piece;
  job.middle_piece = plan.middle_piece;
  job.down_piece = plan.down_piece;
  return job;
}

}  // namespace animedrag
