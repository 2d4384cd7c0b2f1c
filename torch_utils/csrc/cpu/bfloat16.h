// Between float32 planes (NCHW) and bfloat16 with channels last (NHWC), of one image. Free of torch;
// included by planes.cpp, which is compiled for each instruction set.
//
// Pixels are taken in blocks: of a pair of channels a block is read in one go, rounded, and written
// as one 32-bit word a pixel, so that half as many scattered writes are left.

constexpr std::size_t kPixels = 16;

// Round to nearest, ties to even; not-a-numbers stay what they are (their low bits must not carry).
inline std::uint32_t rounded(std::uint32_t bits) {
  const std::uint32_t nearest = bits + 0x7fffu + ((bits >> 16) & 1u);
  const bool is_number = (bits & 0x7fffffffu) <= 0x7f800000u;
  return (is_number ? nearest : bits | 0x400000u) >> 16;
}

inline void pack_block(const float* x, std::size_t plane, std::size_t channels, std::uint16_t* y,
                       std::size_t count) {
  std::uint32_t one[kPixels], other[kPixels];
  std::size_t c = 0;
  for (; c + 2 <= channels; c += 2) {
    std::memcpy(one, x + c * plane, count * sizeof(float));
    std::memcpy(other, x + (c + 1) * plane, count * sizeof(float));
    for (std::size_t i = 0; i < kPixels; ++i) one[i] = rounded(one[i]) | rounded(other[i]) << 16;
    for (std::size_t i = 0; i < count; ++i) std::memcpy(y + i * channels + c, one + i, 4);
  }
  for (; c < channels; ++c) {
    std::memcpy(one, x + c * plane, count * sizeof(float));
    for (std::size_t i = 0; i < count; ++i)
      y[i * channels + c] = static_cast<std::uint16_t>(rounded(one[i]));
  }
}

inline void unpack_block(const std::uint16_t* y, std::size_t plane, std::size_t channels, float* x,
                         std::size_t count) {
  std::uint32_t both[kPixels] = {}, one[kPixels], other[kPixels];
  std::size_t c = 0;
  for (; c + 2 <= channels; c += 2) {
    for (std::size_t i = 0; i < count; ++i) std::memcpy(both + i, y + i * channels + c, 4);
    for (std::size_t i = 0; i < kPixels; ++i) {
      one[i] = both[i] << 16;
      other[i] = both[i] & 0xffff0000u;
    }
    std::memcpy(x + c * plane, one, count * sizeof(float));
    std::memcpy(x + (c + 1) * plane, other, count * sizeof(float));
  }
  for (; c < channels; ++c) {
    for (std::size_t i = 0; i < count; ++i)
      one[i] = static_cast<std::uint32_t>(y[i * channels + c]) << 16;
    std::memcpy(x + c * plane, one, count * sizeof(float));
  }
}

// Pixels [begin, end) of one image; `plane` pixels a channel in all. A full block has a constant
// size, which lets the compiler copy whole vectors.
void pack_bfloat16(const float* x, std::size_t plane, std::size_t channels, std::size_t begin,
                   std::size_t end, std::uint16_t* y) {
  std::size_t p = begin;
  for (; p + kPixels <= end; p += kPixels)
    pack_block(x + p, plane, channels, y + p * channels, kPixels);
  if (p < end) pack_block(x + p, plane, channels, y + p * channels, end - p);
}

void unpack_bfloat16(const std::uint16_t* y, std::size_t plane, std::size_t channels,
                     std::size_t begin, std::size_t end, float* x) {
  std::size_t p = begin;
  for (; p + kPixels <= end; p += kPixels)
    unpack_block(y + p * channels, plane, channels, x + p, kPixels);
  if (p < end) unpack_block(y + p * channels, plane, channels, x + p, end - p);
}
