// CUDA implementations of the operators: checks, allocation, the choice of kernel. Compiled by the
// C++ compiler; the kernels behind launch.h know nothing of torch.
//
// Everything runs on the current stream and allocates through torch only, so that CUDA graphs
// capture it. Taps come from the host and travel as arguments; only a filter of very many taps is
// copied to the device.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "launch.h"

#ifndef ANIMEDRAG_STAMP
#define ANIMEDRAG_STAMP "unstamped"
#endif

namespace animedrag {
namespace {

using at::IntArrayRef;
using at::Tensor;

void check_launch(cudaError_t error, const char* what) {
  TORCH_CHECK(error == cudaSuccess, what, ": the CUDA kernel could not be launched: ",
              cudaGetErrorString(error));
}

Element element_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return Element::kFloat;
    case at::kHalf: return Element::kHalf;
    case at::kBFloat16: return Element::kBfloat;
    case at::kDouble: return Element::kDouble;
    default: TORCH_CHECK(false, "x must be floating point, not ", x.scalar_type());
  }
}

// What float is to the images of this type: taps and sums.
at::ScalarType real_of(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

const DeviceLimits& limits_of(int device) {
  static std::mutex lock;
  static std::map<int, DeviceLimits> known;
  const std::lock_guard<std::mutex> guard(lock);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  DeviceLimits limits{};
  const auto read = [&](int& value, cudaDeviceAttr attribute) {
    check_launch(cudaDeviceGetAttribute(&value, attribute, device), "the device's limits");
  };
  read(limits.shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  read(limits.shared_per_processor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  read(limits.processors, cudaDevAttrMultiProcessorCount);
  return known.emplace(device, limits).first->second;
}

// ---- arguments ---------------------------------------------------------------------------------

// On the host, in the type of sums. A filter that lies on a device is fetched, which waits for it.
Tensor host_taps(const Tensor& taps, const Tensor& x, const char* name) {
  TORCH_CHECK((taps.dim() == 1 || taps.dim() == 2) && taps.numel() > 0, name,
              " must be a 1-D or 2-D filter");
  return taps.to(at::kCPU, real_of(x)).contiguous();
}

bool channels_last(const Tensor& x) {
  return x.size(1) > 1 && x.stride(1) == 1 && x.stride(3) >= x.size(1);
}

Image image_of(const Tensor& x) {
  for (int64_t d = 2; d < 4; ++d)
    TORCH_CHECK(x.stride(d) < std::numeric_limits<int>::max(), "x is too large");
  return {x.const_data_ptr(), x.stride(0), x.stride(1), static_cast<int>(x.stride(2)),
          static_cast<int>(x.stride(3))};
}

// In x's own memory format, told as the shapes without data (ops/compiled.py) tell it.
Tensor empty_result(const Tensor& x, const Call& call) {
  const bool last = x.is_contiguous(at::MemoryFormat::ChannelsLast) && !x.is_contiguous();
  return at::empty({x.size(0), x.size(1), call.y.out, call.x.out},
                   x.options().memory_format(last ? at::MemoryFormat::ChannelsLast
                                                  : at::MemoryFormat::Contiguous));
}

Tensor channel_bias(const std::optional<Tensor>& bias, const Tensor& x) {
  if (!bias) return Tensor();
  TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(1), "bias must have one value a channel");
  TORCH_CHECK(bias->device() == x.device(), "bias must lie on x's device");
  return bias->to(x.scalar_type()).contiguous();
}

const void* pointer_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

Call call_of(const Tensor& x, const Tensor& up_taps, const Tensor& down_taps, IntArrayRef factors,
             IntArrayRef sizes, IntArrayRef starts, Activation activation) {
  TORCH_CHECK(x.dim() == 4, "x must be NCHW, not of ", x.dim(), " dimensions");
  TORCH_CHECK(factors.size() == 4 && sizes.size() == 4 && starts.size() == 4,
              "factors, sizes and starts hold four numbers each");
  for (const int64_t value : factors)
    TORCH_CHECK(value >= 1 && value <= 64, "factors must lie in [1, 64], not ", value);
  for (const int64_t value : sizes)
    TORCH_CHECK(value >= 1 && value < (1 << 24), "sizes must lie in [1, 2^24), not ", value);
  for (const int64_t value : {x.size(0), x.size(1), x.size(2), x.size(3)})
    TORCH_CHECK(value < (1 << 24), "x's sizes must lie below 2^24");
  const auto axis = [&](int side) {
    const int dimension = side == 0 ? -1 : 0;  // width is a filter's last dimension
    return Axis{static_cast<int>(x.size(3 - side)),
                static_cast<int>(sizes[side]),
                static_cast<int>(sizes[2 + side]),
                static_cast<int>(factors[side]),
                static_cast<int>(factors[2 + side]),
                static_cast<int>(starts[side]),
                static_cast<int>(starts[2 + side]),
                static_cast<int>(up_taps.size(dimension)),
                static_cast<int>(down_taps.size(dimension)),
                0};
  };
  Call call{axis(0), axis(1), up_taps.dim() == 2, down_taps.dim() == 2,
            static_cast<int>(x.size(0)), static_cast<int>(x.size(1)), channels_last(x), activation};
  return call;
}

// ---- two filters -------------------------------------------------------------------------------

// Choosing tiles takes some tens of microseconds, and a network asks for the same few.
Plan remembered_plan(const Call& call, bool in_double, int device) {
  using Key = std::vector<int>;
  static std::mutex lock;
  static std::map<Key, Plan> known;
  Key key{call.up_square, call.down_square, call.samples, call.channels, call.channels_last,
          static_cast<int>(call.activation), in_double, device};
  for (const Axis* a : {&call.x, &call.y})
    key.insert(key.end(), {a->in, a->mid, a->out, a->up, a->down, a->up_start, a->down_start,
                           a->up_count, a->down_count});
  const DeviceLimits& limits = limits_of(device);
  const std::lock_guard<std::mutex> guard(lock);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  if (known.size() > 4096) known.clear();
  return known.emplace(std::move(key), make_plan(call, in_double, limits)).first->second;
}

// Taps [count][count] or [count] in the corner of zeros, `padded` along each side.
std::vector<float> padded_taps(const Tensor& taps, int padded) {
  const int count = static_cast<int>(taps.size(-1)), rows = taps.dim() == 2 ? count : 1;
  std::vector<float> out(taps.dim() == 2 ? padded * padded : padded, 0.0f);
  const float* values = taps.const_data_ptr<float>();
  for (int r = 0; r < rows; ++r)
    std::copy(values + r * count, values + (r + 1) * count, out.begin() + r * padded);
  return out;
}

template <class Real>
void run_general(const FirJob& job, const Call& call, const Tensor& x, const Tensor& up_taps,
                 const Tensor& down_taps, double gain, double slope_gain, double limit,
                 cudaStream_t stream) {
  // Taps too many to be arguments are copied from pageable memory: that is done before `to`
  // returns, but a graph cannot capture it.
  const bool many = up_taps.numel() + down_taps.numel() > GeneralTaps<Real>::kMost;
  const Tensor up = many ? up_taps.to(x.device()) : up_taps;
  const Tensor down = many ? down_taps.to(x.device()) : down_taps;
  const GeneralJob<Real> general{job,
                                 call.up_square,
                                 call.down_square,
                                 static_cast<Real>(gain),
                                 static_cast<Real>(slope_gain),
                                 static_cast<Real>(limit)};
  const TapsView<Real> taps{up.const_data_ptr<Real>(), down.const_data_ptr<Real>(),
                            static_cast<int>(up.numel()), static_cast<int>(down.numel()), many};
  check_launch(launch_general(general, taps, stream), "the general filter kernel");
}

struct Levels {
  double gain, slope_gain, limit;
};

Tensor run_filters(const Tensor& x, const Tensor& bias, const Tensor& mask, const Call& call,
                   const Tensor& up_taps, const Tensor& down_taps, const Levels& levels) {
  const c10::cuda::CUDAGuard guard(x.device());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  Tensor y = empty_result(x, call);
  if (y.numel() == 0) return y;
  const bool in_double = x.scalar_type() == at::kDouble;
  const Plan plan = remembered_plan(call, in_double, x.get_device());
  TORCH_CHECK(plan.fits, "filters of ", call.x.up_count, "x", call.y.up_count, " and ",
              call.x.down_count, "x", call.y.down_count, " taps do not fit in this device's ",
              limits_of(x.get_device()).shared_per_block, " bytes of shared memory");
  FirJob job = job_of(call, plan);
  TORCH_CHECK(std::int64_t{1} * job.samples * ceil_div(job.channels, job.planes) *
                      tiles_of(job.x) * tiles_of(job.y) <
                  std::numeric_limits<int>::max(),
              "x is too large");
  job.source = image_of(x);
  job.target = image_of(y);
  job.element = element_of(x);
  job.bias = pointer_or_null(bias);
  job.mask = const_cast<std::uint8_t*>(static_cast<const std::uint8_t*>(pointer_or_null(mask)));
  job.activation = call.activation;
  job.gain = static_cast<float>(levels.gain);
  job.slope_gain = static_cast<float>(levels.slope_gain);
  job.limit = static_cast<float>(levels.limit);
  if (plan.kernel != kGeneralCase) {
    const Case& k = kCases[plan.kernel];
    check_launch(launch_specialised(job, plan.kernel, padded_taps(up_taps, k.up_taps).data(),
                                    padded_taps(down_taps, k.down_taps).data(), stream),
                 "the filter kernel");
  } else if (in_double) {
    run_general<double>(job, call, x, up_taps, down_taps, levels.gain, levels.slope_gain,
                        levels.limit, stream);
  } else {
    run_general<float>(job, call, x, up_taps, down_taps, levels.gain, levels.slope_gain,
                       levels.limit, stream);
  }
  return y;
}

Levels levels_of(double gain, double slope, double clamp) {
  return {gain, gain * slope, clamp >= 0 ? clamp : std::numeric_limits<double>::infinity()};
}

std::tuple<Tensor, Tensor> filtered_lrelu(const Tensor& x, const std::optional<Tensor>& bias_,
                                          const Tensor& up_taps_, const Tensor& down_taps_,
                                          int64_t up, int64_t down, IntArrayRef sizes,
                                          IntArrayRef starts, double gain, double slope,
                                          double clamp, bool write_mask) {
  const Tensor up_taps = host_taps(up_taps_, x, "up_taps");
  const Tensor down_taps = host_taps(down_taps_, x, "down_taps");
  const Call call = call_of(x, up_taps, down_taps, {up, up, down, down}, sizes, starts,
                            Activation::kLrelu);
  const int64_t bytes = mask_plane_bytes(call.x.mid, call.y.mid);
  // Samples that no output reads stay as they are here: their gradient is zero, whatever they say.
  const bool covered = covers_mid(call.x) && covers_mid(call.y);
  const auto options = x.options().dtype(at::kByte).memory_format(at::MemoryFormat::Contiguous);
  const std::vector<int64_t> shape{write_mask ? x.size(0) : 0, x.size(1), bytes};
  Tensor mask = covered ? at::empty(shape, options) : at::zeros(shape, options);
  Tensor y = run_filters(x, channel_bias(bias_, x), write_mask ? mask : Tensor(), call, up_taps,
                         down_taps, levels_of(gain, slope, clamp));
  return {y, mask};
}

Tensor filtered_lrelu_masked(const Tensor& x, const Tensor& mask, const Tensor& up_taps_,
                             const Tensor& down_taps_, int64_t up, int64_t down, IntArrayRef sizes,
                             IntArrayRef starts, double gain, double slope) {
  const Tensor up_taps = host_taps(up_taps_, x, "up_taps");
  const Tensor down_taps = host_taps(down_taps_, x, "down_taps");
  const Call call = call_of(x, up_taps, down_taps, {up, up, down, down}, sizes, starts,
                            Activation::kFromMask);
  TORCH_CHECK(mask.scalar_type() == at::kByte && mask.is_contiguous() &&
                  mask.device() == x.device() &&
                  mask.numel() == x.size(0) * x.size(1) * mask_plane_bytes(call.x.mid, call.y.mid),
              "the mask does not belong to this call");
  return run_filters(x, Tensor(), mask, call, up_taps, down_taps, levels_of(gain, slope, -1));
}

Tensor resample(const Tensor& x, const Tensor& up_taps_, const Tensor& down_taps_,
                IntArrayRef factors, IntArrayRef sizes, IntArrayRef starts) {
  const Tensor up_taps = host_taps(up_taps_, x, "up_taps");
  const Tensor down_taps = host_taps(down_taps_, x, "down_taps");
  const Call call = call_of(x, up_taps, down_taps, factors, sizes, starts, Activation::kNone);
  const c10::cuda::CUDAGuard guard(x.device());
  StreamPlan plan{};
  if (x.scalar_type() != at::kDouble && x.numel() > 0)
    plan = plan_stream(call, limits_of(x.get_device()));
  if (!plan.fits)
    return run_filters(x, Tensor(), Tensor(), call, up_taps, down_taps, {1, 1, 1});
  float taps[kStreamTaps];
  stream_taps(plan, call, up_taps.const_data_ptr<float>(), down_taps.const_data_ptr<float>(), taps,
              plan.kernel.taps);
  Tensor y = empty_result(x, call);
  StreamJob job = plan.job;
  job.source = image_of(x);
  job.target = image_of(y);
  // A new tensor is aligned; rows and planes begin at even values where the width is even.
  job.pairs = y.stride(3) == 1 && call.x.out % 2 == 0;
  check_launch(launch_stream(job, plan.kernel, element_of(x), taps,
                             c10::cuda::getCurrentCUDAStream()),
               "the resampling kernel");
  return y;
}

// ---- bias and leaky ReLU -----------------------------------------------------------------------

// x as it lies in memory, if samples, channels and pixels lie without gaps in one of both orders.
struct Line {
  Tensor x;
  bool side_by_side;
};
Line line_of(const Tensor& x) {
  TORCH_CHECK(x.dim() >= 2, "x must have a channel dimension");
  if (x.dim() == 4 && !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast))
    return {x, true};
  return {x.contiguous(), false};
}

PointwiseJob pointwise_job(const Line& line, double gain, double slope, double clamp) {
  const Tensor& x = line.x;
  PointwiseJob job{};
  job.samples = static_cast<int>(x.size(0));
  job.channels = static_cast<int>(x.size(1));
  job.sample_values = x.numel() / std::max<int64_t>(1, x.size(0));
  TORCH_CHECK(job.sample_values < std::numeric_limits<int>::max(), "x is too large");
  const int64_t run = job.sample_values / std::max(1, job.channels);
  job.run = line.side_by_side ? 1 : static_cast<int>(std::max<int64_t>(1, run));
  job.by_run = Divisor::of(job.run);
  job.by_channels = Divisor::of(std::max(1, job.channels));
  const Levels levels = levels_of(gain, slope, clamp);
  job.gain = levels.gain;
  job.slope_gain = levels.slope_gain;
  job.limit = levels.limit;
  return job;
}

bool aligned(const Tensor& x) {
  return reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

Tensor bias_lrelu(const Tensor& x_, const std::optional<Tensor>& bias_, double gain, double slope,
                  double clamp) {
  const c10::cuda::CUDAGuard guard(x_.device());
  const Line line = line_of(x_);
  const Tensor& x = line.x;
  const Tensor bias = channel_bias(bias_, x);
  Tensor y = at::empty_like(x);
  if (x.numel() == 0) return y;
  PointwiseJob job = pointwise_job(line, gain, slope, clamp);
  job.x = x.const_data_ptr();
  job.bias = pointer_or_null(bias);
  job.out = y.mutable_data_ptr();
  const bool packed = aligned(x) && job.sample_values % (16 / x.element_size()) == 0;
  check_launch(launch_bias_lrelu(job, element_of(x), packed, c10::cuda::getCurrentCUDAStream()),
               "the bias kernel");
  return y;
}

std::tuple<Tensor, Tensor> bias_lrelu_backward(const Tensor& dy_, const Tensor& y_, double gain,
                                               double slope, double clamp) {
  TORCH_CHECK(dy_.sizes() == y_.sizes() && dy_.scalar_type() == y_.scalar_type(),
              "dy and y must have one shape and type");
  const c10::cuda::CUDAGuard guard(y_.device());
  const Line line = line_of(y_);
  const Tensor& y = line.x;
  const Tensor dy = dy_.contiguous(line.side_by_side ? at::MemoryFormat::ChannelsLast
                                                     : at::MemoryFormat::Contiguous);
  Tensor dx = at::empty_like(y);
  const auto sums = y.options().dtype(real_of(y)).memory_format(at::MemoryFormat::Contiguous);
  if (y.numel() == 0) return {dx, at::zeros({y.size(1)}, sums).to(y.scalar_type())};
  PointwiseJob job = pointwise_job(line, gain, slope, clamp);
  job.x = dy.const_data_ptr();
  job.y = y.const_data_ptr();
  job.out = dx.mutable_data_ptr();
  const int pack = static_cast<int>(16 / y.element_size());
  const bool packed = aligned(dy) && aligned(y) && (job.run > 1 ? job.run : job.channels) % pack == 0;
  // About four blocks a multiprocessor, of which none has less than four rounds of packs.
  const int wanted = 4 * limits_of(y.get_device()).processors;
  int pieces;
  if (job.run > 1) {
    const int most_slices = std::max(1, job.run / (4 * pack * kThreads));
    const int slices = ceil_div(wanted, std::max(1, job.samples * job.channels));
    pieces = job.samples * std::min(slices, most_slices);
    TORCH_CHECK(pieces <= 65535, "more than 65535 samples");
  } else {
    const int64_t pixels = y.numel() / job.channels;
    const int columns = ceil_div(ceil_div(job.channels, packed ? pack : 1), 32);
    pieces = static_cast<int>(
        std::min<int64_t>(ceil_div(wanted, columns), std::max<int64_t>(1, pixels / 32)));
  }
  Tensor partial = at::empty({pieces, job.channels}, sums);
  check_launch(launch_lrelu_backward(job, element_of(y), packed, pieces, partial.mutable_data_ptr(),
                                     c10::cuda::getCurrentCUDAStream()),
               "the bias kernel");
  return {dx, partial.sum(0).to(y.scalar_type())};
}

}  // namespace
}  // namespace animedrag

TORCH_LIBRARY_FRAGMENT(animedrag, m) {
  m.def("cuda_build_stamp() -> str", []() { return std::string(ANIMEDRAG_STAMP); });
}

TORCH_LIBRARY_IMPL(animedrag, CUDA, m) {
  m.impl("filtered_lrelu", &animedrag::filtered_lrelu);
  m.impl("filtered_lrelu_masked", &animedrag::filtered_lrelu_masked);
  m.impl("resample", &animedrag::resample);
  m.impl("bias_lrelu", &animedrag::bias_lrelu);
  m.impl("bias_lrelu_backward", &animedrag::bias_lrelu_backward);
}
