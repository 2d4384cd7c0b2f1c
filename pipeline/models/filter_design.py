"""Low-pass filters of StyleGAN3 (Karras et al. 2021, section 2 and appendix C).

Knows nothing about networks. Frequencies are in cycles per unit, the unit being the image side.
"""

from __future__ import annotations

import math

import numpy as np
import torch

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def kaiser_window(taps: int, transition_width: float, sampling_rate: float) -> FloatArray:
    """Kaiser window whose length and transition width (Kaiser 1974) set its attenuation."""
    attenuation_db = 2.285 * (taps - 1) * math.pi * transition_width / (sampling_rate / 2) + 7.95
    if attenuation_db > 50:
        beta = 0.1102 * (attenuation_db - 8.7)
    elif attenuation_db > 21:
        beta = 0.5842 * (attenuation_db - 21) ** 0.4 + 0.07886 * (attenuation_db - 21)
    else:
        beta = 0.0
    return np.kaiser(taps, beta)


def design_lowpass_filter(
    taps: int, cutoff: float, width: float, sampling_rate: float, radial: bool = False
) -> torch.Tensor | None:
    """A low-pass filter with unit gain at zero frequency.

    Args:
        taps: length; 1 means no filter.
        cutoff: half-amplitude frequency.
        width: of the transition band.
        sampling_rate: at which the filter runs.
        radial: False: one dimension, for both axes in turn (windowed sinc); True: two
            dimensions, the same in all directions (windowed jinc).

    Returns float32 [taps], or [taps, taps] if radial, or None for taps = 1.
    """
    if taps == 1:
        return None
    window = kaiser_window(taps, width, sampling_rate)
    position = (np.arange(taps) - (taps - 1) / 2) / sampling_rate
    if radial:
        # Here: nothing else needs it, and it is a tenth of the start of all that draws.
        from scipy.special import j1

        radius = np.hypot(*np.meshgrid(position, position))
        # An odd number of taps has one at the centre, where the limit of J1(x) / x is 1/2.
        safe = np.where(radius == 0, 1.0, radius)
        ideal = np.where(radius == 0, cutoff, j1(2 * math.pi * cutoff * safe) / (math.pi * safe))
        values = ideal * np.outer(window, window)
    else:
        values = np.sinc(2 * cutoff * position) * window
    return torch.as_tensor(values / values.sum(), dtype=torch.float32)
