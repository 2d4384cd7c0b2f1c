// The kernels' tile code on the CPU, thread by thread, for tests: every access to shared memory is
// watched for races, for reads of what nobody wrote, and for leaving the memory asked for.

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "plan.h"
#include "pointwise.h"
#include "stream.h"

namespace animedrag {
namespace {

struct Fault {
  std::string text;
  void say(const char* what, int cell, int thread, int phase) {
    if (!text.empty()) return;
    char line[160];
    std::snprintf(line, sizeof line, "%s: cell %d, thread %d, phase %d", what, cell, thread, phase);
    text = line;
  }
};

// Shared memory that remembers who touched which cell since the last barrier.
template <class Real>
struct Watched {
  struct Cell {
    Real value = 0;
    bool written = false;
    int write_phase = -1, writer = -1, read_phase = -1, reader = -1;
  };
  std::vector<Cell> cells;
  int phase = 0, thread = 0;
  Fault fault;

  Cell* at(int index) {
    if (index >= 0 && index < static_cast<int>(cells.size())) return &cells[index];
    fault.say("outside shared memory", index, thread, phase);
    return &cells[0];
  }
  Real read(int index) {
    Cell& c = *at(index);
    if (!c.written) fault.say("read of what nobody wrote", index, thread, phase);
    if (c.write_phase == phase && c.writer != thread) fault.say("race", index, thread, phase);
    c.reader = c.read_phase == phase && c.reader != thread ? -2 : thread;  // -2: several
    c.read_phase = phase;
    return c.value;
  }
  void write(int index, Real value) {
    Cell& c = *at(index);
    if (c.write_phase == phase && c.writer != thread) fault.say("race of writers", index, thread, phase);
    if (c.read_phase == phase && c.reader != thread) fault.say("race", index, thread, phase);
    c = {value, true, phase, thread, c.read_phase, c.reader};
  }
};

// What phases take for `cells`.
template <class Real>
struct Cells {
  Watched<Real>* memory;
  struct Cell {
    Watched<Real>* memory;
    int index;
    operator Real() const { return memory->read(index); }
    void operator=(Real value) const { memory->write(index, value); }
  };
  Cell operator[](int index) const { return {memory, index}; }
};

// Runs each phase for all threads, in the given order: results must not depend on it.
template <class Real>
struct Block {
  int index;
  Watched<Real>* memory;
  bool backwards;

  template <class F>
  void each(F f) {
    ++memory->phase;
    for (int i = 0; i < kThreads; ++i) {
      memory->thread = backwards ? kThreads - 1 - i : i;
      f(Worker{memory->thread, kThreads});
    }
  }
};

template <class Real, class Run>
std::string run_blocks(const FirJob& job, bool backwards, Run run) {
  Watched<Real> memory;
  for (int block = 0; block < blocks_of(job); ++block) {
    memory.cells.assign(job.layout.cells, {});
    memory.phase = 0;
    Block<Real> b{block, &memory, backwards};
    run(b, Cells<Real>{&memory});
  }
  return memory.fault.text;
}

template <int Index>
std::string run_case(const FirJob& job, const float* up_taps, const float* down_taps, bool backwards) {
  constexpr Case k = kCases[Index];
  using F = Filters<k.up, k.up_taps, k.down, k.down_taps>;
  return run_blocks<float>(job, backwards, [&](auto& block, auto cells) {
    if (job.activation == Activation::kFromMask)
      run_tile<k.shape, F, FromMask>(job, up_taps, down_taps, block, cells);
    else if constexpr (runs_forward(k))
      run_tile<k.shape, F, Rectify>(job, up_taps, down_taps, block, cells);
  });
}

template <class T, class Real>
std::string run_general(const GeneralJob<Real>& job, const std::vector<Real>& up,
                        const std::vector<Real>& down, bool backwards) {
  return run_blocks<Real>(job.fir, backwards, [&](auto& block, auto cells) {
    run_general_tile<T, Real>(job, up.data(), down.data(), block, cells);
  });
}

// Taps [rows][columns] in the corner of [padded][padded] zeros, or of one row.
std::vector<float> padded_taps(const double* taps, bool square, int count, int padded) {
  std::vector<float> out(square ? padded * padded : padded, 0.0f);
  for (int r = 0; r < (square ? count : 1); ++r)
    for (int c = 0; c < count; ++c) out[r * padded + c] = static_cast<float>(taps[r * count + c]);
  return out;
}

template <class Real>
GeneralJob<Real> general_job(const FirJob& job, const Call& call, const double* constants) {
  return {job,
          call.up_square,
          call.down_square,
          static_cast<Real>(constants[0]),
          static_cast<Real>(constants[1]),
          static_cast<Real>(constants[2])};
}

Image image_of(const void* at, int channels, int height, int width, bool channels_last) {
  const std::int64_t size = std::int64_t{1} * height * width;
  return channels_last ? Image{at, size * channels, 1, width * channels, channels}
                       : Image{at, size * channels, size, width, 1};
}

// What the test's numbers say; the order is that of tests/tile_emulator.py.
struct Request {
  Call call;
  Element element;
  Activation activation;
  DeviceLimits device;
  bool general, backwards;
};

Request request_of(const int* n) {
  Request r{};
  Axis &x = r.call.x, &y = r.call.y;
  x = {n[2], n[4], n[6], n[8], n[10], n[12], n[14], n[16], n[18], 0};
  y = {n[3], n[5], n[7], n[9], n[11], n[13], n[15], n[17], n[19], 0};
  r.call.samples = n[0];
  r.call.channels = n[1];
  r.call.up_square = n[20];
  r.call.down_square = n[21];
  r.element = static_cast<Element>(n[22]);
  r.activation = static_cast<Activation>(n[23]);
  r.call.activation = r.activation;
  r.call.channels_last = n[24];
  r.device = {n[25], n[26], n[27]};
  r.general = n[28];
  r.backwards = n[29];
  return r;
}

int say(const std::string& text, char* message, int size) {
  std::snprintf(message, size, "%s", text.c_str());
  return text.empty() ? 0 : 1;
}

template <int Up, int Down, int TapCount, int Shift, class T>
void stream_all(const StreamJob& job, const float* taps, std::uint32_t items) {
  for (std::uint32_t i = 0; i < items; ++i) stream<Stream<Up, Down, TapCount, Shift>, T>(job, taps, i);
}

template <int Up, int Down, int TapCount, int Shift>
void stream_any(const StreamJob& job, Element element, const float* taps, std::uint32_t items) {
  if (element == Element::kHalf) return stream_all<Up, Down, TapCount, Shift, Half>(job, taps, items);
  if (element == Element::kBfloat) return stream_all<Up, Down, TapCount, Shift, Bfloat>(job, taps, items);
  stream_all<Up, Down, TapCount, Shift, float>(job, taps, items);
}

int stream_call(const Request& r, const StreamPlan& plan, const void* x, void* y,
                const double* up_taps, const double* down_taps) {
  const Axis &cx = r.call.x, &cy = r.call.y;
  const std::vector<float> up(up_taps, up_taps + cx.up_count);
  const std::vector<float> down(down_taps, down_taps + cx.down_count);
  float taps[kStreamTaps];
  stream_taps(plan, r.call, up.data(), down.data(), taps, plan.kernel.taps);
  StreamJob job = plan.job;
  job.source = image_of(x, job.channels, cy.in, cx.in, job.channels_last);
  job.target = image_of(y, job.channels, cy.out, cx.out, job.channels_last);
  job.pairs = !job.channels_last && cx.out % 2 == 0 && reinterpret_cast<std::uintptr_t>(y) % 8 == 0;
  // More than needed: the last block has idle threads too.
  const auto items = static_cast<std::uint32_t>(plan.threads + 77);
  const StreamCase& k = plan.kernel;
  const int shift = stream_shift(job.x, k.up);
  if (k.up == 2 && k.taps == 4)
    shift ? stream_any<2, 1, 4, 1>(job, r.element, taps, items)
          : stream_any<2, 1, 4, 0>(job, r.element, taps, items);
  else if (k.up == 2)
    shift ? stream_any<2, 1, 12, 1>(job, r.element, taps, items)
          : stream_any<2, 1, 12, 0>(job, r.element, taps, items);
  else if (k.taps == 12)
    stream_any<1, 2, 12, 0>(job, r.element, taps, items);
  else if (k.down == 2)
    stream_any<1, 2, 4, 0>(job, r.element, taps, items);
  else
    stream_any<1, 1, 4, 0>(job, r.element, taps, items);
  return 0;
}

template <class T, int N>
void pointwise(PointwiseJob& job, bool backward, double* sums) {
  using Real = typename RealOf<T>::type;
  constexpr int kLanes = 8, kSlices = 3;
  if (!backward) {
    const auto packs = static_cast<std::uint32_t>((job.sample_values + N - 1) / N);
    for (int s = 0; s < job.samples; ++s)
      for (std::uint32_t i = 0; i < packs + 5; ++i) forward_pack<T, N>(job, s, i);
    return;
  }
  if (job.run > 1) {
    for (int s = 0; s < job.samples; ++s)
      for (int c = 0; c < job.channels; ++c)
        for (int slice = 0; slice < kSlices; ++slice)
          for (int t = 0; t < kLanes; ++t)
            sums[c] += backward_image<T, N>(job, s, c, slice, kSlices, t, kLanes);
    return;
  }
  const std::int64_t pixels = job.samples * job.sample_values / job.channels;
  for (int c = 0; c + N <= job.channels; c += N)
    for (int t = 0; t < kLanes; ++t) {
      Real part[N] = {};
      backward_channels<T, N>(job, c, t, pixels, kLanes, part);
      for (int i = 0; i < N; ++i) sums[c + i] += part[i];
    }
}

}  // namespace
}  // namespace animedrag

using namespace animedrag;

extern "C" {

// The kernel (index, or -1), tile, planes and bytes of shared memory that a call gets.
int animedrag_plan(const int* numbers, int* out) {
  const Request r = request_of(numbers);
  const Plan plan = r.general ? plan_general(r.call, 4, r.device)
                              : make_plan(r.call, r.element == Element::kDouble, r.device);
  const int bytes = plan.layout.cells * (r.element == Element::kDouble ? 8 : 4);
  const int values[] = {plan.fits, plan.kernel, plan.x.tile, plan.y.tile, plan.planes, bytes};
  std::copy(std::begin(values), std::end(values), out);
  return 0;
}

// Runs a call; returns 0, or 1 with what was wrong in `message`. constants: gain, slope * gain,
// limit.
int animedrag_fir(const int* numbers, const double* constants, const void* x, const void* bias,
                  std::uint8_t* mask, void* y, const double* up_taps, const double* down_taps,
                  char* message, int size) {
  const Request r = request_of(numbers);
  const bool in_double = r.element == Element::kDouble;
  const Plan plan = r.general ? plan_general(r.call, in_double ? 8 : 4, r.device)
                              : make_plan(r.call, in_double, r.device);
  if (!plan.fits) return say("does not fit", message, size);
  FirJob job = job_of(r.call, plan);
  job.source = image_of(x, job.channels, job.y.in, job.x.in, r.call.channels_last);
  job.target = image_of(y, job.channels, job.y.out, job.x.out, r.call.channels_last);
  job.element = r.element;
  job.bias = bias;
  job.mask = mask;
  job.activation = r.activation;
  job.gain = static_cast<float>(constants[0]);
  job.slope_gain = static_cast<float>(constants[1]);
  job.limit = static_cast<float>(constants[2]);
  const Axis &cx = r.call.x, &cy = r.call.y;
  if (plan.kernel == kGeneralCase) {
    const int ups = r.call.up_square ? cx.up_count * cy.up_count : cx.up_count;
    const int downs = r.call.down_square ? cx.down_count * cy.down_count : cx.down_count;
    if (in_double) {
      const std::vector<double> up(up_taps, up_taps + ups), down(down_taps, down_taps + downs);
      const auto general = general_job<double>(job, r.call, constants);
      return say(run_general<double>(general, up, down, r.backwards), message, size);
    }
    const std::vector<float> up(up_taps, up_taps + ups), down(down_taps, down_taps + downs);
    const auto general = general_job<float>(job, r.call, constants);
    switch (r.element) {
      case Element::kHalf:
        return say(run_general<Half>(general, up, down, r.backwards), message, size);
      case Element::kBfloat:
        return say(run_general<Bfloat>(general, up, down, r.backwards), message, size);
      default: return say(run_general<float>(general, up, down, r.backwards), message, size);
    }
  }
  const Case& k = kCases[plan.kernel];
  const auto up = padded_taps(up_taps, r.call.up_square, cx.up_count, k.up_taps);
  const auto down = padded_taps(down_taps, r.call.down_square, cx.down_count, k.down_taps);
  using Run = std::string (*)(const FirJob&, const float*, const float*, bool);
  static const Run runs[] = {run_case<0>, run_case<1>, run_case<2>, run_case<3>,
                             run_case<4>, run_case<5>, run_case<6>};
  static_assert(sizeof runs / sizeof runs[0] == kCaseCount);
  return say(runs[plan.kernel](job, up.data(), down.data(), r.backwards), message, size);
}

// A call of a short filter; returns 2 where it is not one.
int animedrag_stream(const int* numbers, const void* x, void* y, const double* up_taps,
                     const double* down_taps) {
  const Request r = request_of(numbers);
  const StreamPlan plan = plan_stream(r.call, r.device);
  if (!plan.fits) return 2;
  return stream_call(r, plan, x, y, up_taps, down_taps);
}

// numbers: samples, channels, run, values of a sample, element, pack, backward; x (or dy) and out
// as the kernels take them; sums: [channels], added to.
int animedrag_pointwise(const int* n, const double* constants, const void* x, const void* y,
                        const void* bias, void* out, double* sums) {
  PointwiseJob job{x, y, bias, out, n[0], n[1], n[2], n[3], Divisor::of(n[2]), Divisor::of(n[1]),
                   constants[0], constants[1], constants[2]};
  const bool packed = n[5], backward = n[6];
  switch (static_cast<Element>(n[4])) {
    case Element::kHalf:
      packed ? pointwise<Half, 8>(job, backward, sums) : pointwise<Half, 1>(job, backward, sums);
      break;
    case Element::kBfloat:
      packed ? pointwise<Bfloat, 8>(job, backward, sums) : pointwise<Bfloat, 1>(job, backward, sums);
      break;
    case Element::kFloat:
      packed ? pointwise<float, 4>(job, backward, sums) : pointwise<float, 1>(job, backward, sums);
      break;
    case Element::kDouble:
      packed ? pointwise<double, 2>(job, backward, sums) : pointwise<double, 1>(job, backward, sums);
  }
  return 0;
}

unsigned animedrag_divide(unsigned n, unsigned d) { return Divisor::of(d)(n); }
unsigned animedrag_to_half(float v) {
  Half h;
  narrow(v, h);
  return h.bits;
}
unsigned animedrag_to_bfloat(float v) {
  Bfloat b;
  narrow(v, b);
  return b.bits;
}
float animedrag_from_half(unsigned bits) { return widen(Half{static_cast<std::uint16_t>(bits)}); }

}  // extern "C"
