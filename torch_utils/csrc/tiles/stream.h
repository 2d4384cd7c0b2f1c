// One short separable filter with up- or downsampling, straight from image to image.
//
// A thread owns one column of outputs (or the `Up` columns of one step) and slides down the rows,
// its window of filtered rows in registers; neighbouring threads' reads overlap in the first-level
// cache. No shared memory: such filters only wait for memory, and this keeps many reads in flight.

#pragma once

#include "geometry.h"
#include "images.h"

namespace animedrag {

// out[j] = sum_k taps[k] * z[down * j + k + offset], z: the image with zeros put in between.
struct StreamAxis {
  int in, out;
  int offset;
  int in_begin, in_end;    // inputs outside count as zero
  int out_begin, out_end;  // outputs outside are zero
};

struct StreamJob {
  StreamAxis x, y;
  Image source, target;
  int samples, channels;
  bool channels_last;  // neighbouring threads are neighbouring channels
  bool pairs;          // two neighbouring outputs may be written at once
  int columns;         // threads along a row
  int piece, pieces;   // steps of a thread along y, and threads along y
  Divisor by_columns, by_channels;
};

// Shift: the phase of an even output, so that steps along x can begin at even outputs and pairs
// are aligned, whatever the filter's own phase.
template <int Up, int Down, int TapCount, int Shift>
struct Stream {
  static_assert(Up == 1 || Down == 1);
  static_assert(TapCount % Up == 0 && TapCount >= Down && Shift < Up);
  static constexpr int kUp = Up, kDown = Down, kTaps = TapCount, kShift = Shift;
  static constexpr int kWindow = TapCount / Up;           // inputs of an output
  static constexpr int kReads = kWindow + (Shift > 0);    // inputs of a step along x
  static constexpr int kAdvance = Up == 1 ? Down : 1;     // inputs from step to step
  static constexpr int kKeep = kWindow - kAdvance;        // rows that the next step needs again
};

// The phase of output 0.
ANIMEDRAG_FN int stream_shift(const StreamAxis& a, int up) { return floor_mod(a.offset + up - 1, up); }

// Along y steps begin where the phases do, up to up - 1 outputs before the first.
ANIMEDRAG_FN int stream_steps(const StreamAxis& y, int up) {
  return ceil_div(y.out + stream_shift(y, up), up);
}
// The first input of the step that holds output 0.
ANIMEDRAG_FN int stream_input(const StreamAxis& a, int up) {
  return floor_div(a.offset + up - 1 - stream_shift(a, up), up);  // exact
}

// Filters that this way is compiled for: StyleGAN2's, and the wavelets of the augmentations.
struct StreamCase {
  int up, down, taps;
};
constexpr StreamCase kStreamCases[] = {{2, 1, 4}, {1, 2, 4}, {1, 1, 4}, {2, 1, 12}, {1, 2, 12}};
constexpr int kStreamTaps = 12;

template <class T>
ANIMEDRAG_FN void write_pair(T* at, float first, float second) {
  struct alignas(2 * sizeof(T)) Two {
    T a, b;
  } two;
  narrow(first, two.a);
  narrow(second, two.b);
  *reinterpret_cast<Two*>(at) = two;
}

// The work of thread number `item` of blocks * threads.
template <class S, class T>
ANIMEDRAG_FN void stream(const StreamJob& job, const float* taps, std::uint32_t item) {
  // item => (piece, sample, column, channel) or (piece, sample, channel, column)
  std::uint32_t rest, column, channel, sample, piece;
  if (job.channels_last) {
    rest = job.by_channels(item);
    channel = item - rest * job.channels;
    const std::uint32_t next = job.by_columns(rest);
    column = rest - next * job.columns;
    rest = next;
  } else {
    rest = job.by_columns(item);
    column = item - rest * job.columns;
    const std::uint32_t next = job.by_channels(rest);
    channel = rest - next * job.channels;
    rest = next;
  }
  piece = rest / job.samples;
  sample = rest - piece * job.samples;
  if (piece >= static_cast<std::uint32_t>(job.pieces)) return;

  const int first_row = -stream_shift(job.y, S::kUp);
  const int steps = stream_steps(job.y, S::kUp);
  const int begin = static_cast<int>(piece) * job.piece, end = least(begin + job.piece, steps);
  const int left = stream_input(job.x, S::kUp) + S::kAdvance * static_cast<int>(column);
  const T* source = static_cast<const T*>(job.source.at) + plane_offset(job.source, sample, channel);
  T* target = static_cast<T*>(const_cast<void*>(job.target.at)) +
              plane_offset(job.target, sample, channel);

  // Row `index` of the input, filtered along x into the step's columns.
  const auto read_row = [&](int index, float (&row)[S::kUp]) {
    float values[S::kReads];
    const bool in_rows = index >= job.y.in_begin && index < job.y.in_end;
    ANIMEDRAG_UNROLL
    for (int i = 0; i < S::kReads; ++i) {
      const int x = left + i;
      values[i] = in_rows && x >= job.x.in_begin && x < job.x.in_end
                      ? widen(source[std::int64_t{1} * index * job.source.row +
                                     std::int64_t{1} * x * job.source.column])
                      : 0.0f;
    }
    ANIMEDRAG_UNROLL
    for (int q = 0; q < S::kUp; ++q) {
      const int phase = (q + S::kShift) % S::kUp, from = (q + S::kShift) / S::kUp;
      float sum = 0.0f;
      ANIMEDRAG_UNROLL
      for (int m = 0; m < S::kWindow; ++m)
        sum += taps[S::kUp - 1 - phase + S::kUp * m] * values[from + m];
      row[q] = sum;
    }
  };

  float window[S::kWindow][S::kUp];
  int input = stream_input(job.y, S::kUp) + begin * S::kAdvance;
  ANIMEDRAG_UNROLL
  for (int i = 0; i < S::kKeep; ++i) read_row(input++, window[i]);
  const int x0 = static_cast<int>(column) * S::kUp;
  ANIMEDRAG_UNROLL_BY(2)
  for (int step = begin; step < end; ++step) {
    ANIMEDRAG_UNROLL
    for (int i = 0; i < S::kAdvance; ++i) read_row(input++, window[S::kKeep + i]);
    ANIMEDRAG_UNROLL
    for (int q = 0; q < S::kUp; ++q) {
      const int y = first_row + step * S::kUp + q;
      float out[S::kUp];
      ANIMEDRAG_UNROLL
      for (int p = 0; p < S::kUp; ++p) {
        float sum = 0.0f;
        ANIMEDRAG_UNROLL
        for (int m = 0; m < S::kWindow; ++m)
          sum += taps[S::kUp - 1 - q + S::kUp * m] * window[m][p];
        const int x = x0 + p;
        const bool kept = y >= job.y.out_begin && y < job.y.out_end && x >= job.x.out_begin &&
                          x < job.x.out_end;
        out[p] = kept ? sum : 0.0f;
      }
      if (y < 0 || y >= job.y.out) continue;
      T* at = target + std::int64_t{1} * y * job.target.row + std::int64_t{1} * x0 * job.target.column;
      if (S::kUp == 2 && job.pairs && x0 + 1 < job.x.out) {
        write_pair(at, out[0], out[S::kUp - 1]);
      } else {
        ANIMEDRAG_UNROLL
        for (int p = 0; p < S::kUp; ++p)
          if (x0 + p < job.x.out) narrow(out[p], at[std::int64_t{1} * p * job.target.column]);
      }
    }
    ANIMEDRAG_UNROLL
    for (int i = 0; i < S::kKeep; ++i) {
      ANIMEDRAG_UNROLL
      for (int p = 0; p < S::kUp; ++p) window[i][p] = window[i + S::kAdvance][p];
    }
  }
}

}  // namespace animedrag
