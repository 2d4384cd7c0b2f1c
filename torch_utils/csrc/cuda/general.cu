// The general kernel: any factors, any taps, every type.

#include <algorithm>

#include "block.cuh"
#include "launch.h"

namespace animedrag {
namespace {

// Taps are the arguments' unless they were too many for that.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads, 3)
    general_kernel(const __grid_constant__ GeneralJob<Real> job,
                   const __grid_constant__ GeneralTaps<Real> taps, int ups, const Real* many_ups,
                   const Real* many_downs) {
  DeviceBlock block{static_cast<int>(blockIdx.x)};
  run_general_tile<T, Real>(job, many_ups ? many_ups : taps.values,
                            many_downs ? many_downs : taps.values + ups, block,
                            reinterpret_cast<Real*>(shared_bytes));
}

template <class T, class Real>
cudaError_t launch(const GeneralJob<Real>& job, const TapsView<Real>& view, cudaStream_t stream) {
  GeneralTaps<Real> taps{};
  static_assert(sizeof(job) + sizeof(taps) + 64 <= 4096);  // what every CUDA version allows
  if (!view.on_device) {
    if (view.ups + view.downs > GeneralTaps<Real>::kMost) return cudaErrorInvalidValue;
    std::copy(view.up, view.up + view.ups, taps.values);
    std::copy(view.down, view.down + view.downs, taps.values + view.ups);
  }
  const int bytes = job.fir.layout.cells * static_cast<int>(sizeof(Real));
  const cudaError_t allowed = allow_shared(general_kernel<T, Real>, bytes);
  if (allowed != cudaSuccess) return allowed;
  general_kernel<T, Real><<<blocks_of(job.fir), kThreads, bytes, stream>>>(
      job, taps, view.ups, view.on_device ? view.up : nullptr,
      view.on_device ? view.down : nullptr);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_general(const GeneralJob<float>& job, const TapsView<float>& taps,
                           cudaStream_t stream) {
  switch (job.fir.element) {
    case Element::kHalf: return launch<Half>(job, taps, stream);
    case Element::kBfloat: return launch<Bfloat>(job, taps, stream);
    default: return launch<float>(job, taps, stream);
  }
}

cudaError_t launch_general(const GeneralJob<double>& job, const TapsView<double>& taps,
                           cudaStream_t stream) {
  return launch<double>(job, taps, stream);
}

}  // namespace animedrag
