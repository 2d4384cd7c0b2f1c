// Where the tiles of two filters lie: index mapping, halos, phases, and the shared memory's layout.
//
// Along each axis (the same description as csrc/cpu/planes.h)
//   upsampled   u[X] = sum_k up_taps[k] * z[X + k - up_start]     z: x with zeros put in between
//   downsampled y[j] = sum_k down_taps[k] * v[down * j + k + down_start]
// with v = activation(u), zero outside [0, mid). A tile begins where X = up_start + 1 (mod up):
// there, sample X + up * s + q reads taps up - 1 - q + up * m of inputs i + s + m, so that every
// phase q has the same window of inputs.

#pragma once

#include "portable.h"

namespace animedrag {

struct Axis {
  int in, mid, out;  // lengths: input, upsampled, output
  int up, down;      // factors
  int up_start, down_start;
  int up_count, down_count;  // taps that the kernel runs over; at least the filters' own
  int tile;                  // outputs in a tile
};

// What one tile covers along one axis.
struct Span {
  int out_at;  // its first output
  int mid_at;  // first upsampled sample, where the phases begin
  int skip;    // samples from mid_at to the first one that an output reads: in [0, up)
  int in_at;   // first input
};

// The first upsampled sample that output j reads.
ANIMEDRAG_FN int reads_from(const Axis& a, int j) { return a.down * j + a.down_start; }

ANIMEDRAG_FN Span span_of(const Axis& a, int tile) {
  Span s;
  s.out_at = tile * a.tile;
  const int need = reads_from(a, s.out_at);
  s.skip = floor_mod(need - a.up_start - 1, a.up);
  s.mid_at = need - s.skip;
  s.in_at = floor_div(s.mid_at + a.up - 1 - a.up_start, a.up);  // exact
  return s;
}

ANIMEDRAG_FN int tiles_of(const Axis& a) { return ceil_div(a.out, a.tile); }

// Upsampled samples come in beats of this many: a byte of the mask, and a multiple of the factors
// of every specialised kernel.
constexpr int kBeat = 4;

// The way through the filters that a kernel takes.
enum class Shape : int {
  kSeparable,   // up x | up y, activation, down y | down x
  kRadialDown,  // up x | up y, activation | down in two dimensions
  kRadialUp,    // up in two dimensions, activation, down y | down x
  kGeneral,     // any filters: up x | up y, activation | down x | down y, or in two dimensions
};

// Upsampled samples of a tile. Along x whole phases; along y whole beats, or, in the general
// kernel, enough that each byte of the mask has a tile that knows all of it.
ANIMEDRAG_FN int mid_x_of_tile(const Axis& a) {
  return round_up(a.up - 1 + (a.tile - 1) * a.down + a.down_count, a.up);
}
ANIMEDRAG_FN int mid_y_of_tile(const Axis& a, Shape shape) {
  const int need = a.up - 1 + (a.tile - 1) * a.down + a.down_count;
  return shape == Shape::kGeneral ? round_up(need + kBeat - 1, a.up)
                                  : round_up(need + a.down - 1, kBeat);
}

// Inputs that `mid` upsampled samples of a tile read.
ANIMEDRAG_FN int in_of_tile(const Axis& a, int mid) {
  return mid / a.up + ceil_div(a.up_count, a.up) - 1;
}

// Upsampled samples [begin, end) whose mask a tile writes: those that its outputs read first, so
// that every sample has one owner; the first and last tile reach to the image's ends.
struct Range {
  int begin, end;
};
ANIMEDRAG_FN Range owned_mid(const Axis& a, int first, int last_plus_1) {
  return {first <= 0 ? 0 : most(0, least(a.mid, reads_from(a, first))),
          last_plus_1 >= a.out ? a.mid : most(0, least(a.mid, reads_from(a, last_plus_1)))};
}

// Whether the tiles together meet every upsampled sample; where not, the rest of a mask stays as
// the caller made it.
ANIMEDRAG_FN bool covers_mid(const Axis& a) {
  return a.down_start <= 0 && reads_from(a, a.out - 1) + a.down_count >= a.mid;
}

// ---- mask: 2 bits a sample, four rows of one column in a byte, rows of bytes one after another --

ANIMEDRAG_FN int mask_byte_rows(int mid_height) { return ceil_div(mid_height, kBeat); }
ANIMEDRAG_FN std::int64_t mask_plane_bytes(int mid_width, int mid_height) {
  return std::int64_t{1} * mask_byte_rows(mid_height) * mid_width;
}

// ---- shared memory -----------------------------------------------------------------------------

// One buffer: cells from `at`, rows `row` cells apart, planes `plane` cells apart.
struct Buffer {
  int at, row, plane, rows, columns;
};

// Lanes of a warp that walk along rows side by side want an odd distance between rows; lanes that
// fill several planes at once want the planes 32 / planes banks apart.
ANIMEDRAG_FN Buffer buffer_of(int rows, int columns, int planes) {
  Buffer b{0, columns | 1, 0, rows, columns};
  b.plane = b.row * rows;
  if (planes > 1) {
    const int wanted = 32 / planes;
    b.plane += floor_mod(wanted - b.plane, 32);
  }
  return b;
}
ANIMEDRAG_FN int cells_of(const Buffer& b, int planes) { return b.plane * planes; }

// Two regions take turns: a phase reads one and writes the other.
struct Layout {
  Buffer input;   // region 0
  Buffer wide;    // region 1: upsampled along x
  Buffer middle;  // region 0, or 1 where no phase made `wide`: activated samples; in kRadialDown each
                  // row split by phase of down; in kSeparable and kRadialUp filtered down along y
  Buffer result;  // the other one: outputs; in kGeneral filtered down along x
  int split;      // kRadialDown: cells of one phase in a row of `middle`
  int cells;      // of everything
};

ANIMEDRAG_FN Layout layout_of(Shape shape, bool up_square, const Axis& x, const Axis& y, int planes) {
  const int mid_x = mid_x_of_tile(x), mid_y = mid_y_of_tile(y, shape);
  const int in_x = in_of_tile(x, mid_x), in_y = in_of_tile(y, mid_y);
  Layout l{};
  l.input = buffer_of(in_y, in_x, planes);
  l.split = shape == Shape::kRadialDown ? ceil_div(mid_x, x.down) : 0;
  switch (shape) {
    case Shape::kRadialDown:
      l.middle = buffer_of(mid_y, l.split * x.down, planes);
      l.result = buffer_of(y.tile, x.tile, planes);
      break;
    case Shape::kGeneral:
      l.middle = buffer_of(mid_y, mid_x, planes);
      l.result = buffer_of(mid_y, x.tile, planes);
      break;
    default:
      l.middle = buffer_of(y.tile, mid_x, planes);
      l.result = buffer_of(y.tile, x.tile, planes);
  }
  const int input = cells_of(l.input, planes), middle = cells_of(l.middle, planes);
  const int result = cells_of(l.result, planes);
  if (up_square) {
    l.middle.at = most(input, result);
    l.cells = l.middle.at + middle;
  } else {
    l.wide = buffer_of(in_y, mid_x, planes);
    l.wide.at = l.result.at = most(input, middle);
    l.cells = l.wide.at + most(cells_of(l.wide, planes), result);
  }
  return l;
}

// ---- jobs --------------------------------------------------------------------------------------

enum class Activation : int { kNone, kLrelu, kFromMask };

// Where images lie: strides in elements.
struct Image {
  const void* at;
  std::int64_t sample, channel;
  int row, column;
};

// One call, as a kernel gets it: by value.
struct FirJob {
  Axis x, y;
  Layout layout;
  Image source, target;
  Element element;
  int samples, channels;
  int planes;  // channels in a tile: a power of two; 1 unless images are channels-last
  const void* bias;          // one of the image's elements a channel, or null
  std::uint8_t* mask;        // written by kLrelu unless null, read by kFromMask
  Activation activation;
  float gain, slope_gain, limit;  // v = gain or slope_gain times u, within [-limit, limit]
  // Lengths of the pieces into which a phase cuts rows or columns, one thread each.
  int up_piece, middle_piece, down_piece;
};

// The tile that a block works on.
struct Place {
  int sample, channel;  // its first channel
  int planes;           // its channels: fewer than job.planes where the image's end comes first
  int tile_x, tile_y;
  Span x, y;
};

ANIMEDRAG_FN int blocks_of(const FirJob& job) {
  return job.samples * ceil_div(job.channels, job.planes) * tiles_of(job.x) * tiles_of(job.y);
}

ANIMEDRAG_FN Place place_of(const FirJob& job, int block) {
  const int tiles_x = tiles_of(job.x), tiles_y = tiles_of(job.y);
  const int groups = ceil_div(job.channels, job.planes);
  Place p;
  p.tile_x = block % tiles_x;
  block /= tiles_x;
  p.tile_y = block % tiles_y;
  block /= tiles_y;
  p.channel = block % groups * job.planes;
  p.sample = block / groups;
  p.planes = least(job.planes, job.channels - p.channel);
  p.x = span_of(job.x, p.tile_x);
  p.y = span_of(job.y, p.tile_y);
  return p;
}

// A thread of the block.
struct Worker {
  int thread, threads;
};

}  // namespace animedrag
