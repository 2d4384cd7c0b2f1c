// A block's whole work as a list of phases: what the kernels and the emulator both run.
//
// `Block` gives the phases their threads: `block.each(f)` calls f(worker) for every thread and then
// waits for all of them. In a kernel each thread calls f for itself.

#pragma once

#include "general.h"
#include "stages.h"

namespace animedrag {

template <Shape S, class F, class Activate, class Block, class Cells>
ANIMEDRAG_FN void run_tile(const FirJob& job, const float* up_taps, const float* down_taps,
                           Block& block, Cells cells) {
  const Place place = place_of(job, block.index);
  block.each([&](Worker w) { load_tile(job, place, cells, w); });
  if constexpr (S == Shape::kRadialUp) {
    if (place.y.skip % F::kDown == 0)
      block.each([&](Worker w) {
        through_y_radial<F, Activate, 0>(job, place, up_taps, down_taps, cells, w);
      });
    else
      block.each([&](Worker w) {
        through_y_radial<F, Activate, 1>(job, place, up_taps, down_taps, cells, w);
      });
    block.each([&](Worker w) { down_along_x<F>(job, place, down_taps, cells, w); });
  } else {
    block.each([&](Worker w) { up_along_x<F>(job, place, up_taps, cells, w); });
    if constexpr (S == Shape::kRadialDown) {
      block.each([&](Worker w) { up_along_y<F, Activate>(job, place, up_taps, cells, w); });
      block.each([&](Worker w) { down_radial<F>(job, place, down_taps, cells, w); });
    } else {
      // Phases of up- and downsampling lie apart by skip: two ways to combine them.
      static_assert(F::kUp == 2 || F::kDown == 2);
      if (place.y.skip % F::kDown == 0)
        block.each([&](Worker w) {
          through_y<F, Activate, 0>(job, place, up_taps, down_taps, cells, w);
        });
      else
        block.each([&](Worker w) {
          through_y<F, Activate, 1>(job, place, up_taps, down_taps, cells, w);
        });
      block.each([&](Worker w) { down_along_x<F>(job, place, down_taps, cells, w); });
    }
  }
  block.each([&](Worker w) { store_tile(job, place, cells, w); });
}

template <class T, class Real, class Block, class Cells>
ANIMEDRAG_FN void run_general_tile(const GeneralJob<Real>& job, const Real* up_taps,
                                   const Real* down_taps, Block& block, Cells cells) {
  const Place place = place_of(job.fir, block.index);
  block.each([&](Worker w) { load_as<T, Real>(job.fir, place, cells, w); });
  if (!job.up_square)
    block.each([&](Worker w) { general_up_x(job, place, up_taps, cells, w); });
  block.each([&](Worker w) { general_activate(job, place, up_taps, cells, w); });
  if (!job.down_square)
    block.each([&](Worker w) { general_down_x(job, place, down_taps, cells, w); });
  block.each([&](Worker w) { general_finish<T, Real>(job, place, down_taps, cells, w); });
}

}  // namespace animedrag
