// Short separable filters without an activation: StyleGAN2's, and the augmentations' wavelets.

#include <algorithm>

#include "../tiles/stages.h"
#include "launch.h"

namespace animedrag {
namespace {

template <class S, class T>
__global__ void __launch_bounds__(kThreads)
    stream_kernel(const __grid_constant__ StreamJob job, const __grid_constant__ Taps<S::kTaps, 1> taps) {
  stream<S, T>(job, taps.up, blockIdx.x * blockDim.x + threadIdx.x);
}

template <class S, class T>
cudaError_t launch(const StreamJob& job, const float* values, cudaStream_t stream) {
  Taps<S::kTaps, 1> taps{};
  std::copy(values, values + S::kTaps, taps.up);
  const std::int64_t threads = std::int64_t{1} * job.samples * job.channels * job.columns * job.pieces;
  const auto blocks = static_cast<unsigned>((threads + kThreads - 1) / kThreads);
  stream_kernel<S, T><<<blocks, kThreads, 0, stream>>>(job, taps);
  return cudaGetLastError();
}

template <class S>
cudaError_t launch_typed(const StreamJob& job, Element element, const float* taps,
                         cudaStream_t stream) {
  switch (element) {
    case Element::kHalf: return launch<S, Half>(job, taps, stream);
    case Element::kBfloat: return launch<S, Bfloat>(job, taps, stream);
    default: return launch<S, float>(job, taps, stream);
  }
}

template <int Up, int Down, int TapCount>
cudaError_t launch_shifted(const StreamJob& job, Element element, const float* taps,
                           cudaStream_t stream) {
  if constexpr (Up == 2) {
    if (stream_shift(job.x, Up))
      return launch_typed<Stream<Up, Down, TapCount, 1>>(job, element, taps, stream);
  }
  return launch_typed<Stream<Up, Down, TapCount, 0>>(job, element, taps, stream);
}

}  // namespace

cudaError_t launch_stream(const StreamJob& job, const StreamCase& k, Element element,
                          const float* taps, cudaStream_t stream) {
  if (k.up == 2 && k.taps == 4) return launch_shifted<2, 1, 4>(job, element, taps, stream);
  if (k.up == 2 && k.taps == 12) return launch_shifted<2, 1, 12>(job, element, taps, stream);
  if (k.down == 2 && k.taps == 12) return launch_shifted<1, 2, 12>(job, element, taps, stream);
  if (k.down == 2 && k.taps == 4) return launch_shifted<1, 2, 4>(job, element, taps, stream);
  if (k.up == 1 && k.down == 1 && k.taps == 4)
    return launch_shifted<1, 1, 4>(job, element, taps, stream);
  return cudaErrorInvalidValue;
}

}  // namespace animedrag
