// CPU implementations of the operators: checks, allocation, and threads over image planes.
// The arithmetic is in planes.cpp, compiled once for each instruction set.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "planes.h"

namespace animedrag {
namespace {

using at::IntArrayRef;
using at::Tensor;

// Values below which a thread is not worth waking.
constexpr int64_t kGrain = 65536;

template <typename T>
const Kernels<T>& kernels();

template <>
const Kernels<double>& kernels<double>() {
  return kernels_double;
}

template <>
const Kernels<float>& kernels<float>() {
  static const Kernels<float>& chosen = []() -> const Kernels<float>& {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      return kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernels_avx2;
#endif
    return kernels_baseline;
  }();
  return chosen;
}

// ---- checks ----------------------------------------------------------------------------------

void check_images(const Tensor& x) {
  TORCH_CHECK(x.dim() == 4, "x must be NCHW, not of ", x.dim(), " dimensions");
}

Tensor same_type(const Tensor& value, const Tensor& x, const char* name) {
  TORCH_CHECK(value.device().is_cpu(), name, " must lie on the CPU");
  return value.to(x.scalar_type()).contiguous();
}

Tensor filter_taps(const Tensor& taps, const Tensor& x, const char* name) {
  TORCH_CHECK((taps.dim() == 1 || taps.dim() == 2) && taps.numel() > 0, name,
              " must be a 1-D or 2-D filter");
  return same_type(taps, x, name);
}

// One value a channel, in x's type; undefined where there is no bias.
Tensor channel_bias(const std::optional<Tensor>& bias, const Tensor& x) {
  if (!bias) return Tensor();
  TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(1), "bias must have one value a channel");
  return same_type(*bias, x, "bias");
}

template <typename T>
const T* values_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

// ---- two filters and what is between them ----------------------------------------------------

struct Geometry {
  IntArrayRef factors;  // [up_x, up_y, down_x, down_y]
  IntArrayRef sizes;    // [mid_w, mid_h, out_w, out_h]
  IntArrayRef starts;   // [up_x, up_y, down_x, down_y]
};

template <typename T>
PlaneJob<T> make_job(const Tensor& x, const Geometry& g, const Tensor& up_taps,
                     const Tensor& down_taps) {
  TORCH_CHECK(g.factors.size() == 4 && g.sizes.size() == 4 && g.starts.size() == 4,
              "factors, sizes and starts hold four numbers each");
  for (const int64_t value : g.factors)
    TORCH_CHECK(value >= 1 && value <= 64, "factors must lie in [1, 64], not ", value);
  for (const int64_t value : g.sizes)
    TORCH_CHECK(value >= 1 && value < (1 << 24), "sizes must lie in [1, 2^24), not ", value);
  const T *up = up_taps.const_data_ptr<T>(), *down = down_taps.const_data_ptr<T>();
  const bool up_2d = up_taps.dim() == 2, down_2d = down_taps.dim() == 2;
  const auto axis = [&](int side, int64_t in) {
    const int dimension = side == 0 ? -1 : 0;  // width is a filter's last dimension
    return Axis<T>{static_cast<int>(in),
                   static_cast<int>(g.sizes[side]),
                   static_cast<int>(g.sizes[2 + side]),
                   static_cast<int>(g.factors[side]),
                   static_cast<int>(g.factors[2 + side]),
                   static_cast<int>(g.starts[side]),
                   static_cast<int>(g.starts[2 + side]),
                   up_2d ? nullptr : up,
                   static_cast<int>(up_taps.size(dimension)),
                   down_2d ? nullptr : down,
                   static_cast<int>(down_taps.size(dimension))};
  };
  PlaneJob<T> job{};
  job.x = axis(0, x.size(3));
  job.y = axis(1, x.size(2));
  job.up_taps_2d = up_2d ? up : nullptr;
  job.down_taps_2d = down_2d ? down : nullptr;
  job.activation = Activation::kNone;
  return job;
}

template <typename T>
int64_t mask_plane_bytes(const PlaneJob<T>& job) {
  const int period = std::lcm(job.x.up, job.x.down);
  return int64_t{1} * period * mask_quarter(mask_places(job.x.mid, period)) * job.y.mid;
}

// Runs the job on every plane of x; `bias` (or null) has one value a channel.
template <typename T>
Tensor run_planes(const PlaneJob<T>& job, const Tensor& x, const T* bias, std::uint8_t* mask) {
  const Kernels<T>& k = kernels<T>();
  Tensor y = at::empty({x.size(0), x.size(1), job.y.out, job.x.out}, x.options());
  const int64_t channels = x.size(1);
  const int64_t in = int64_t{1} * job.x.in * job.y.in, out = int64_t{1} * job.x.out * job.y.out;
  const int64_t mask_bytes = mask_plane_bytes(job);
  const T* source = x.const_data_ptr<T>();
  T* target = y.mutable_data_ptr<T>();
  at::parallel_for(0, x.size(0) * channels, std::max<int64_t>(1, kGrain / (in + out)),
                   [&](int64_t begin, int64_t end) {
                     std::vector<T> scratch(k.scratch_values(job));
                     PlaneJob<T> mine = job;
                     for (int64_t plane = begin; plane < end; ++plane) {
                       mine.bias = bias ? bias[plane % channels] : T(0);
                       k.run_plane(mine, source + plane * in, target + plane * out,
                                   mask ? mask + plane * mask_bytes : nullptr, scratch.data());
                     }
                   });
  return y;
}

std::tuple<Tensor, Tensor> filtered_lrelu(const Tensor& x_, const std::optional<Tensor>& bias_,
                                          const Tensor& up_taps_, const Tensor& down_taps_,
                                          int64_t up, int64_t down, IntArrayRef sizes,
                                          IntArrayRef starts, double gain, double slope,
                                          double clamp, bool write_mask) {
  check_images(x_);
  const Tensor x = x_.contiguous(), bias = channel_bias(bias_, x);
  const Tensor up_taps = filter_taps(up_taps_, x, "up_taps");
  const Tensor down_taps = filter_taps(down_taps_, x, "down_taps");
  Tensor y, mask;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "filtered_lrelu", [&] {
    auto job = make_job<scalar_t>(x, {{up, up, down, down}, sizes, starts}, up_taps, down_taps);
    job.activation = write_mask ? Activation::kLreluMask : Activation::kLrelu;
    job.gain = static_cast<scalar_t>(gain);
    job.slope = static_cast<scalar_t>(slope);
    job.clamp = static_cast<scalar_t>(clamp);
    mask = at::empty({write_mask ? x.size(0) : 0, x.size(1), mask_plane_bytes(job)},
                     x.options().dtype(at::kByte));
    y = run_planes(job, x, values_or_null<scalar_t>(bias),
                   write_mask ? mask.mutable_data_ptr<std::uint8_t>() : nullptr);
  });
  return {y, mask};
}

Tensor filtered_lrelu_masked(const Tensor& x_, const Tensor& mask_, const Tensor& up_taps_,
                             const Tensor& down_taps_, int64_t up, int64_t down, IntArrayRef sizes,
                             IntArrayRef starts, double gain, double slope) {
  check_images(x_);
  const Tensor x = x_.contiguous(), mask = mask_.contiguous();
  const Tensor up_taps = filter_taps(up_taps_, x, "up_taps");
  const Tensor down_taps = filter_taps(down_taps_, x, "down_taps");
  Tensor y;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "filtered_lrelu_masked", [&] {
    auto job = make_job<scalar_t>(x, {{up, up, down, down}, sizes, starts}, up_taps, down_taps);
    job.activation = Activation::kFromMask;
    job.gain = static_cast<scalar_t>(gain);
    job.slope = static_cast<scalar_t>(slope);
    TORCH_CHECK(mask.scalar_type() == at::kByte &&
                    mask.numel() == x.size(0) * x.size(1) * mask_plane_bytes(job),
                "the mask does not belong to this call");
    // kFromMask only reads.
    y = run_planes<scalar_t>(job, x, nullptr,
                             const_cast<std::uint8_t*>(mask.const_data_ptr<std::uint8_t>()));
  });
  return y;
}

Tensor resample(const Tensor& x_, const Tensor& up_taps_, const Tensor& down_taps_,
                IntArrayRef factors, IntArrayRef sizes, IntArrayRef starts) {
  check_images(x_);
  const Tensor x = x_.contiguous();
  const Tensor up_taps = filter_taps(up_taps_, x, "up_taps");
  const Tensor down_taps = filter_taps(down_taps_, x, "down_taps");
  Tensor y;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "resample", [&] {
    const auto job = make_job<scalar_t>(x, {factors, sizes, starts}, up_taps, down_taps);
    y = run_planes<scalar_t>(job, x, nullptr, nullptr);
  });
  return y;
}

// ---- bias and leaky ReLU ---------------------------------------------------------------------

// Elements of x that share one bias value and lie side by side.
int64_t run_length(const Tensor& x) {
  TORCH_CHECK(x.dim() >= 2, "x must have a channel dimension");
  int64_t length = 1;
  for (int64_t d = 2; d < x.dim(); ++d) length *= x.size(d);
  return length;
}

Tensor bias_lrelu(const Tensor& x_, const std::optional<Tensor>& bias_, double gain, double slope,
                  double clamp) {
  const Tensor x = x_.contiguous();
  const int64_t length = run_length(x), channels = x.size(1);
  const Tensor bias = channel_bias(bias_, x);
  Tensor y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bias_lrelu", [&] {
    const auto& k = kernels<scalar_t>();
    const scalar_t* offsets = values_or_null<scalar_t>(bias);
    const scalar_t* source = x.const_data_ptr<scalar_t>();
    scalar_t* target = y.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, x.size(0) * channels, std::max<int64_t>(1, kGrain / std::max<int64_t>(length, 1)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t run = begin; run < end; ++run)
                         k.lrelu(source + run * length, offsets ? offsets[run % channels] : 0,
                                 target + run * length, length, gain, slope, clamp);
                     });
  });
  return y;
}

std::tuple<Tensor, Tensor> bias_lrelu_backward(const Tensor& dy_, const Tensor& y_, double gain,
                                               double slope, double clamp) {
  const Tensor dy = dy_.contiguous(), y = y_.contiguous();
  TORCH_CHECK(dy.sizes() == y.sizes() && dy.scalar_type() == y.scalar_type(),
              "dy and y must have one shape and type");
  const int64_t length = run_length(y), runs = y.size(0) * y.size(1);
  Tensor dx = at::empty_like(dy);
  Tensor sums = at::empty({y.size(0), y.size(1)}, y.options().dtype(at::kDouble));
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "bias_lrelu_backward", [&] {
    const auto& k = kernels<scalar_t>();
    const scalar_t *upstream = dy.const_data_ptr<scalar_t>(), *output = y.const_data_ptr<scalar_t>();
    scalar_t* target = dx.mutable_data_ptr<scalar_t>();
    double* totals = sums.mutable_data_ptr<double>();
    at::parallel_for(0, runs, std::max<int64_t>(1, kGrain / std::max<int64_t>(length, 1)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t run = begin; run < end; ++run)
                         totals[run] = k.lrelu_backward(upstream + run * length,
                                                        output + run * length,
                                                        target + run * length, length, gain, slope,
                                                        clamp);
                     });
  });
  return {dx, sums.sum(0).to(y.scalar_type())};
}

std::string instruction_set() { return kernels<float>().name; }

}  // namespace
}  // namespace animedrag

TORCH_LIBRARY_FRAGMENT(animedrag, m) {
  m.def("instruction_set() -> str", &animedrag::instruction_set);
}

TORCH_LIBRARY_IMPL(animedrag, CPU, m) {
  m.impl("filtered_lrelu", &animedrag::filtered_lrelu);
  m.impl("filtered_lrelu_masked", &animedrag::filtered_lrelu_masked);
  m.impl("resample", &animedrag::resample);
  m.impl("bias_lrelu", &animedrag::bias_lrelu);
  m.impl("bias_lrelu_backward", &animedrag::bias_lrelu_backward);
}
