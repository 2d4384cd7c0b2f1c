// Operator schemas: written once here; each backend's file registers its implementations.
// The build's stamp lets Python refuse a library that was made from other sources.

#include <torch/library.h>

#ifndef ANIMEDRAG_STAMP
#define ANIMEDRAG_STAMP "unstamped"
#endif

TORCH_LIBRARY(animedrag, m) {
  m.def("build_stamp() -> str", []() { return std::string(ANIMEDRAG_STAMP); });

  // Two filters and an activation between them, as index lines (see csrc/cpu/planes.h):
  //   sizes: [mid_w, mid_h, out_w, out_h]; starts: [up_x, up_y, down_x, down_y].
  //   Taps are 1-D (both axes) or 2-D [height, width], on the CPU, float32 (float64 for such images),
  //   correlated as they stand.
  m.def(
      "filtered_lrelu(Tensor x, Tensor? bias, Tensor up_taps, Tensor down_taps, int up, int down, "
      "int[] sizes, int[] starts, float gain, float slope, float clamp, bool write_mask) "
      "-> (Tensor y, Tensor mask)");
  m.def(
      "filtered_lrelu_masked(Tensor x, Tensor mask, Tensor up_taps, Tensor down_taps, int up, "
      "int down, int[] sizes, int[] starts, float gain, float slope) -> Tensor");

  //   factors: [up_x, up_y, down_x, down_y]; sizes and starts as above.
  m.def(
      "resample(Tensor x, Tensor up_taps, Tensor down_taps, int[] factors, int[] sizes, "
      "int[] starts) -> Tensor");

  m.def(
      "bias_lrelu(Tensor x, Tensor? bias, float gain, float slope, float clamp) -> Tensor");
  // The same in x's own memory (contiguous); CPU only, and of no use where gradients are wanted.
  m.def(
      "bias_lrelu_(Tensor(a!) x, Tensor? bias, float gain, float slope, float clamp) -> ()");
  m.def(
      "bias_lrelu_backward(Tensor dy, Tensor y, float gain, float slope, float clamp) "
      "-> (Tensor dx, Tensor db)");

  // 3x3 correlation of NCHW images with weights [out, in, 3, 3]; `transposed`: with the weights
  // turned and their first dimensions exchanged (the gradient of the other with respect to x).
  m.def("conv3x3(Tensor x, Tensor w, int padding, bool transposed) -> Tensor");
  m.def("conv3x3_weight(Tensor x, Tensor dy, int padding) -> Tensor");

  // float32 NCHW to bfloat16 with channels last, and back. CPU only; each is the other's gradient.
  m.def("pack_bfloat16(Tensor x) -> Tensor");
  m.def("unpack_bfloat16(Tensor y) -> Tensor");
}
