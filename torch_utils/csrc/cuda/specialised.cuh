// The kernel of one case: its taps are arguments, so that products read them from the constant
// bank of the launch and several streams or graphs never share a table.

#pragma once

#include <algorithm>

#include "block.cuh"
#include "launch.h"

namespace animedrag {

template <int Index>
struct CaseOf {
  static constexpr Case k = kCases[Index];
  static constexpr bool kUpSquare = k.shape == Shape::kRadialUp;
  static constexpr bool kDownSquare = k.shape == Shape::kRadialDown;
  static constexpr int kUpCount = kUpSquare ? k.up_taps * k.up_taps : k.up_taps;
  static constexpr int kDownCount = kDownSquare ? k.down_taps * k.down_taps : k.down_taps;
  using F = Filters<k.up, k.up_taps, k.down, k.down_taps>;
  using T = Taps<kUpCount, kDownCount>;
};

// What every CUDA version allows a kernel's arguments to take.
constexpr int kArgumentBytes = 4096;

template <int Index, class Activate>
__global__ void __launch_bounds__(kThreads, 2)
    fir_kernel(const __grid_constant__ FirJob job,
               const __grid_constant__ typename CaseOf<Index>::T taps) {
  DeviceBlock block{static_cast<int>(blockIdx.x)};
  run_tile<CaseOf<Index>::k.shape, typename CaseOf<Index>::F, Activate>(
      job, taps.up, taps.down, block, reinterpret_cast<float*>(shared_bytes));
}

template <int Index, class Activate>
cudaError_t launch_case(const FirJob& job, const float* up_taps, const float* down_taps,
                        cudaStream_t stream) {
  typename CaseOf<Index>::T taps;
  static_assert(sizeof(job) + sizeof(taps) <= kArgumentBytes);
  std::copy(up_taps, up_taps + CaseOf<Index>::kUpCount, taps.up);
  std::copy(down_taps, down_taps + CaseOf<Index>::kDownCount, taps.down);
  const int bytes = job.layout.cells * 4;
  const cudaError_t allowed = allow_shared(fir_kernel<Index, Activate>, bytes);
  if (allowed != cudaSuccess) return allowed;
  fir_kernel<Index, Activate><<<blocks_of(job), kThreads, bytes, stream>>>(job, taps);
  return cudaGetLastError();
}

template <int Index>
cudaError_t launch_any(const FirJob& job, const float* up_taps, const float* down_taps,
                       cudaStream_t stream) {
  if (job.activation == Activation::kFromMask)
    return launch_case<Index, FromMask>(job, up_taps, down_taps, stream);
  if constexpr (runs_forward(kCases[Index]))
    return launch_case<Index, Rectify>(job, up_taps, down_taps, stream);
  return cudaErrorInvalidValue;
}

}  // namespace animedrag
