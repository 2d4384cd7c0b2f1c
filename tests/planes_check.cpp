// Checks one compilation of csrc/cpu/planes.cpp against plain loops, without torch, so that it also
// runs for processors that this one only emulates. Prints the table's name; exit code 1 on an error.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "planes.h"

using namespace animedrag;

namespace {

const Kernels<float>& kernels = ANIMEDRAG_KERNELS;
std::mt19937 random_bits(0);

int between(int low, int high) { return low + static_cast<int>(random_bits() % (high - low + 1)); }

std::vector<float> values(std::size_t count) {
  std::vector<float> result(count);
  for (float& v : result) v = (static_cast<int>(random_bits() % 2001) - 1000) / 1000.0f;
  return result;
}

double activated(double u, double gain, double slope, double clamp) {
  return std::clamp(u * (u > 0 ? gain : gain * slope), -clamp, clamp);
}

double worst_filtered_lrelu() {
  const float gain = 1.4f, slope = 0.2f, clamp = 0.8f, bias = 0.1f;
  double worst = 0;
  for (int trial = 0; trial < 150; ++trial) {
    const int up = between(1, 4), down = between(1, 3), up_count = between(1, 12);
    const int down_count = between(1, 9), up_start = between(0, 9);
    const int w = between(1, 40), h = between(1, 20), mid_w = w * up + 3, mid_h = h * up + 2;
    const int out_w = std::max(1, (mid_w - down_count) / down + 1);
    const int out_h = std::max(1, (mid_h - down_count) / down + 1);
    const auto x = values(w * h), up_taps = values(up_count), down_taps = values(down_count);
    PlaneJob<float> job{};
    job.x = {w,        mid_w, out_w,          up,       down,            up_start,
             0,        up_taps.data(), up_count, down_taps.data(), down_count};
    job.y = {h,        mid_h, out_h,          up,       down,            up_start,
             0,        up_taps.data(), up_count, down_taps.data(), down_count};
    job.activation = Activation::kLreluMask;
    job.bias = bias, job.gain = gain, job.slope = slope, job.clamp = clamp;
    const int period = phases_of(up, down, mid_w);
    std::vector<float> scratch(kernels.scratch_values(job)), y(out_w * out_h);
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(period) *
                                   mask_quarter(mask_places(mid_w, period)) * mid_h);
    kernels.run_plane(job, x.data(), y.data(), mask.data(), scratch.data());

    std::vector<double> mid(mid_w * mid_h, 0.0);
    for (int row = 0; row < mid_h; ++row)
      for (int column = 0; column < mid_w; ++column) {
        double u = 0;
        for (int a = 0; a < up_count; ++a)
          for (int b = 0; b < up_count; ++b) {
            const int i = row + a - up_start, j = column + b - up_start;
            if (i < 0 || j < 0 || i % up || j % up || i / up >= h || j / up >= w) continue;
            u += double(up_taps[a]) * up_taps[b] * (x[i / up * w + j / up] + bias);
          }
        mid[row * mid_w + column] = activated(u, gain, slope, clamp);
      }
    for (int row = 0; row < out_h; ++row)
      for (int column = 0; column < out_w; ++column) {
        double sum = 0;
        for (int a = 0; a < down_count; ++a)
          for (int b = 0; b < down_count; ++b) {
            const int i = row * down + a, j = column * down + b;
            if (i < mid_h && j < mid_w)
              sum += double(down_taps[a]) * down_taps[b] * mid[i * mid_w + j];
          }
        worst = std::max(worst, std::abs(sum - y[row * out_w + column]));
      }
  }
  return worst;
}

double worst_convolution() {
  double worst = 0;
  for (int trial = 0; trial < 100; ++trial) {
    const int w = between(3, 42), h = between(3, 22), padding = between(0, 2);
    const int out_w = w + 2 * padding - 2, out_h = h + 2 * padding - 2;
    const int tiles = (out_w + 1) / 2;
    const auto x = values(w * h), kernel = values(9);
    std::vector<float> factors(16), y(out_w * out_h), scratch(kernels.tile_scratch(tiles));
    std::vector<float> entries(16 * tiles + 64);
    kernels.kernels_in(kernel.data(), 1, false, factors.data(), 1);
    for (int row = 0; row < (out_h + 1) / 2; ++row) {
      kernels.tiles_in(x.data(), h, w, padding, row, tiles, entries.data(), tiles, scratch.data());
      for (int k = 0; k < 16; ++k)
        for (int t = 0; t < tiles; ++t) entries[k * tiles + t] *= factors[k];
      kernels.tiles_out(entries.data(), tiles, tiles, row, y.data(), out_h, out_w, scratch.data());
    }
    for (int row = 0; row < out_h; ++row)
      for (int column = 0; column < out_w; ++column) {
        double sum = 0;
        for (int a = 0; a < 3; ++a)
          for (int b = 0; b < 3; ++b) {
            const int i = row + a - padding, j = column + b - padding;
            if (i >= 0 && j >= 0 && i < h && j < w) sum += double(kernel[3 * a + b]) * x[i * w + j];
          }
        worst = std::max(worst, std::abs(sum - y[row * out_w + column]));
      }
  }
  return worst;
}

double worst_bias_lrelu() {
  const auto x = values(1003);
  std::vector<float> y(x.size());
  kernels.lrelu(x.data(), 0.3f, y.data(), x.size(), 1.4f, 0.2f, 0.9f);
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    worst = std::max(worst, std::abs(activated(x[i] + 0.3f, 1.4f, 0.2f, 0.9f) - y[i]));
  return worst;
}

}  // namespace

int main() {
  const double errors[] = {worst_filtered_lrelu(), worst_convolution(), worst_bias_lrelu()};
  std::printf("%s: filtered_lrelu %.1e, convolution %.1e, bias_lrelu %.1e\n", kernels.name,
              errors[0], errors[1], errors[2]);
  return *std::max_element(std::begin(errors), std::end(errors)) > 5e-6;
}
