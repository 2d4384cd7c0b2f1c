// filtered_lrelu with two separable filters: StyleGAN3-T.

#include "specialised.cuh"

namespace animedrag {

cudaError_t launch_radial(const FirJob&, int, const float*, const float*, cudaStream_t);

cudaError_t launch_specialised(const FirJob& job, int kernel, const float* up_taps,
                               const float* down_taps, cudaStream_t stream) {
  switch (kernel) {
    case 0: return launch_any<0>(job, up_taps, down_taps, stream);
    case 1: return launch_any<1>(job, up_taps, down_taps, stream);
    case 2: return launch_any<2>(job, up_taps, down_taps, stream);
    default: return launch_radial(job, kernel, up_taps, down_taps, stream);
  }
}

}  // namespace animedrag
