// A block's threads as the tile code wants them: each runs its own part of a phase, then waits.

#pragma once

#include "../tiles/kernels.h"

namespace animedrag {

struct DeviceBlock {
  int index;

  template <class F>
  __device__ __forceinline__ void each(F f) {
    f(Worker{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)});
    __syncthreads();
  }
};

extern __shared__ __align__(16) unsigned char shared_bytes[];

// Beyond 48 KB a kernel must ask for its shared memory. Asked every time: a device keeps the
// answer, and a process may use several devices.
template <class Kernel>
cudaError_t allow_shared(Kernel* kernel, int bytes) {
  if (bytes <= 48 << 10) return cudaSuccess;
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

}  // namespace animedrag
