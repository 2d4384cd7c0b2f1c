// Checks one compilation of csrc/cpu/planes.cpp against plain loops, without torch, so that it also
// runs for processors that this one only emulates. Prints the table's name; exit code 1 on an error.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
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

// A filter of one kind or the other: taps of an axis, or [rows][columns], in part mirrored.
struct Filter {
  int count;
  bool square;
  std::vector<float> taps;

  static Filter random(int count, bool square) {
    Filter f{count, square, values(square ? count * count : count)};
    if (!square) return f;
    for (float& tap : f.taps) tap /= count;
    if (between(0, 1))
      for (int row = 0; row < count / 2; ++row)
        std::copy_n(f.taps.begin() + row * count, count, f.taps.begin() + (count - 1 - row) * count);
    return f;
  }
  double at(int row, int column) const {
    return square ? double(taps[row * count + column]) : double(taps[row]) * taps[column];
  }
  const float* line() const { return square ? nullptr : taps.data(); }
  const float* plane() const { return square ? taps.data() : nullptr; }
};

double worst_filtered_lrelu() {
  const float gain = 1.4f, slope = 0.2f, clamp = 0.8f, bias = 0.1f;
  double worst = 0;
  for (int trial = 0; trial < 200; ++trial) {
    const int up = between(1, 4), down = between(1, 3);
    const Filter ups = Filter::random(between(1, 12), trial % 3 == 1);
    const Filter downs = Filter::random(between(1, 9), trial % 3 == 2);
    const int up_start = between(-3, 9), down_start = between(-4, 3);
    // Every fifth is long enough for more phases than the factors ask for.
    const int w = trial % 5 ? between(1, 40) : between(130, 150), h = between(1, 20);
    const int mid_w = w * up + 3, mid_h = h * up + 2;
    const int out_w = std::max(1, (mid_w - downs.count) / down + 1);
    const int out_h = std::max(1, (mid_h - downs.count) / down + 1);
    const auto x = values(w * h);
    PlaneJob<float> job{};
    job.x = {w,          mid_w,      out_w,     up,           down,        up_start,
             down_start, ups.line(), ups.count, downs.line(), downs.count};
    job.y = {h,          mid_h,      out_h,     up,           down,        up_start,
             down_start, ups.line(), ups.count, downs.line(), downs.count};
    job.up_taps_2d = ups.plane(), job.down_taps_2d = downs.plane();
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
        for (int a = 0; a < ups.count; ++a)
          for (int b = 0; b < ups.count; ++b) {
            const int i = row + a - up_start, j = column + b - up_start;
            if (i < 0 || j < 0 || i % up || j % up || i / up >= h || j / up >= w) continue;
            u += ups.at(a, b) * (x[i / up * w + j / up] + bias);
          }
        mid[row * mid_w + column] = activated(u, gain, slope, clamp);
      }
    for (int row = 0; row < out_h; ++row)
      for (int column = 0; column < out_w; ++column) {
        double sum = 0;
        for (int a = 0; a < downs.count; ++a)
          for (int b = 0; b < downs.count; ++b) {
            const int i = row * down + a + down_start, j = column * down + b + down_start;
            if (i >= 0 && j >= 0 && i < mid_h && j < mid_w)
              sum += downs.at(a, b) * mid[i * mid_w + j];
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

// Bits that differ from rounding to nearest, ties to even, one value after another; and back.
double wrong_bfloat16_bits() {
  int wrong = 0;
  for (int trial = 0; trial < 60; ++trial) {
    const std::size_t channels = between(1, 9), plane = between(1, 70);
    const std::size_t begin = between(0, plane - 1), end = between(begin + 1, plane);
    std::vector<std::uint32_t> bits(channels * plane);
    for (auto& b : bits) {
      b = random_bits();
      if (b % 5 == 0) b = (b & 0xffff0000u) | 0x8000u;       // a tie
      if ((b & 0x7f800000u) == 0x7f800000u) b &= 0xff800000u;  // infinite, not "not a number"
    }
    std::vector<float> x(bits.size()), back(bits.size(), 7.0f);
    std::memcpy(x.data(), bits.data(), 4 * bits.size());
    std::vector<std::uint16_t> y(bits.size(), 7);
    kernels.pack_bfloat16(x.data(), plane, channels, begin, end, y.data());
    kernels.unpack_bfloat16(y.data(), plane, channels, begin, end, back.data());
    for (std::size_t c = 0; c < channels; ++c)
      for (std::size_t p = 0; p < plane; ++p) {
        const bool inside = p >= begin && p < end;
        const std::uint32_t exact = bits[c * plane + p], low = exact & 0xffffu;
        std::uint32_t high = exact >> 16;
        if (low > 0x8000u || (low == 0x8000u && high % 2)) ++high;
        std::uint32_t found;
        std::memcpy(&found, &back[c * plane + p], 4);
        wrong += y[p * channels + c] != (inside ? high : 7u);
        wrong += inside ? found != high << 16 : back[c * plane + p] != 7.0f;
      }
  }
  return wrong;
}

}  // namespace

int main() {
  const double errors[] = {worst_filtered_lrelu(), worst_convolution(), worst_bias_lrelu(),
                           wrong_bfloat16_bits()};
  std::printf("%s: filtered_lrelu %.1e, convolution %.1e, bias_lrelu %.1e, bfloat16 %.0f bits\n",
              kernels.name, errors[0], errors[1], errors[2], errors[3]);
  return *std::max_element(std::begin(errors), std::end(errors)) > 5e-6;
}
