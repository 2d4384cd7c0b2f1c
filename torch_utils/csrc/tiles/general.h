// The kernel for any factors and taps: the same tiles, one sample at a time, taps in memory.
//
// Slower than the specialised kernels and right for everything that fits in shared memory; also
// the only one in double precision.

#pragma once

#include "geometry.h"
#include "images.h"

namespace animedrag {

template <class Real>
struct GeneralJob {
  FirJob fir;
  bool up_square, down_square;  // filters of two dimensions, [rows][columns]
  Real gain, slope_gain, limit;
};

// Taps of both filters by value, up before down; more of them lie in device memory. Together with
// the job they stay within the 4 KB of arguments that every CUDA version allows.
template <class Real>
struct GeneralTaps {
  static constexpr int kMost = 3072 / static_cast<int>(sizeof(Real));
  Real values[kMost];
};

// The sum over the taps of one phase along an axis; `cells` step by `stride` from `at`.
template <class Real, class Cells>
ANIMEDRAG_FN Real phase_sum(const Cells& cells, int at, int stride, const Real* taps, int first,
                            int step, int count) {
  Real sum = 0;
  for (int k = first; k < count; k += step, at += stride) sum += taps[k] * cells[at];
  return sum;
}

template <class Real, class Cells>
ANIMEDRAG_FN void general_up_x(const GeneralJob<Real>& job, const Place& place, const Real* taps,
                               Cells cells, Worker w) {
  const FirJob& f = job.fir;
  const Buffer &from = f.layout.input, &to = f.layout.wide;
  const int rows = from.rows * place.planes;
  for (int item = w.thread; item < rows * to.columns; item += w.threads) {
    const int column = item % to.columns, plane = item / to.columns / from.rows;
    const int row = item / to.columns % from.rows;
    const int source = from.at + plane * from.plane + row * from.row + column / f.x.up;
    cells[to.at + plane * to.plane + row * to.row + column] = phase_sum(
        cells, source, 1, taps, f.x.up - 1 - column % f.x.up, f.x.up, f.x.up_count);
  }
}

// One upsampled sample, before the activation.
template <class Real, class Cells>
ANIMEDRAG_FN Real general_sample(const GeneralJob<Real>& job, const Real* taps, const Cells& cells, int plane,
                                 int row, int column) {
  const FirJob& f = job.fir;
  const int first = f.y.up - 1 - row % f.y.up;
  if (!job.up_square) {
    const Buffer& from = f.layout.wide;
    return phase_sum(cells, from.at + plane * from.plane + row / f.y.up * from.row + column,
                     from.row, taps, first, f.y.up, f.y.up_count);
  }
  const Buffer& from = f.layout.input;
  int at = from.at + plane * from.plane + row / f.y.up * from.row + column / f.x.up;
  Real sum = 0;
  for (int k = first; k < f.y.up_count; k += f.y.up, at += from.row)
    sum += phase_sum(cells, at, 1, taps + k * f.x.up_count,
                     f.x.up - 1 - column % f.x.up, f.x.up, f.x.up_count);
  return sum;
}

// v = activation(u); `code` is written by kLrelu and read by kFromMask.
template <class Real>
ANIMEDRAG_FN Real general_activation(const GeneralJob<Real>& job, Real u, unsigned& code) {
  if (job.fir.activation == Activation::kNone) return u;
  if (job.fir.activation == Activation::kFromMask)
    return code & 2u ? static_cast<Real>(0) : u * (code & 1u ? job.slope_gain : job.gain);
  const bool positive = u > 0;
  const Real v = u * (positive ? job.gain : job.slope_gain);
  const bool over = v > job.limit, under = v < -job.limit;
  code = (positive ? 0u : 1u) | (over || under ? 2u : 0u);
  return over ? job.limit : under ? -job.limit : v;
}

// Upsampling (along y, or in two dimensions) and activation => middle. A thread makes the four
// rows of one byte of the mask.
template <class Real, class Cells>
ANIMEDRAG_FN void general_activate(const GeneralJob<Real>& job, const Place& place, const Real* taps,
                                   Cells cells, Worker w) {
  const FirJob& f = job.fir;
  const Buffer& to = f.layout.middle;
  const int first_byte = floor_div(place.y.mid_at, kBeat);
  const int bytes = floor_div(place.y.mid_at + to.rows - 1, kBeat) - first_byte + 1;
  const Range own_x = owned_mid(f.x, place.x.out_at, place.x.out_at + f.x.tile);
  const Range own_y = owned_mid(f.y, place.y.out_at, place.y.out_at + f.y.tile);
  const int columns = to.columns * place.planes;
  for (int item = w.thread; item < columns * bytes; item += w.threads) {
    const int column = item % to.columns, plane = item % columns / to.columns;
    const int channel = place.channel + plane;
    const int x = place.x.mid_at + column, top = (first_byte + item / columns) * kBeat;
    const bool in_x = x >= 0 && x < f.x.mid;
    std::uint8_t* byte = nullptr;
    if (f.mask && in_x && top >= 0 && top < f.y.mid)
      byte = f.mask + (std::int64_t{1} * place.sample * f.channels + channel) *
                          mask_plane_bytes(f.x.mid, f.y.mid) +
             std::int64_t{1} * (top / kBeat) * f.x.mid + x;
    const bool reads = f.activation == Activation::kFromMask;
    unsigned codes = reads && byte ? *byte : 0u;
    for (int i = 0; i < kBeat; ++i) {
      const int row = top + i - place.y.mid_at;
      if (row < 0 || row >= to.rows) continue;
      const bool inside = in_x && top + i >= 0 && top + i < f.y.mid;
      unsigned code = codes >> (2 * i) & 3u;
      const Real u = inside ? general_sample(job, taps, cells, plane, row, column) : static_cast<Real>(0);
      const Real v = general_activation(job, u, code);
      cells[to.at + plane * to.plane + row * to.row + column] = inside ? v : static_cast<Real>(0);
      if (!reads) codes |= code << (2 * i);
    }
    if (!reads && byte && x >= own_x.begin && x < own_x.end && top >= own_y.begin && top < own_y.end)
      *byte = static_cast<std::uint8_t>(codes);
  }
}

template <class Real, class Cells>
ANIMEDRAG_FN void general_down_x(const GeneralJob<Real>& job, const Place& place, const Real* taps,
                                 Cells cells, Worker w) {
  const FirJob& f = job.fir;
  const Buffer &from = f.layout.middle, &to = f.layout.result;
  const int width = least(f.x.tile, f.x.out - place.x.out_at);
  for (int item = w.thread; item < from.rows * place.planes * width; item += w.threads) {
    const int column = item % width, plane = item / width / from.rows;
    const int row = item / width % from.rows;
    const int source = from.at + plane * from.plane + row * from.row + place.x.skip;
    cells[to.at + plane * to.plane + row * to.row + column] = phase_sum(
        cells, source + column * f.x.down, 1, taps, 0, 1, f.x.down_count);
  }
}

// Downsampling along y, or in two dimensions => target.
template <class T, class Real, class Cells>
ANIMEDRAG_FN void general_finish(const GeneralJob<Real>& job, const Place& place, const Real* taps,
                                 Cells cells, Worker w) {
  const FirJob& f = job.fir;
  const int width = least(f.x.tile, f.x.out - place.x.out_at);
  const int height = least(f.y.tile, f.y.out - place.y.out_at);
  for (int item = w.thread; item < place.planes * width * height; item += w.threads) {
    const int plane = item % place.planes, column = item / place.planes % width;
    const int row = item / place.planes / width, channel = place.channel + plane;
    const int mid_row = place.y.skip + row * f.y.down;
    Real sum = 0;
    if (job.down_square) {
      const Buffer& from = f.layout.middle;
      int at = from.at + plane * from.plane + mid_row * from.row + place.x.skip + column * f.x.down;
      for (int k = 0; k < f.y.down_count; ++k, at += from.row)
        sum += phase_sum(cells, at, 1, taps + k * f.x.down_count, 0, 1, f.x.down_count);
    } else {
      const Buffer& from = f.layout.result;
      sum = phase_sum(cells, from.at + plane * from.plane + mid_row * from.row + column, from.row,
                      taps, 0, 1, f.y.down_count);
    }
    write_image<T, Real>(const_cast<void*>(f.target.at),
                         plane_offset(f.target, place.sample, channel) +
                             std::int64_t{1} * (place.y.out_at + row) * f.target.row +
                             std::int64_t{1} * (place.x.out_at + column) * f.target.column,
                         sum);
  }
}

}  // namespace animedrag
