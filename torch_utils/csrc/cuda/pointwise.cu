// Bias and leaky ReLU, and the gradient with its sum over each channel.

#include "launch.h"

namespace animedrag {
namespace {

constexpr int kMostSamples = 65535;  // of a grid's second dimension

template <class T, int N>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ PointwiseJob job) {
  for (int sample = blockIdx.y; sample < job.samples; sample += gridDim.y)
    forward_pack<T, N>(job, sample, blockIdx.x * blockDim.x + threadIdx.x);
}

template <class Real>
__device__ Real block_sum(Real value) {
  __shared__ Real sums[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(~0u, value, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < kThreads / 32; ++warp) value += sums[warp];
  return value;
}

// A block for a channel (x) and a slice of one sample's image (y).
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    images_kernel(const __grid_constant__ PointwiseJob job, int slices,
                  typename RealOf<T>::type* partial) {
  const int channel = blockIdx.x, sample = blockIdx.y / slices, slice = blockIdx.y % slices;
  const auto sum = block_sum(
      backward_image<T, N>(job, sample, channel, slice, slices, threadIdx.x, kThreads));
  if (threadIdx.x == 0) partial[std::int64_t{1} * blockIdx.y * job.channels + channel] = sum;
}

// 32 packs of channels (x) by kThreads / 32 rows of pixels, over one piece of all pixels (y).
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    channels_kernel(const __grid_constant__ PointwiseJob job, std::int64_t pixels,
                    typename RealOf<T>::type* partial) {
  using Real = typename RealOf<T>::type;
  __shared__ Real sums[kThreads / 32][32 * N];
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32, rows = kThreads / 32;
  const int channel = (blockIdx.x * 32 + lane) * N;
  const std::int64_t each = (pixels + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * each;
  const std::int64_t end = begin + each < pixels ? begin + each : pixels;
  Real mine[N] = {};
  if (channel < job.channels) backward_channels<T, N>(job, channel, begin + row, end, rows, mine);
#pragma unroll
  for (int i = 0; i < N; ++i) sums[row][i * 32 + lane] = mine[i];
  __syncthreads();
  if (row > 0 || channel >= job.channels) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    Real total = 0;
    for (int r = 0; r < rows; ++r) total += sums[r][i * 32 + lane];
    partial[std::int64_t{1} * blockIdx.y * job.channels + channel + i] = total;
  }
}

template <class T, int N>
cudaError_t forward(const PointwiseJob& job, cudaStream_t stream) {
  const auto packs = static_cast<unsigned>((job.sample_values + N - 1) / N);
  const dim3 grid((packs + kThreads - 1) / kThreads, least(job.samples, kMostSamples));
  forward_kernel<T, N><<<grid, kThreads, 0, stream>>>(job);
  return cudaGetLastError();
}

template <class T, int N>
cudaError_t backward(const PointwiseJob& job, int pieces, void* partial, cudaStream_t stream) {
  auto* sums = static_cast<typename RealOf<T>::type*>(partial);
  if (job.run > 1) {
    const dim3 grid(job.channels, pieces);
    images_kernel<T, N><<<grid, kThreads, 0, stream>>>(job, pieces / job.samples, sums);
  } else {
    const std::int64_t pixels = job.samples * job.sample_values / job.channels;
    const dim3 grid(ceil_div(ceil_div(job.channels, N), 32), pieces);
    channels_kernel<T, N><<<grid, kThreads, 0, stream>>>(job, pixels, sums);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_bias_lrelu(const PointwiseJob& job, Element element, bool packed,
                              cudaStream_t stream) {
  switch (element) {
    case Element::kHalf: return packed ? forward<Half, 8>(job, stream) : forward<Half, 1>(job, stream);
    case Element::kBfloat:
      return packed ? forward<Bfloat, 8>(job, stream) : forward<Bfloat, 1>(job, stream);
    case Element::kFloat: return packed ? forward<float, 4>(job, stream) : forward<float, 1>(job, stream);
    default: return packed ? forward<double, 2>(job, stream) : forward<double, 1>(job, stream);
  }
}

cudaError_t launch_lrelu_backward(const PointwiseJob& job, Element element, bool packed, int pieces,
                                  void* partial, cudaStream_t stream) {
  switch (element) {
    case Element::kHalf:
      return packed ? backward<Half, 8>(job, pieces, partial, stream)
                    : backward<Half, 1>(job, pieces, partial, stream);
    case Element::kBfloat:
      return packed ? backward<Bfloat, 8>(job, pieces, partial, stream)
                    : backward<Bfloat, 1>(job, pieces, partial, stream);
    case Element::kFloat:
      return packed ? backward<float, 4>(job, pieces, partial, stream)
                    : backward<float, 1>(job, pieces, partial, stream);
    default:
      return packed ? backward<double, 2>(job, pieces, partial, stream)
                    : backward<double, 1>(job, pieces, partial, stream);
  }
}

}  // namespace animedrag
