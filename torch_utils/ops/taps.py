"""Filters as the compiled operators take them: correlation taps on the host, remembered.

A layer's filter never changes, so what is derived from it (gain, direction, its one-dimensional
factor, the mirrored taps of gradients) is computed once; on a GPU no step then copies a filter.
Knows nothing about images but the precision that they are computed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# What was derived from each filter that was met: (purpose, ...) -> (the filter's version, result).
_derived: WeakIdKeyDictionary = WeakIdKeyDictionary()


def prepared(f: Tensor | None, x: Tensor, gain: float, flip_filter: bool) -> Tensor:
    """The taps that upfirdn2d with this filter, gain and direction correlates x with.

    float64 for such an x, else float32; [taps] where the filter is an outer product of one line
    with itself, else [height, width]. None is the filter that changes nothing.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if f is None:
        return torch.full([1], gain**0.5, dtype=dtype)

    def derive(f: Tensor) -> Tensor:
        line = _separated(f.detach().to("cpu", torch.float64))
        line = line * gain ** (line.ndim / 2)
        return (line if flip_filter else _mirror(line)).to(dtype).contiguous()

    return _remembered(f, (dtype, gain, flip_filter), derive)


def mirrored(taps: Tensor) -> Tensor:
    """The taps in opposite order along every axis."""
    return _remembered(taps, ("mirrored",), _mirror)


def _remembered(f: Tensor, purpose: tuple[Any, ...], derive: Callable[[Tensor], Tensor]) -> Tensor:
    if torch.compiler.is_compiling():
        # Part of the graph, anew at each call; on a GPU that waits for the device.
        return derive(f)
    if f.is_inference():
        return derive(f)  # such tensors do not say when they change
    known = _derived.setdefault(f, {})
    version, result = known.get(purpose, (None, None))
    if version != f._version:
        with torch.inference_mode(False):  # a later call may need gradients
            result = derive(f)
        known[purpose] = (f._version, result)
    return result


def _mirror(taps: Tensor) -> Tensor:
    return taps.flip(list(range(taps.ndim)))


def _separated(taps: Tensor) -> Tensor:
    """The 1-D taps whose outer product with themselves a 2-D filter is, else the filter.

    StyleGAN2 keeps its short filters in two dimensions; along the axes they cost far less.
    """
    if taps.ndim == 1 or taps.shape[0] != taps.shape[1] or torch.compiler.is_compiling():
        return taps
    total = taps.sum()
    line = taps.sum(0) / total.abs().sqrt() if total > 0 else taps.diag()
    near = 1e-9 * float(taps.abs().max())
    exact = torch.allclose(torch.outer(line, line), taps, rtol=1e-6, atol=near)
    return line if exact else taps
