// CPU implementations of the operators: checks, allocation, and threads over image planes.
// The arithmetic is in planes.cpp, compiled once for each instruction set.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>
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
  const int period = phases_of(job.x.up, job.x.down, job.x.mid);
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
                     constexpr std::size_t kLine = 64;  // bytes; rows shall begin at cache lines
                     std::vector<T> buffer(k.scratch_values(job) + kLine / sizeof(T));
                     void* scratch = buffer.data();
                     std::size_t space = buffer.size() * sizeof(T);
                     std::align(kLine, k.scratch_values(job) * sizeof(T), scratch, space);
                     PlaneJob<T> mine = job;
                     for (int64_t plane = begin; plane < end; ++plane) {
                       mine.bias = bias ? bias[plane % channels] : T(0);
                       k.run_plane(mine, source + plane * in, target + plane * out,
                                   mask ? mask + plane * mask_bytes : nullptr,
                                   static_cast<T*>(scratch));
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

// clip(gain * lrelu(x + bias)) into y, which may be x itself.
void bias_lrelu_into(const Tensor& x, const std::optional<Tensor>& bias_, double gain, double slope,
                     double clamp, const Tensor& y) {
  const int64_t length = run_length(x), channels = x.size(1);
  const Tensor bias = channel_bias(bias_, x);
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
}

Tensor bias_lrelu(const Tensor& x_, const std::optional<Tensor>& bias, double gain, double slope,
                  double clamp) {
  const Tensor x = x_.contiguous();
  Tensor y = at::empty_like(x);
  bias_lrelu_into(x, bias, gain, slope, clamp, y);
  return y;
}

void bias_lrelu_(const Tensor& x, const std::optional<Tensor>& bias, double gain, double slope,
                 double clamp) {
  TORCH_CHECK(x.is_contiguous(), "only a contiguous x can be changed in place");
  bias_lrelu_into(x, bias, gain, slope, clamp, x);
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

// ---- 3x3 convolution -------------------------------------------------------------------------

constexpr int64_t kEntries = 16;           // of a tile, and matrix products
constexpr int64_t kProductValues = 3 << 20;  // of both matrices of a chunk: they stay in the cache

// Tile rows of all images, in chunks whose matrices fit kProductValues.
struct Tiling {
  int64_t images, rows, tiles, chunk_rows;  // rows and tiles of one image; rows in a chunk

  Tiling(int64_t images_, int64_t height, int64_t width, int64_t channels)
      : images(images_), rows((height + 1) / 2), tiles((width + 1) / 2) {
    const int64_t most = std::max<int64_t>(1, kProductValues / (kEntries * channels * tiles));
    const int64_t chunks = (images * rows + most - 1) / most;
    chunk_rows = (images * rows + chunks - 1) / chunks;  // of about equal size
  }

  int64_t all_rows() const { return images * rows; }
};

// [16, channels, columns] over a buffer that may be read a little past its end.
Tensor product_matrix(const Tensor& buffer, int64_t channels, int64_t columns) {
  return buffer.narrow(0, 0, kEntries * channels * columns).view({kEntries, channels, columns});
}

Tensor product_buffer(const Tensor& like, int64_t channels, int64_t columns) {
  return at::empty({kEntries * channels * columns + 64}, like.options());
}

// work(channel, row of the chunk, image, tile row) for every tile row of a chunk, in threads.
template <typename Work>
void for_tile_rows(const Tiling& t, int64_t channels, int64_t first, int64_t count,
                   const Work& work) {
  at::parallel_for(0, channels, std::max<int64_t>(1, kGrain / (kEntries * count * t.tiles)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t channel = begin; channel < end; ++channel)
                       for (int64_t row = 0; row < count; ++row)
                         work(channel, row, (first + row) / t.rows, (first + row) % t.rows);
                   });
}

// Products of the tile entries of a chunk: transforms `x`'s planes by `transform` into `matrix`.
template <typename T, typename Transform>
void fill_matrix(const Tiling& t, const Tensor& x, int64_t first, int64_t count,
                 const Tensor& matrix, const Transform& transform) {
  const int64_t channels = x.size(1), plane = x.size(2) * x.size(3);
  const T* source = x.const_data_ptr<T>();
  T* target = matrix.mutable_data_ptr<T>();
  const int64_t columns = count * t.tiles;
  const std::size_t scratch_values = kernels<T>().tile_scratch(static_cast<int>(t.tiles));
  for_tile_rows(t, channels, first, count,
                [&](int64_t channel, int64_t row, int64_t image, int64_t tile_row) {
                  thread_local std::vector<T> scratch;
                  if (scratch.size() < scratch_values) scratch.resize(scratch_values);
                  transform(source + (image * channels + channel) * plane,
                            static_cast<int>(tile_row),
                            target + channel * columns + row * t.tiles,
                            static_cast<std::size_t>(channels * columns), scratch.data());
                });
}

void check_conv3x3(const Tensor& x, int64_t padding) {
  check_images(x);
  TORCH_CHECK(padding >= 0 && padding <= 2, "padding must lie in [0, 2], not ", padding);
  TORCH_CHECK(x.size(2) + 2 * padding >= 3 && x.size(3) + 2 * padding >= 3,
              "the padded image is smaller than the kernel");
}

Tensor conv3x3(const Tensor& x_, const Tensor& w_, int64_t padding, bool transposed) {
  check_conv3x3(x_, padding);
  const Tensor x = x_.contiguous(), w = same_type(w_, x, "w");
  TORCH_CHECK(w.dim() == 4 && w.size(2) == 3 && w.size(3) == 3 &&
                  w.size(transposed ? 0 : 1) == x.size(1),
              "the weights do not belong to this image");
  const int64_t in = x.size(1), out = w.size(transposed ? 1 : 0);
  const int64_t height = x.size(2), width = x.size(3);
  Tensor y = at::empty({x.size(0), out, height + 2 * padding - 2, width + 2 * padding - 2},
                       x.options());
  if (y.numel() == 0 || x.numel() == 0) return y.zero_();
  const int out_height = static_cast<int>(y.size(2)), out_width = static_cast<int>(y.size(3));
  const Tiling t(x.size(0), out_height, out_width, in + out);
  Tensor u = at::empty({kEntries, w.size(0), w.size(1)}, w.options());
  const Tensor in_buffer = product_buffer(x, in, t.chunk_rows * t.tiles);
  const Tensor out_buffer = product_buffer(x, out, t.chunk_rows * t.tiles);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "conv3x3", [&] {
    const auto& k = kernels<scalar_t>();
    const int64_t row = w.size(1);
    const scalar_t* weights = w.const_data_ptr<scalar_t>();
    scalar_t* products = u.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, w.size(0), std::max<int64_t>(1, kGrain / (32 * row)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t o = begin; o < end; ++o)
                         k.kernels_in(weights + 9 * row * o, static_cast<int>(row), transposed,
                                      products + row * o,
                                      static_cast<std::size_t>(row * w.size(0)));
                     });
    const Tensor factors = transposed ? u.transpose(1, 2) : u;
    scalar_t* target = y.mutable_data_ptr<scalar_t>();
    const std::size_t scratch_values = k.tile_scratch(static_cast<int>(t.tiles));
    for (int64_t first = 0; first < t.all_rows(); first += t.chunk_rows) {
      const int64_t count = std::min(t.chunk_rows, t.all_rows() - first);
      const int64_t columns = count * t.tiles;
      const Tensor v = product_matrix(in_buffer, in, columns);
      Tensor m = product_matrix(out_buffer, out, columns);
      fill_matrix<scalar_t>(t, x, first, count, v,
                            [&](const scalar_t* plane, int tile_row, scalar_t* to,
                                std::size_t stride, scalar_t* scratch) {
                              k.tiles_in(plane, static_cast<int>(height), static_cast<int>(width),
                                         static_cast<int>(padding), tile_row,
                                         static_cast<int>(t.tiles), to, stride, scratch);
                            });
      at::bmm_out(m, factors, v);
      const scalar_t* result = m.const_data_ptr<scalar_t>();
      for_tile_rows(t, out, first, count,
                    [&](int64_t channel, int64_t row_, int64_t image, int64_t tile_row) {
                      thread_local std::vector<scalar_t> scratch;
                      if (scratch.size() < scratch_values) scratch.resize(scratch_values);
                      k.tiles_out(result + channel * columns + row_ * t.tiles,
                                  static_cast<std::size_t>(out * columns),
                                  static_cast<int>(t.tiles), static_cast<int>(tile_row),
                                  target + (image * out + channel) * out_height * out_width,
                                  out_height, out_width, scratch.data());
                    });
    }
  });
  return y;
}

Tensor conv3x3_weight(const Tensor& x_, const Tensor& dy_, int64_t padding) {
  check_conv3x3(x_, padding);
  const Tensor x = x_.contiguous(), dy = same_type(dy_, x, "dy");
  TORCH_CHECK(dy.dim() == 4 && dy.size(0) == x.size(0) &&
                  dy.size(2) == x.size(2) + 2 * padding - 2 &&
                  dy.size(3) == x.size(3) + 2 * padding - 2,
              "dy does not belong to this image");
  const int64_t in = x.size(1), out = dy.size(1);
  Tensor dw = at::zeros({out, in, 3, 3}, x.options());
  if (dy.numel() == 0 || x.numel() == 0) return dw;
  const int height = static_cast<int>(x.size(2)), width = static_cast<int>(x.size(3));
  const int out_height = static_cast<int>(dy.size(2)), out_width = static_cast<int>(dy.size(3));
  const Tiling t(x.size(0), out_height, out_width, in + out);
  Tensor du = at::zeros({kEntries, out, in}, x.options());
  const Tensor in_buffer = product_buffer(x, in, t.chunk_rows * t.tiles);
  const Tensor out_buffer = product_buffer(x, out, t.chunk_rows * t.tiles);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "conv3x3_weight", [&] {
    const auto& k = kernels<scalar_t>();
    const int tiles = static_cast<int>(t.tiles);
    for (int64_t first = 0; first < t.all_rows(); first += t.chunk_rows) {
      const int64_t count = std::min(t.chunk_rows, t.all_rows() - first);
      const int64_t columns = count * t.tiles;
      const Tensor v = product_matrix(in_buffer, in, columns);
      const Tensor m = product_matrix(out_buffer, out, columns);
      fill_matrix<scalar_t>(t, x, first, count, v,
                            [&](const scalar_t* plane, int tile_row, scalar_t* to,
                                std::size_t stride, scalar_t* scratch) {
                              k.tiles_in(plane, height, width, static_cast<int>(padding), tile_row,
                                         tiles, to, stride, scratch);
                            });
      fill_matrix<scalar_t>(t, dy, first, count, m,
                            [&](const scalar_t* plane, int tile_row, scalar_t* to,
                                std::size_t stride, scalar_t* scratch) {
                              k.tiles_out_transposed(plane, out_height, out_width, tile_row, tiles,
                                                     to, stride, scratch);
                            });
      du.baddbmm_(m, v.transpose(1, 2));
    }
    const scalar_t* products = du.const_data_ptr<scalar_t>();
    scalar_t* target = dw.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, out, std::max<int64_t>(1, kGrain / (32 * in)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t o = begin; o < end; ++o)
                         k.kernels_out(products + in * o, static_cast<std::size_t>(out * in),
                                       static_cast<int>(in), target + 9 * in * o);
                     });
  });
  return dw;
}

// ---- bfloat16 --------------------------------------------------------------------------------

// In blocks of pixels of one image, as many as a thread is worth waking for.
template <typename Work>
void for_pixels(const Tensor& x, const Work& work) {
  const int64_t plane = x.size(2) * x.size(3), values = std::max<int64_t>(1, plane * x.size(1));
  constexpr int64_t kStep = 256;
  const int64_t steps = (plane + kStep - 1) / kStep;
  at::parallel_for(0, x.size(0) * steps, std::max<int64_t>(1, kGrain * steps / values),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       const int64_t first = i % steps * kStep;
                       work(i / steps * values, static_cast<std::size_t>(plane),
                            static_cast<std::size_t>(x.size(1)), static_cast<std::size_t>(first),
                            static_cast<std::size_t>(std::min(plane, first + kStep)));
                     }
                   });
}

Tensor pack_bfloat16(const Tensor& x_) {
  check_images(x_);
  TORCH_CHECK(x_.scalar_type() == at::kFloat, "x must be float32");
  const Tensor x = x_.contiguous();
  Tensor y = at::empty(x.sizes(), x.options().dtype(at::kBFloat16), at::MemoryFormat::ChannelsLast);
  if (x.numel() == 0) return y;
  const float* from = x.const_data_ptr<float>();
  auto* to = reinterpret_cast<std::uint16_t*>(y.mutable_data_ptr<at::BFloat16>());
  for_pixels(x, [&](int64_t image, std::size_t plane, std::size_t channels, std::size_t begin,
                    std::size_t end) {
    kernels<float>().pack_bfloat16(from + image, plane, channels, begin, end, to + image);
  });
  return y;
}

Tensor unpack_bfloat16(const Tensor& y_) {
  check_images(y_);
  TORCH_CHECK(y_.scalar_type() == at::kBFloat16, "y must be bfloat16");
  const Tensor y = y_.contiguous(at::MemoryFormat::ChannelsLast);
  Tensor x = at::empty(y.sizes(), y.options().dtype(at::kFloat), at::MemoryFormat::Contiguous);
  if (y.numel() == 0) return x;
  const auto* from = reinterpret_cast<const std::uint16_t*>(y.const_data_ptr<at::BFloat16>());
  float* to = x.mutable_data_ptr<float>();
  for_pixels(y, [&](int64_t image, std::size_t plane, std::size_t channels, std::size_t begin,
                    std::size_t end) {
    kernels<float>().unpack_bfloat16(from + image, plane, channels, begin, end, to + image);
  });
  return x;
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
  m.impl("conv3x3", &animedrag::conv3x3);
  m.impl("conv3x3_weight", &animedrag::conv3x3_weight);
  m.impl("pack_bfloat16", &animedrag::pack_bfloat16);
  m.impl("unpack_bfloat16", &animedrag::unpack_bfloat16);
  m.impl("bias_lrelu", &animedrag::bias_lrelu);
  m.impl("bias_lrelu_", &animedrag::bias_lrelu_);
  m.impl("bias_lrelu_backward", &animedrag::bias_lrelu_backward);
}
