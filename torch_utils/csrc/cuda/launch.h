// What the operators ask of the CUDA kernels. Free of torch, so that nvcc compiles little.

#pragma once

#include <cuda_runtime_api.h>

#include "../tiles/general.h"
#include "../tiles/plan.h"
#include "../tiles/pointwise.h"
#include "../tiles/stream.h"

namespace animedrag {

// A specialised kernel (job, its index in kCases); taps are the kernel's own number, padded with
// zeros, on the host: they travel as kernel arguments.
cudaError_t launch_specialised(const FirJob& job, int kernel, const float* up_taps,
                               const float* down_taps, cudaStream_t stream);

// The general kernel. Taps on the host travel as arguments, at most GeneralTaps::kMost of them.
template <class Real>
struct TapsView {
  const Real *up, *down;
  int ups, downs;
  bool on_device;
};
cudaError_t launch_general(const GeneralJob<float>& job, const TapsView<float>& taps,
                           cudaStream_t stream);
cudaError_t launch_general(const GeneralJob<double>& job, const TapsView<double>& taps,
                           cudaStream_t stream);

// A short separable filter; taps (at most kStreamTaps) on the host.
cudaError_t launch_stream(const StreamJob& job, const StreamCase& kernel, Element element,
                          const float* taps, cudaStream_t stream);

// `packed`: pointers are aligned to 16 bytes and 16 bytes' worth of values divides what a sample
// holds (forward), an image or, side by side, the channels (backward).
cudaError_t launch_bias_lrelu(const PointwiseJob& job, Element element, bool packed,
                              cudaStream_t stream);

// `partial`: [pieces][channels] sums of dx in float (double for kDouble), added up by the caller.
// Where channels lie one after another, samples divides pieces.
cudaError_t launch_lrelu_backward(const PointwiseJob& job, Element element, bool packed, int pieces,
                                  void* partial, cudaStream_t stream);

}  // namespace animedrag
