// Winograd's minimal filtering F(2x2, 3x3) for planes.cpp: 3x3 correlations of whole images become
// 16 matrix products with 4/9 of the multiplications (Lavin and Gray 2016, section 4.1). Here are
// the three transforms, on rows of tiles; the products are torch's. Included once an instruction
// set, inside planes.cpp's namespace; it uses that file's vectors.
//
// A tile is 2x2 outputs and the 4x4 inputs that they depend on. Rows of tiles are worked on by
// vectors along the row: lines are split into their even and odd samples first, so that sample
// 2t + k of every tile t lies side by side.

// Even and odd samples of x[0..width) seen from `first` on, zero outside, `count` of each.
inline void split_line(const Scalar* x, int width, int first, int count, Scalar* even,
                       Scalar* odd) {
  int t = 0;
  const auto at = [&](int i) { return i >= 0 && i < width ? x[i] : Scalar(0.0); };
  const auto careful = [&](int end) {
    for (; t < end; ++t) {
      even[t] = at(first + 2 * t);
      odd[t] = at(first + 2 * t + 1);
    }
  };
  careful(std::min(count, std::max(0, (1 - first) / 2)));
  const int inside = std::min(count, (width - first) / 2);
  const Scalar* from = x + first;
  for (; t < inside; ++t) {
    even[t] = from[2 * t];
    odd[t] = from[2 * t + 1];
  }
  careful(count);
}

inline void store_some(Scalar* to, Vector value, int count) {
  if (count >= kLanes)
    store(to, value);
  else
    std::memcpy(to, &value, sizeof(Scalar) * count);
}

constexpr int kTileSlack = 2 * kLanes;  // values past a line's end that may be read

// Values of scratch that one row of `tiles` needs.
std::size_t tile_scratch(int tiles) { return 8 * static_cast<std::size_t>(tiles + kTileSlack); }

// B^T d B of every tile of one row: out[k * stride + t] is entry k (row-major, 4x4) of tile t.
void tiles_in(const Scalar* plane, int height, int width, int padding, int tile_row, int tiles,
              Scalar* out, std::size_t stride, Scalar* scratch) {
  const int length = tiles + kTileSlack;
  const Scalar *even[4], *odd[4];
  for (int r = 0; r < 4; ++r) {
    Scalar *e = scratch + 2 * r * length, *o = e + length;
    const int y = 2 * tile_row + r - padding;
    if (y >= 0 && y < height) {
      split_line(plane + static_cast<std::size_t>(y) * width, width, -padding, tiles + 1, e, o);
    } else {
      std::fill(e, e + 2 * length, Scalar(0.0));
    }
    even[r] = e;
    odd[r] = o;
  }
  for (int t = 0; t < tiles; t += kLanes) {
    Vector u[4][4];  // [row][column] after the vertical step
    for (int c = 0; c < 4; ++c) {
      Vector d[4];
      for (int r = 0; r < 4; ++r) d[r] = load((c % 2 ? odd[r] : even[r]) + t + c / 2);
      u[0][c] = d[0] - d[2];
      u[1][c] = d[1] + d[2];
      u[2][c] = d[2] - d[1];
      u[3][c] = d[1] - d[3];
    }
    Scalar* to = out + t;
    for (int r = 0; r < 4; ++r) {
      store_some(to, u[r][0] - u[r][2], tiles - t);
      store_some(to + stride, u[r][1] + u[r][2], tiles - t);
      store_some(to + 2 * stride, u[r][2] - u[r][1], tiles - t);
      store_some(to + 3 * stride, u[r][1] - u[r][3], tiles - t);
      to += 4 * stride;
    }
  }
}

// A^T m A of every tile of one row, into the plane's two lines (what lies beyond it is dropped).
void tiles_out(const Scalar* in, std::size_t stride, int tiles, int tile_row, Scalar* plane,
               int height, int width, Scalar* scratch) {
  const int length = tiles + kTileSlack;
  for (int t = 0; t < tiles; t += kLanes) {
    Vector s[2][4];
    for (int c = 0; c < 4; ++c) {
      Vector m[4];
      for (int r = 0; r < 4; ++r) m[r] = load(in + (4 * r + c) * stride + t);
      s[0][c] = m[0] + m[1] + m[2];
      s[1][c] = m[1] - m[2] - m[3];
    }
    for (int i = 0; i < 2; ++i) {
      store(scratch + 2 * i * length + t, s[i][0] + s[i][1] + s[i][2]);
      store(scratch + (2 * i + 1) * length + t, s[i][1] - s[i][2] - s[i][3]);
    }
  }
  for (int i = 0; i < 2 && 2 * tile_row + i < height; ++i) {
    const Scalar *even = scratch + 2 * i * length, *odd = even + length;
    Scalar* line = plane + static_cast<std::size_t>(2 * tile_row + i) * width;
    const int pairs = width / 2;
    for (int t = 0; t < pairs; ++t) {
      line[2 * t] = even[t];
      line[2 * t + 1] = odd[t];
    }
    if (width % 2) line[width - 1] = even[pairs];
  }
}

// A y A^T of every tile of one row: the transpose of tiles_out, for the gradient of the weights.
void tiles_out_transposed(const Scalar* plane, int height, int width, int tile_row, int tiles,
                          Scalar* out, std::size_t stride, Scalar* scratch) {
  const int length = tiles + kTileSlack;
  for (int i = 0; i < 2; ++i) {
    Scalar *e = scratch + 2 * i * length, *o = e + length;
    const int y = 2 * tile_row + i;
    if (y < height) {
      split_line(plane + static_cast<std::size_t>(y) * width, width, 0, tiles, e, o);
    } else {
      std::fill(e, e + 2 * length, Scalar(0.0));
    }
  }
  const Vector zero = Vector{} + Scalar(0.0);
  for (int t = 0; t < tiles; t += kLanes) {
    Vector a[4][2];
    for (int c = 0; c < 2; ++c) {
      const Vector top = load(scratch + c * length + t);
      const Vector bottom = load(scratch + (2 + c) * length + t);
      a[0][c] = top;
      a[1][c] = top + bottom;
      a[2][c] = top - bottom;
      a[3][c] = zero - bottom;
    }
    Scalar* to = out + t;
    for (int r = 0; r < 4; ++r) {
      store_some(to, a[r][0], tiles - t);
      store_some(to + stride, a[r][0] + a[r][1], tiles - t);
      store_some(to + 2 * stride, a[r][0] - a[r][1], tiles - t);
      store_some(to + 3 * stride, zero - a[r][1], tiles - t);
      to += 4 * stride;
    }
  }
}

// G g G^T of `count` kernels g, each 9 values: out[place(k) * stride + i]. `turned` gives those of
// the kernels turned by half a circle, which merely exchanges the first and last entries.
void kernels_in(const Scalar* kernels, int count, bool turned, Scalar* out, std::size_t stride) {
  const int place[4] = {turned ? 3 : 0, 1, 2, turned ? 0 : 3};
  constexpr int kChunk = 64;
  Scalar g[9][kChunk], v[4][3][kChunk];
  const Scalar half = Scalar(0.5);
  for (int start = 0; start < count; start += kChunk) {
    const int n = std::min(kChunk, count - start);
    for (int i = 0; i < n; ++i)
      for (int k = 0; k < 9; ++k) g[k][i] = kernels[9 * static_cast<std::size_t>(start + i) + k];
    for (int c = 0; c < 3; ++c)
      for (int i = 0; i < n; ++i) {
        const Scalar a = g[c][i], b = g[3 + c][i], d = g[6 + c][i];
        v[0][c][i] = a;
        v[1][c][i] = half * (a + b + d);
        v[2][c][i] = half * (a - b + d);
        v[3][c][i] = d;
      }
    for (int r = 0; r < 4; ++r) {
      Scalar* to = out + 4 * place[r] * stride + start;
      for (int i = 0; i < n; ++i) {
        const Scalar a = v[r][0][i], b = v[r][1][i], d = v[r][2][i];
        to[place[0] * stride + i] = a;
        to[stride + i] = half * (a + b + d);
        to[2 * stride + i] = half * (a - b + d);
        to[place[3] * stride + i] = d;
      }
    }
  }
}

// G^T u G of `count` kernels, the transpose of kernels_in: in[k * stride + i] => 9 values each.
void kernels_out(const Scalar* in, std::size_t stride, int count, Scalar* kernels) {
  const Scalar half = Scalar(0.5);
  for (int i = 0; i < count; ++i) {
    Scalar v[3][4];
    for (int c = 0; c < 4; ++c) {
      Scalar u[4];
      for (int r = 0; r < 4; ++r) u[r] = in[(4 * r + c) * stride + i];
      v[0][c] = u[0] + half * (u[1] + u[2]);
      v[1][c] = half * (u[1] - u[2]);
      v[2][c] = half * (u[1] + u[2]) + u[3];
    }
    Scalar* to = kernels + 9 * static_cast<std::size_t>(i);
    for (int r = 0; r < 3; ++r) {
      to[3 * r] = v[r][0] + half * (v[r][1] + v[r][2]);
      to[3 * r + 1] = half * (v[r][1] - v[r][2]);
      to[3 * r + 2] = half * (v[r][1] + v[r][2]) + v[r][3];
    }
  }
}
