// The specialised kernels' phases: filters whose factors and taps the compiler knows.
//
// A phase slides along rows or columns with its window in registers, so that each cell of shared
// memory is read once for many products. Upsampling along y, the activation and downsampling along
// y are one phase: the upsampled plane, the largest of all, never leaves the registers.
// `Cells` is float* in a kernel and a watched array in the emulator.

#pragma once

#include "geometry.h"
#include "images.h"

namespace animedrag {

// Factors and taps of a specialised kernel. `Up` and `Down` are taps along one axis; a radial
// filter has their square.
template <int UpFactor, int UpTaps, int DownFactor, int DownTaps>
struct Filters {
  static constexpr int kUp = UpFactor, kUpTaps = UpTaps, kDown = DownFactor, kDownTaps = DownTaps;
  static constexpr int kWindow = (UpTaps + UpFactor - 1) / UpFactor;
  static constexpr int kIn = kBeat / UpFactor;     // inputs in a beat
  static constexpr int kOut = kBeat / DownFactor;  // outputs in a beat
  static_assert(kBeat % UpFactor == 0 && kBeat % DownFactor == 0);
  static_assert(UpTaps % UpFactor == 0);
  // Masks are shared out by whole bytes: a piece must compute what it owns (see MaskRows).
  static_assert(DownTaps >= DownFactor + kBeat - 1);
};

// Taps by value, as a kernel's argument.
template <int UpCount, int DownCount>
struct Taps {
  float up[UpCount];
  float down[DownCount];
};

// ---- activation --------------------------------------------------------------------------------

// The masks of one column, a byte for four rows: bit 0 of a sample says negative or zero, bit 1
// clamped. A piece writes the bytes whose first row lies in [lo, hi); it meets their rows in order,
// a beat at a time, in general not in step with the bytes.
struct MaskRows {
  std::uint8_t* byte;  // of the rows from row - shift on; of no meaning where there is none
  int width;           // bytes from one byte row to the next
  int mid;             // rows of the image; 0 where the column lies outside
  int lo;
  unsigned owned;  // hi - lo; 0 without a mask
  int row;         // of the next beat
  int shift;       // rows by which a beat's start lies past a byte's start
  unsigned codes;  // of the beat before and this one, 2 bits a sample; read, also the next

  ANIMEDRAG_FN MaskRows(const FirJob& job, std::int64_t plane, int x, int first_row, int lo_, int hi)
      : byte(nullptr), width(job.x.mid), mid(0), lo(lo_), owned(0), row(first_row),
        shift(first_row & (kBeat - 1)), codes(0) {
    if (x < 0 || x >= job.x.mid) return;
    mid = job.y.mid;
    if (!job.mask) return;
    byte = job.mask + plane * mask_plane_bytes(job.x.mid, job.y.mid) + x +
           std::int64_t{1} * ((row - shift) / kBeat) * width;
    owned = static_cast<unsigned>(most(0, hi - lo));
  }

  ANIMEDRAG_FN bool all_valid() const { return row >= 0 && row + kBeat <= mid; }
  ANIMEDRAG_FN bool valid(int position) const {
    return static_cast<unsigned>(row + position) < static_cast<unsigned>(mid);
  }

  // After a beat whose codes were put into bits 8..15.
  ANIMEDRAG_FN void write_byte() {
    if (static_cast<unsigned>(row - shift - lo) < owned)
      *byte = static_cast<std::uint8_t>(codes >> (8 - 2 * shift));
    codes >>= 8;
    row += kBeat;
    byte += width;
  }

  // The last byte of the image where its rows end before it.
  ANIMEDRAG_FN void write_rest() {
    const int first = row - shift;
    if (shift > 0 && row >= mid && first < mid && static_cast<unsigned>(first - lo) < owned)
      *byte = static_cast<std::uint8_t>((codes & 0xffu) >> (8 - 2 * shift));
  }

  // The byte `beats` after that of row - shift; zero outside the image.
  ANIMEDRAG_FN unsigned byte_from(int beats) const {
    const int first = row - shift + beats * kBeat;
    return static_cast<unsigned>(first) < static_cast<unsigned>(mid)
               ? byte[std::int64_t{1} * beats * width]
               : 0u;
  }
  ANIMEDRAG_FN void begin_reading() { codes = byte_from(0) << 8 | byte_from(1) << 16; }
  // The codes of this beat. The byte that is fetched here is for the next one.
  ANIMEDRAG_FN unsigned read_beat() {
    codes = codes >> 8 | byte_from(2) << 16;
    row += kBeat;
    byte += width;
    return codes >> (2 * shift) & 0xffu;
  }
};

// Samples of a beat outside the image are zero; few beats have any.
ANIMEDRAG_FN void keep_valid(float (&v)[kBeat], const MaskRows& mask) {
  if (mask.all_valid()) return;
  ANIMEDRAG_UNROLL
  for (int i = 0; i < kBeat; ++i) v[i] = mask.valid(i) ? v[i] : 0.0f;
}

#if defined(__CUDA_ARCH__)
ANIMEDRAG_FN float with_sign_of(float magnitude, float v) { return copysignf(magnitude, v); }
ANIMEDRAG_FN float size_of(float v) { return fabsf(v); }
#else
ANIMEDRAG_FN float with_sign_of(float magnitude, float v) { return v < 0 ? -magnitude : magnitude; }
ANIMEDRAG_FN float size_of(float v) { return v < 0 ? -v : v; }
#endif

// Forward: leaky ReLU, gain, clamp.
struct Rectify {
  float gain, slope_gain, limit;
  ANIMEDRAG_FN explicit Rectify(const FirJob& job)
      : gain(job.gain), slope_gain(job.slope_gain), limit(job.limit) {}

  ANIMEDRAG_FN void begin(MaskRows&) const {}
  ANIMEDRAG_FN void beat(float (&v)[kBeat], MaskRows& mask) const {
    keep_valid(v, mask);
    ANIMEDRAG_UNROLL
    for (int i = 0; i < kBeat; ++i) {
      const bool positive = v[i] > 0.0f;
      const float full = v[i] * (positive ? gain : slope_gain);
      const bool clamped = size_of(full) > limit;  // not so for NaN, which stays
      v[i] = clamped ? with_sign_of(limit, full) : full;
      if (!positive) mask.codes |= 1u << (8 + 2 * i);
      if (clamped) mask.codes |= 2u << (8 + 2 * i);
    }
    mask.write_byte();
  }
  ANIMEDRAG_FN void end(MaskRows& mask) const { mask.write_rest(); }
};

// Backward: the factor that the forward pass wrote down.
struct FromMask {
  float gain, slope_gain;
  ANIMEDRAG_FN explicit FromMask(const FirJob& job)
      : gain(job.gain), slope_gain(job.slope_gain) {}

  ANIMEDRAG_FN void begin(MaskRows& mask) const { mask.begin_reading(); }
  ANIMEDRAG_FN void beat(float (&v)[kBeat], MaskRows& mask) const {
    keep_valid(v, mask);
    const unsigned codes = mask.read_beat();
    ANIMEDRAG_UNROLL
    for (int i = 0; i < kBeat; ++i) {
      const float factor = codes & (1u << (2 * i)) ? slope_gain : gain;
      v[i] = codes & (2u << (2 * i)) ? 0.0f : v[i] * factor;
    }
  }
  ANIMEDRAG_FN void end(MaskRows&) const {}
};

// ---- along x -----------------------------------------------------------------------------------

// Upsampling along x: input => wide. Lanes are rows, each thread slides along a piece of one.
template <class F, class Cells>
ANIMEDRAG_FN void up_along_x(const FirJob& job, const Place& place, const float* taps, Cells cells, Worker w) {
  const Buffer &from = job.layout.input, &to = job.layout.wide;
  const int steps = to.columns / F::kUp, rows = from.rows * place.planes;
  const int pieces = ceil_div(steps, job.up_piece);
  for (int item = w.thread; item < rows * pieces; item += w.threads) {
    const int index = item % rows, plane = index / from.rows, row = index % from.rows;
    const int begin = item / rows * job.up_piece, end = least(begin + job.up_piece, steps);
    const int source = from.at + plane * from.plane + row * from.row + F::kWindow - 1;
    const int target = to.at + plane * to.plane + row * to.row;
    float window[F::kWindow];
    ANIMEDRAG_UNROLL
    for (int i = 0; i + 1 < F::kWindow; ++i)
      window[i] = cells[source - F::kWindow + 1 + begin + i];
    ANIMEDRAG_UNROLL_BY(6)
    for (int s = begin; s < end; ++s) {
      window[F::kWindow - 1] = cells[source + s];
      ANIMEDRAG_UNROLL
      for (int q = 0; q < F::kUp; ++q) {
        float sum = 0.0f;
        ANIMEDRAG_UNROLL
        for (int m = 0; m < F::kWindow; ++m) sum += taps[F::kUp - 1 - q + F::kUp * m] * window[m];
        cells[target + s * F::kUp + q] = sum;
      }
      ANIMEDRAG_UNROLL
      for (int i = 0; i + 1 < F::kWindow; ++i) window[i] = window[i + 1];
    }
  }
}

// Downsampling along x: middle => result. Lanes are rows.
template <class F, class Cells>
ANIMEDRAG_FN void down_along_x(const FirJob& job, const Place& place, const float* taps, Cells cells,
                               Worker w) {
  constexpr int kKeep = F::kDownTaps - F::kDown;
  const Buffer &from = job.layout.middle, &to = job.layout.result;
  const int height = least(job.y.tile, job.y.out - place.y.out_at);
  const int width = least(job.x.tile, job.x.out - place.x.out_at);
  const int rows = height * place.planes, pieces = ceil_div(width, job.down_piece);
  for (int item = w.thread; item < rows * pieces; item += w.threads) {
    const int index = item % rows, plane = index / height, row = index % height;
    const int begin = item / rows * job.down_piece, end = least(begin + job.down_piece, width);
    const int source = from.at + plane * from.plane + row * from.row + place.x.skip;
    const int target = to.at + plane * to.plane + row * to.row;
    float window[F::kDownTaps];
    ANIMEDRAG_UNROLL
    for (int i = 0; i < kKeep; ++i) window[i] = cells[source + begin * F::kDown + i];
    ANIMEDRAG_UNROLL_BY(6)
    for (int j = begin; j < end; ++j) {
      ANIMEDRAG_UNROLL
      for (int i = 0; i < F::kDown; ++i)
        window[kKeep + i] = cells[source + j * F::kDown + kKeep + i];
      float sum = 0.0f;
      ANIMEDRAG_UNROLL
      for (int k = 0; k < F::kDownTaps; ++k) sum += taps[k] * window[k];
      cells[target + j] = sum;
      ANIMEDRAG_UNROLL
      for (int i = 0; i < kKeep; ++i) window[i] = window[i + F::kDown];
    }
  }
}

// ---- along y -----------------------------------------------------------------------------------

// Outputs of downsampling along y that are not complete yet. The first sample of a beat is the
// one that output 0 of that beat reads at tap -Delta.
template <class F, int Delta>
struct Pending {
  static constexpr int kEarlier = (Delta + F::kDownTaps - 1) / F::kDown;
  static constexpr int kSums = kEarlier + F::kOut;
  float sums[kSums];

  ANIMEDRAG_FN Pending() {
    ANIMEDRAG_UNROLL
    for (int i = 0; i < kSums; ++i) sums[i] = 0.0f;
  }
  // Adds a beat; sums[0 .. kOut) are complete then, until `advance`.
  ANIMEDRAG_FN void add(const float (&v)[kBeat], const float* taps) {
    ANIMEDRAG_UNROLL
    for (int i = 0; i < kBeat; ++i) {
      ANIMEDRAG_UNROLL
      for (int o = 0; o < kSums; ++o) {
        const int k = i - Delta - (o - kEarlier) * F::kDown;
        if (k >= 0 && k < F::kDownTaps) sums[o] += taps[k] * v[i];
      }
    }
  }
  ANIMEDRAG_FN void advance() {
    ANIMEDRAG_UNROLL
    for (int i = 0; i < kEarlier; ++i) sums[i] = sums[i + F::kOut];
    ANIMEDRAG_UNROLL
    for (int i = kEarlier; i < kSums; ++i) sums[i] = 0.0f;
  }
};

// The outputs along y that a piece of a column makes, counted from the tile's first upsampled
// sample: `hidden` of them lie before the tile's first one and are not stored.
struct Piece {
  int hidden, begin, end;  // outputs, hidden ones included
  int beat, beats;         // of upsampled samples
  int lo, hi;              // upsampled rows whose masks it writes
};

template <class F, int Delta>
ANIMEDRAG_FN Piece piece_of(const FirJob& job, const Place& place, int index) {
  constexpr int kEarlier = Pending<F, Delta>::kEarlier;
  Piece p;
  p.hidden = place.y.skip / F::kDown;
  const int height = least(job.y.tile, job.y.out - place.y.out_at) + p.hidden;
  p.begin = index * job.middle_piece;
  p.end = least(p.begin + job.middle_piece, height);
  p.beat = p.begin / F::kOut;
  p.beats = ceil_div(p.end - p.begin + kEarlier, F::kOut);
  const int first = place.y.out_at + most(0, p.begin - p.hidden);
  const Range own = owned_mid(job.y, first, place.y.out_at + most(0, p.end - p.hidden));
  p.lo = own.begin;
  p.hi = own.end;
  return p;
}

ANIMEDRAG_FN int middle_pieces(const FirJob& job) {
  return ceil_div(job.y.tile + (job.y.up - 1) / job.y.down, job.middle_piece);
}

// Upsampling, activation and downsampling along y: wide => middle. Lanes are columns.
template <class F, class Activate, int Delta, class Cells>
ANIMEDRAG_FN void through_y(const FirJob& job, const Place& place, const float* up_taps,
                            const float* down_taps, Cells cells, Worker w) {
  const Buffer &from = job.layout.wide, &to = job.layout.middle;
  const int columns = from.columns * place.planes, pieces = middle_pieces(job);
  const Range own_x = owned_mid(job.x, place.x.out_at, place.x.out_at + job.x.tile);
  const Activate activate(job);
  for (int item = w.thread; item < columns * pieces; item += w.threads) {
    const int index = item % columns, plane = index / from.columns, column = index % from.columns;
    const Piece piece = piece_of<F, Delta>(job, place, item / columns);
    const int channel = place.channel + plane, x = place.x.mid_at + column;
    if (piece.begin >= piece.end) continue;
    const bool own = job.activation == Activation::kFromMask || (x >= own_x.begin && x < own_x.end);
    MaskRows mask(job, std::int64_t{1} * place.sample * job.channels + channel, x,
                  place.y.mid_at + piece.beat * kBeat, piece.lo, own ? piece.hi : piece.lo);
    int source = from.at + plane * from.plane + piece.beat * F::kIn * from.row + column;
    int output = piece.begin - Pending<F, Delta>::kEarlier;  // that sums[0] belongs to
    const int first = most(piece.begin, piece.hidden);
    int target = to.at + plane * to.plane + column + (output - piece.hidden) * to.row;
    float window[F::kWindow - 1 + F::kIn];
    ANIMEDRAG_UNROLL
    for (int i = 0; i + 1 < F::kWindow; ++i, source += from.row) window[i] = cells[source];
    Pending<F, Delta> pending;
    activate.begin(mask);
    ANIMEDRAG_UNROLL_BY(3)
    for (int beat = 0; beat < piece.beats; ++beat) {
      ANIMEDRAG_UNROLL
      for (int i = 0; i < F::kIn; ++i, source += from.row)
        window[F::kWindow - 1 + i] = cells[source];
      float v[kBeat];
      ANIMEDRAG_UNROLL
      for (int i = 0; i < kBeat; ++i) {
        float sum = 0.0f;
        ANIMEDRAG_UNROLL
        for (int m = 0; m < F::kWindow; ++m)
          sum += up_taps[F::kUp - 1 - i % F::kUp + F::kUp * m] * window[i / F::kUp + m];
        v[i] = sum;
      }
      ANIMEDRAG_UNROLL
      for (int i = 0; i + 1 < F::kWindow; ++i) window[i] = window[i + F::kIn];
      activate.beat(v, mask);
      pending.add(v, down_taps);
      ANIMEDRAG_UNROLL
      for (int o = 0; o < F::kOut; ++o, ++output, target += to.row)
        if (output >= first && output < piece.end) cells[target] = pending.sums[o];
      pending.advance();
    }
    activate.end(mask);
  }
}

// ---- radial filters ----------------------------------------------------------------------------

// Upsampling along y and activation: wide => middle, from the first sample that an output reads,
// each row split by phase of the downsampling along x. Lanes are columns.
template <class F, class Activate, class Cells>
ANIMEDRAG_FN void up_along_y(const FirJob& job, const Place& place, const float* taps, Cells cells,
                             Worker w) {
  const Buffer &from = job.layout.wide, &to = job.layout.middle;
  const int columns = from.columns * place.planes, all = to.rows / kBeat;
  const int pieces = ceil_div(all, job.middle_piece);
  const Range own_x = owned_mid(job.x, place.x.out_at, place.x.out_at + job.x.tile);
  const Range own_y = owned_mid(job.y, place.y.out_at, place.y.out_at + job.y.tile);
  const Activate activate(job);
  const bool reads = job.activation == Activation::kFromMask;
  for (int item = w.thread; item < columns * pieces; item += w.threads) {
    const int index = item % columns, plane = index / from.columns, column = index % from.columns;
    const int channel = place.channel + plane, x = place.x.mid_at + column;
    const int stored = item / columns * job.middle_piece, end = least(stored + job.middle_piece, all);
    // One beat more in front, where it completes a byte of the mask that is begun there.
    const int begin = job.mask && !reads ? most(0, stored - 1) : stored;
    const int first_row = place.y.mid_at + stored * kBeat, next_row = place.y.mid_at + end * kBeat;
    const int lo = most(own_y.begin, stored ? first_row - kBeat + 1 : own_y.begin);
    const int hi = end < all ? least(own_y.end, next_row - kBeat + 1) : own_y.end;
    const bool own = reads || (x >= own_x.begin && x < own_x.end);
    MaskRows mask(job, std::int64_t{1} * place.sample * job.channels + channel, x,
                  place.y.mid_at + begin * kBeat, lo, own ? hi : lo);
    const int read = column - place.x.skip;  // from the first one that an output reads
    const int target = to.at + plane * to.plane + floor_mod(read, F::kDown) * job.layout.split +
                       floor_div(read, F::kDown);
    int source = from.at + plane * from.plane + begin * F::kIn * from.row + column;
    float window[F::kWindow - 1 + F::kIn];
    ANIMEDRAG_UNROLL
    for (int i = 0; i + 1 < F::kWindow; ++i, source += from.row) window[i] = cells[source];
    activate.begin(mask);
    ANIMEDRAG_UNROLL_BY(3)
    for (int beat = begin; beat < end; ++beat) {
      ANIMEDRAG_UNROLL
      for (int i = 0; i < F::kIn; ++i, source += from.row)
        window[F::kWindow - 1 + i] = cells[source];
      float v[kBeat];
      ANIMEDRAG_UNROLL
      for (int i = 0; i < kBeat; ++i) {
        float sum = 0.0f;
        ANIMEDRAG_UNROLL
        for (int m = 0; m < F::kWindow; ++m)
          sum += taps[F::kUp - 1 - i % F::kUp + F::kUp * m] * window[i / F::kUp + m];
        v[i] = sum;
      }
      ANIMEDRAG_UNROLL
      for (int i = 0; i + 1 < F::kWindow; ++i) window[i] = window[i + F::kIn];
      activate.beat(v, mask);
      if (beat < stored || read < 0) continue;
      ANIMEDRAG_UNROLL
      for (int i = 0; i < kBeat; ++i) {
        const int row = beat * kBeat + i - place.y.skip;
        if (row >= 0) cells[target + row * to.row] = v[i];
      }
    }
    activate.end(mask);
  }
}

// Downsampling by a two-dimensional filter: middle => result. Lanes are columns; a thread slides
// along y, so that each cell is read once for all the outputs above one another.
template <class F, class Cells>
ANIMEDRAG_FN void down_radial(const FirJob& job, const Place& place, const float* taps, Cells cells,
                              Worker w) {
  static_assert(F::kDownTaps % F::kDown == 0);  // so that the last round reads what is there
  constexpr int kEarlier = (F::kDownTaps - 1) / F::kDown, kSums = kEarlier + 1;
  const Buffer &from = job.layout.middle, &to = job.layout.result;
  const int height = least(job.y.tile, job.y.out - place.y.out_at);
  const int width = least(job.x.tile, job.x.out - place.x.out_at);
  const int columns = width * place.planes, pieces = ceil_div(height, job.down_piece);
  for (int item = w.thread; item < columns * pieces; item += w.threads) {
    const int index = item % columns, plane = index / width, column = index % width;
    const int begin = item / columns * job.down_piece, end = least(begin + job.down_piece, height);
    int source = from.at + plane * from.plane + begin * F::kDown * from.row + column;
    const int target = to.at + plane * to.plane + column;
    float sums[kSums];
    ANIMEDRAG_UNROLL
    for (int i = 0; i < kSums; ++i) sums[i] = 0.0f;
    for (int j = begin - kEarlier; j < end; ++j) {
      ANIMEDRAG_UNROLL
      for (int r = 0; r < F::kDown; ++r, source += from.row) {
        ANIMEDRAG_UNROLL
        for (int k = 0; k < F::kDownTaps; ++k) {
          const float v = cells[source + (k % F::kDown) * job.layout.split + k / F::kDown];
          ANIMEDRAG_UNROLL
          for (int o = 0; o < kSums; ++o) {
            const int row = r - (o - kEarlier) * F::kDown;
            if (row >= 0 && row < F::kDownTaps) sums[o] += taps[row * F::kDownTaps + k] * v;
          }
        }
      }
      if (j >= begin) cells[target + j * to.row] = sums[0];
      ANIMEDRAG_UNROLL
      for (int i = 0; i + 1 < kSums; ++i) sums[i] = sums[i + 1];
      sums[kSums - 1] = 0.0f;
    }
  }
}

// Upsampling by a two-dimensional filter, activation, downsampling along y: input => middle.
// Lanes are windows of inputs; a thread makes all the columns of its window.
template <class F, class Activate, int Delta, class Cells>
ANIMEDRAG_FN void through_y_radial(const FirJob& job, const Place& place, const float* up_taps,
                                   const float* down_taps, Cells cells, Worker w) {
  const Buffer &from = job.layout.input, &to = job.layout.middle;
  const int windows = to.columns / F::kUp;
  const int columns = windows * place.planes, pieces = middle_pieces(job);
  const Activate activate(job);
  for (int item = w.thread; item < columns * pieces; item += w.threads) {
    const int index = item % columns, plane = index / windows, column = index % windows;
    const Piece piece = piece_of<F, Delta>(job, place, item / columns);
    const int channel = place.channel + plane, x = place.x.mid_at + column * F::kUp;
    if (piece.begin >= piece.end) continue;
    const std::int64_t image = std::int64_t{1} * place.sample * job.channels + channel;
    const int first_row = place.y.mid_at + piece.beat * kBeat;
    int source = from.at + plane * from.plane + piece.beat * F::kIn * from.row + column;
    int output = piece.begin - Pending<F, Delta>::kEarlier;
    const int first = most(piece.begin, piece.hidden);
    int target = to.at + plane * to.plane + column * F::kUp + (output - piece.hidden) * to.row;
    static_assert(F::kUp == 2);  // two columns a thread, by name: arrays of masks would be spilled
    MaskRows mask_0(job, image, x, first_row, piece.lo, piece.hi);
    MaskRows mask_1(job, image, x + 1, first_row, piece.lo, piece.hi);
    activate.begin(mask_0);
    activate.begin(mask_1);
    Pending<F, Delta> pending_0, pending_1;
    // Samples of the rows that the window has reached: sums[s] is complete after one row more.
    float sums[F::kWindow][F::kUp][F::kUp];
    ANIMEDRAG_UNROLL
    for (int s = 0; s < F::kWindow; ++s) {
      ANIMEDRAG_UNROLL
      for (int q = 0; q < F::kUp; ++q) {
        ANIMEDRAG_UNROLL
        for (int p = 0; p < F::kUp; ++p) sums[s][q][p] = 0.0f;
      }
    }
    float v_0[kBeat] = {}, v_1[kBeat] = {};
    // One copy of the row's products in the code, the first rows' included: with several, the
    // compiler keeps all the taps in registers to share them.
    ANIMEDRAG_UNROLL_BY(1)
    for (int row = 1 - F::kWindow; row < piece.beats * F::kIn; ++row, source += from.row) {
      ANIMEDRAG_UNROLL
      for (int n = 0; n < F::kWindow; ++n) {
        const float value = cells[source + n];
        ANIMEDRAG_UNROLL
        for (int s = 0; s < F::kWindow; ++s) {  // this row is input F::kWindow - 1 - s of step s
          ANIMEDRAG_UNROLL
          for (int q = 0; q < F::kUp; ++q) {
            const int tap_row = F::kUp - 1 - q + F::kUp * (F::kWindow - 1 - s);
            ANIMEDRAG_UNROLL
            for (int p = 0; p < F::kUp; ++p) {
              const int tap = tap_row * F::kUpTaps + F::kUp - 1 - p + F::kUp * n;
              sums[s][q][p] += up_taps[tap] * value;
            }
          }
        }
      }
      // The step that this row completes joins the beat; the others move up.
      ANIMEDRAG_UNROLL
      for (int i = 0; i + F::kUp < kBeat; ++i) {
        v_0[i] = v_0[i + F::kUp];
        v_1[i] = v_1[i + F::kUp];
      }
      ANIMEDRAG_UNROLL
      for (int q = 0; q < F::kUp; ++q) {
        v_0[kBeat - F::kUp + q] = sums[0][q][0];
        v_1[kBeat - F::kUp + q] = sums[0][q][1];
        ANIMEDRAG_UNROLL
        for (int p = 0; p < F::kUp; ++p) {
          ANIMEDRAG_UNROLL
          for (int s = 0; s + 1 < F::kWindow; ++s) sums[s][q][p] = sums[s + 1][q][p];
          sums[F::kWindow - 1][q][p] = 0.0f;
        }
      }
      if (row < 0 || (row + 1) % F::kIn != 0) continue;
      activate.beat(v_0, mask_0);
      activate.beat(v_1, mask_1);
      pending_0.add(v_0, down_taps);
      pending_1.add(v_1, down_taps);
      ANIMEDRAG_UNROLL
      for (int o = 0; o < F::kOut; ++o, ++output, target += to.row)
        if (output >= first && output < piece.end) {
          cells[target] = pending_0.sums[o];
          cells[target + 1] = pending_1.sums[o];
        }
      pending_0.advance();
      pending_1.advance();
    }
    activate.end(mask_0);
    activate.end(mask_1);
  }
}

}  // namespace animedrag
