// Tiles between images and shared memory: conversion, bias, borders, both memory formats.
//
// Lanes of a warp lie side by side along the image's rows, or, where a tile has several channels
// (channels-last), channels first.

#pragma once

#include "geometry.h"

namespace animedrag {

constexpr int kWarp = 32;

template <class T, class Real>
ANIMEDRAG_FN Real read_image(const void* at, std::int64_t index) {
  return static_cast<Real>(widen(static_cast<const T*>(at)[index]));
}

template <class T, class Real>
ANIMEDRAG_FN void write_image(void* at, std::int64_t index, Real value) {
  narrow(value, static_cast<T*>(at)[index]);
}

ANIMEDRAG_FN std::int64_t plane_offset(const Image& image, int sample, int channel) {
  return sample * image.sample + channel * image.channel;
}

// Input rows and columns of the tile, plus bias, zero outside the image => cells.
template <class T, class Real, class Cells>
ANIMEDRAG_FN void load_as(const FirJob& job, const Place& place, Cells cells, Worker w) {
  const Buffer& b = job.layout.input;
  const int lane = w.thread % kWarp, warp = w.thread / kWarp, warps = w.threads / kWarp;
  const int plane = lane % job.planes, channel = place.channel + plane;
  if (plane >= place.planes) return;
  const std::int64_t base = plane_offset(job.source, place.sample, channel);
  const Real bias =
      job.bias ? read_image<T, Real>(job.bias, channel) : static_cast<Real>(0);
  for (int c = lane / job.planes; c < b.columns; c += kWarp / job.planes) {
    const int column = place.x.in_at + c;
    const bool in_row = column >= 0 && column < job.x.in;
    const std::int64_t from = base + std::int64_t{1} * column * job.source.column;
    const int to = b.at + plane * b.plane + c;
    ANIMEDRAG_UNROLL_BY(4)
    for (int r = warp; r < b.rows; r += warps) {
      const int row = place.y.in_at + r;
      const bool inside = in_row && row >= 0 && row < job.y.in;
      cells[to + r * b.row] =
          inside ? read_image<T, Real>(job.source.at, from + std::int64_t{1} * row * job.source.row) + bias
                 : static_cast<Real>(0);
    }
  }
}

// A buffer with the tile's outputs => target.
template <class T, class Real, class Cells>
ANIMEDRAG_FN void store_as(const FirJob& job, const Place& place, Cells cells, Worker w) {
  const Buffer& b = job.layout.result;
  const int lane = w.thread % kWarp, warp = w.thread / kWarp, warps = w.threads / kWarp;
  const int plane = lane % job.planes, channel = place.channel + plane;
  if (plane >= place.planes) return;
  const std::int64_t base = plane_offset(job.target, place.sample, channel);
  const int columns = least(job.x.tile, job.x.out - place.x.out_at);
  const int rows = least(job.y.tile, job.y.out - place.y.out_at);
  for (int c = lane / job.planes; c < columns; c += kWarp / job.planes) {
    const std::int64_t to = base + std::int64_t{1} * (place.x.out_at + c) * job.target.column;
    const int from = b.at + plane * b.plane + c;
    for (int r = warp; r < rows; r += warps)
      write_image<T, Real>(const_cast<void*>(job.target.at),
                           to + std::int64_t{1} * (place.y.out_at + r) * job.target.row,
                           cells[from + r * b.row]);
  }
}

template <class Cells>
ANIMEDRAG_FN void load_tile(const FirJob& job, const Place& place, Cells cells, Worker w) {
  switch (job.element) {
    case Element::kHalf: return load_as<Half, float>(job, place, cells, w);
    case Element::kBfloat: return load_as<Bfloat, float>(job, place, cells, w);
    default: return load_as<float, float>(job, place, cells, w);
  }
}

template <class Cells>
ANIMEDRAG_FN void store_tile(const FirJob& job, const Place& place, Cells cells, Worker w) {
  switch (job.element) {
    case Element::kHalf: return store_as<Half, float>(job, place, cells, w);
    case Element::kBfloat: return store_as<Bfloat, float>(job, place, cells, w);
    default: return store_as<float, float>(job, place, cells, w);
  }
}

}  // namespace animedrag
