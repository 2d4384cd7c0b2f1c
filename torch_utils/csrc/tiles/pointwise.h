// Bias, leaky ReLU, gain and clamp, and their gradient: several values a thread, 16 bytes at once.

#pragma once

#include "portable.h"

namespace animedrag {

// x as a line of values in memory order, a sample after another; the bias of value i of a sample is
// bias[(i / run) % channels]: run is the size of an image where channels lie one after another, 1
// where they are side by side.
struct PointwiseJob {
  const void* x;     // forward: x; backward: dy
  const void* y;     // backward: the forward pass's output
  const void* bias;  // or null
  void* out;
  int samples, channels, run;
  std::int64_t sample_values;  // of one sample, below 2^31
  Divisor by_run, by_channels;
  double gain, slope_gain, limit;
};

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// Arithmetic of images of T.
template <class T>
struct RealOf {
  using type = float;
};
template <>
struct RealOf<double> {
  using type = double;
};

template <class T>
struct Rectifier {
  using Real = typename RealOf<T>::type;
  Real gain, slope_gain, limit;
  // The limit as T holds it: an output that was clamped is told by being equal to it.
  ANIMEDRAG_FN explicit Rectifier(const PointwiseJob& job)
      : gain(static_cast<Real>(job.gain)), slope_gain(static_cast<Real>(job.slope_gain)) {
    T rounded;
    narrow(static_cast<Real>(job.limit), rounded);
    limit = widen(rounded);
  }
  ANIMEDRAG_FN Real value(Real u) const {
    const Real v = u * (u > 0 ? gain : slope_gain);
    return v > limit ? limit : v < -limit ? -limit : v;
  }
  // The derivative, told from the output: gain and slope are positive, so signs agree.
  ANIMEDRAG_FN Real factor(Real y) const {
    return y < limit && y > -limit ? (y > 0 ? gain : slope_gain) : static_cast<Real>(0);
  }
};

ANIMEDRAG_FN std::uint32_t channel_of(const PointwiseJob& job, std::uint32_t i) {
  const std::uint32_t run = job.by_run(i);
  return run - job.by_channels(run) * job.channels;
}

// Values [N * item, N * item + N) of a sample.
template <class T, int N>
ANIMEDRAG_FN void forward_pack(const PointwiseJob& job, int sample, std::uint32_t item) {
  using Real = typename RealOf<T>::type;
  const Rectifier<T> rectify(job);
  const std::uint32_t at = item * N, values = static_cast<std::uint32_t>(job.sample_values);
  if (at >= values) return;
  const T* x = static_cast<const T*>(job.x) + sample * job.sample_values;
  T* out = static_cast<T*>(job.out) + sample * job.sample_values;
  const T* bias = static_cast<const T*>(job.bias);
  const auto offset = [&](std::uint32_t channel) {
    return bias ? static_cast<Real>(widen(bias[channel])) : static_cast<Real>(0);
  };
  // Most packs lie within one channel, or hold channels side by side: one look-up then.
  const bool one = job.run % N == 0, row = job.run == 1 && job.channels % N == 0;
  if (at + N > values || !(one || row)) {
    for (std::uint32_t i = at; i < at + N && i < values; ++i)
      narrow(rectify.value(widen(x[i]) + offset(channel_of(job, i))), out[i]);
    return;
  }
  const auto in = *reinterpret_cast<const Pack<T, N>*>(x + at);
  const std::uint32_t first = channel_of(job, at), step = row ? 1 : 0;
  Pack<T, N> result;
  ANIMEDRAG_UNROLL
  for (int i = 0; i < N; ++i)
    narrow(rectify.value(widen(in.values[i]) + offset(first + i * step)), result.values[i]);
  *reinterpret_cast<Pack<T, N>*>(out + at) = result;
}

// One pack of the gradient; adds dx to `sums`.
template <class T, int N>
ANIMEDRAG_FN void backward_pack(const PointwiseJob& job, const Rectifier<T>& rectify,
                                std::int64_t at, typename RealOf<T>::type (&sums)[N]) {
  using Real = typename RealOf<T>::type;
  const auto dy = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(job.x) + at);
  const auto y = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(job.y) + at);
  Pack<T, N> result;
  ANIMEDRAG_UNROLL
  for (int i = 0; i < N; ++i) {
    const Real value = widen(dy.values[i]) * rectify.factor(widen(y.values[i]));
    sums[i] += value;
    narrow(value, result.values[i]);
  }
  *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(job.out) + at) = result;
}

// Channels one after another: slice `slice` of `slices` of one image, packs dealt out in turn.
// Returns this thread's part of the sum of dx. N divides run.
template <class T, int N>
ANIMEDRAG_FN typename RealOf<T>::type backward_image(const PointwiseJob& job, int sample, int channel,
                                                     int slice, int slices, int thread, int threads) {
  using Real = typename RealOf<T>::type;
  const Rectifier<T> rectify(job);
  const std::int64_t base = sample * job.sample_values + std::int64_t{1} * channel * job.run;
  const int packs = job.run / N, each = ceil_div(packs, slices);
  const int end = least(packs, (slice + 1) * each);
  Real sums[N] = {};
  for (int pack = slice * each + thread; pack < end; pack += threads)
    backward_pack<T, N>(job, rectify, base + std::int64_t{1} * pack * N, sums);
  Real total = 0;
  ANIMEDRAG_UNROLL
  for (int i = 0; i < N; ++i) total += sums[i];
  return total;
}

// Channels side by side: N channels from `channel` on, every `step`-th pixel from `pixel` to `end`.
template <class T, int N>
ANIMEDRAG_FN void backward_channels(const PointwiseJob& job, int channel, std::int64_t pixel,
                                    std::int64_t end, int step,
                                    typename RealOf<T>::type (&sums)[N]) {
  const Rectifier<T> rectify(job);
  for (; pixel < end; pixel += step)
    backward_pack<T, N>(job, rectify, pixel * job.channels + channel, sums);
}

}  // namespace animedrag
