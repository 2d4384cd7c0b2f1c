// The work on one image plane, free of torch: what each instruction set is compiled for.
//
// Both filters of a plane are described in one way, as correlations on index lines:
//   upsampled   u[X] = sum_k up_taps[k] * z[X + k - up_start]     z: x with zeros put in between
//   downsampled y[j] = sum_k down_taps[k] * v[down * j + k + down_start]
// with v = activation(u), zero outside [0, mid). Forward passes and gradients of every order are
// the same two sums with other taps and starts, so one implementation serves them all.

#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>

namespace animedrag {

// One axis of the two filters. T is float or double, here and below.
template <typename T>
struct Axis {
  int in, mid, out;          // lengths: input, upsampled, output
  int up, down;              // factors
  int up_start, down_start;  // see above
  const T* up_taps;          // separable taps of this axis; null where the 2-D filter is used
  int up_count;
  const T* down_taps;
  int down_count;
};

// How the upsampled samples are treated.
enum class Activation : int {
  kNone,       // v = u
  kLrelu,      // v = clamp(gain * lrelu(u))
  kLreluMask,  // the same, and write for each sample whether it was negative or clamped
  kFromMask,   // v = u * (0 where clamped, slope * gain where negative, gain elsewhere)
};

template <typename T>
struct PlaneJob {
  Axis<T> x, y;
  const T* up_taps_2d;    // [y.up_count][x.up_count], or null where separable
  const T* down_taps_2d;  // [y.down_count][x.down_count], or null where separable
  Activation activation;
  T bias, gain, slope, clamp;  // clamp < 0: none
};

// A mask holds 2 bits a sample. Each row of each phase is four quarters, a multiple of the longest
// vector, packed into the bits of one byte.
constexpr int kMaskLanes = 16;
inline int mask_quarter(int places) {
  return ((places + 3) / 4 + kMaskLanes - 1) / kMaskLanes * kMaskLanes;
}
// A row of `mid` samples lies in so many phases: sample X in phase X mod L, at place X div L. More of
// them than the factors ask for, where a row is long, since neighbouring phases share what they read.
inline int phases_of(int up, int down, int mid) {
  const int least = std::lcm(up, down);
  return least == 2 && up == down && mid >= 256 ? 4 : least;
}
inline int mask_places(int mid, int period) { return (mid + period - 1) / period; }

template <typename T>
struct Kernels {
  const char* name;
  // Values of scratch that run_plane needs for this job: zeros at first, then left alone, since
  // margins and spare places keep their zeros from one plane to the next.
  std::size_t (*scratch_values)(const PlaneJob<T>& job);
  void (*run_plane)(const PlaneJob<T>& job, const T* x, T* y, std::uint8_t* mask, T* scratch);
  // y = clamp(gain * lrelu(x + bias)) over `count` values.
  void (*lrelu)(const T* x, T bias, T* y, std::size_t count, T gain, T slope, T clamp);
  // dx = dy * derivative, told from the forward's output; returns the sum of dx.
  double (*lrelu_backward)(const T* dy, const T* y, T* dx, std::size_t count, T gain, T slope,
                           T clamp);
  // The transforms of Winograd's 3x3 convolution (winograd.h).
  std::size_t (*tile_scratch)(int tiles);
  void (*tiles_in)(const T* plane, int height, int width, int padding, int tile_row, int tiles,
                   T* out, std::size_t stride, T* scratch);
  void (*tiles_out)(const T* in, std::size_t stride, int tiles, int tile_row, T* plane, int height,
                    int width, T* scratch);
  void (*tiles_out_transposed)(const T* plane, int height, int width, int tile_row, int tiles,
                               T* out, std::size_t stride, T* scratch);
  void (*kernels_in)(const T* kernels, int count, bool turned, T* out, std::size_t stride);
  void (*kernels_out)(const T* in, std::size_t stride, int count, T* kernels);
  // Pixels [begin, end) of an image between float32 planes and bfloat16 with channels last
  // (bfloat16.h).
  void (*pack_bfloat16)(const float* x, std::size_t plane, std::size_t channels, std::size_t begin,
                        std::size_t end, std::uint16_t* y);
  void (*unpack_bfloat16)(const std::uint16_t* y, std::size_t plane, std::size_t channels,
                          std::size_t begin, std::size_t end, float* x);
};

// One per compilation of planes.cpp, each for another instruction set.
extern const Kernels<float> kernels_baseline;
extern const Kernels<float> kernels_avx2;
extern const Kernels<float> kernels_avx512;
// For checking gradients: nothing trains in double.
extern const Kernels<double> kernels_double;

}  // namespace animedrag
