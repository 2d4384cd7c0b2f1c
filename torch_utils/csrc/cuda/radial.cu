// filtered_lrelu with a radial filter on one side: StyleGAN3-R.

#include "specialised.cuh"

namespace animedrag {

cudaError_t launch_radial(const FirJob& job, int kernel, const float* up_taps,
                          const float* down_taps, cudaStream_t stream) {
  switch (kernel) {
    case 3: return launch_any<3>(job, up_taps, down_taps, stream);
    case 4: return launch_any<4>(job, up_taps, down_taps, stream);
    case 5: return launch_any<5>(job, up_taps, down_taps, stream);
    case 6: return launch_any<6>(job, up_taps, down_taps, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace animedrag
