"""The CUDA kernels' tile code on the CPU, thread by thread, against the filters' definition.

The emulator also fails on races between threads, on reads of shared memory that nobody wrote and on
anything outside the memory asked for; images lie between NaNs, so reads outside them show.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import tile_emulator as emulator
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lines_reference import Activation, downsampled, masked, packed, rectified, upsampled
from tile_emulator import DEVICES, FROM_MASK, LRELU, NONE, Call

# Shape, up, taps, down, taps of every specialised kernel, in the order of plan.h.
CASES = [
    ("separable", 2, 12, 2, 12), ("separable", 4, 24, 2, 12), ("separable", 2, 12, 4, 24),
    ("radial down", 2, 12, 2, 12), ("radial down", 4, 24, 2, 12),
    ("radial up", 2, 12, 2, 12), ("radial up", 2, 12, 4, 24),
]  # fmt: skip
FORWARD = [0, 1, 3, 4]
# Rounding of the outputs' type beside sums in float32.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2}


def taps(count: int, square: bool, seed: int) -> torch.Tensor:
    """Random taps with a sum of about 1."""
    random = torch.Generator().manual_seed(seed)
    shape = [count, count] if square else [count]
    return torch.randn(shape, generator=random, dtype=torch.float64) / count


def call_of(
    kernel: int,
    size: tuple[int, int],
    pads: tuple[int, ...],
    counts: tuple[int, int],
    **more: object,
) -> Call:
    """A call of that kernel as filtered_lrelu makes it (`pads` about the upsampled image)."""
    shape, up, _, down, _ = CASES[kernel]
    up_taps = taps(counts[0], shape == "radial up", 1)
    down_taps = taps(counts[1], shape == "radial down", 2)
    mid = [n * up + pads[2 * i] + pads[2 * i + 1] - counts[0] + 1 for i, n in enumerate(size)]
    out = [(m - counts[1]) // down + 1 for m in mid]
    assert min(out) >= 1
    call = Call(
        samples=2, channels=2, size=size, mid=(mid[0], mid[1]), out=(out[0], out[1]),
        up=(up, up), down=(down, down), up_start=(pads[0], pads[2]), down_start=(0, 0),
        up_taps=up_taps, down_taps=down_taps,
    )  # fmt: skip
    return dataclasses.replace(call, **more)  # type: ignore[arg-type]


def images(call: Call, seed: int = 0) -> torch.Tensor:
    """Random images in float64 that the call's dtype holds exactly."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn([call.samples, call.channels, *call.size[::-1]], generator=random)
    return x.to(call.dtype).double()


def check(call: Call) -> None:
    """Run the call with every activation it can have, and compare output and mask."""
    x = images(call)
    bias = torch.linspace(-0.5, 0.5, call.channels).to(call.dtype).double()
    a = Activation(1.5, 0.3, 0.8) if call.activation else Activation(1, 1, math.inf)
    up_taps, down_taps = call.up_taps, call.down_taps
    if call.dtype != torch.float64:
        up_taps, down_taps = up_taps.float().double(), down_taps.float().double()
    up = (up_taps, call.up, call.mid, call.up_start)
    down = (down_taps, call.down, call.out, call.down_start)
    mask = None
    if call.activation == FROM_MASK:
        bias = torch.zeros_like(bias)
        codes = torch.randint(0, 4, [call.samples, call.channels, *call.mid[::-1]])
        mask = packed(codes.to(torch.uint8))
        v = masked(upsampled(x, *up), codes, a)
    else:
        v, codes = rectified(upsampled(x + bias.view(1, -1, 1, 1), *up), a)
        if call.activation == LRELU:
            mask = torch.full_like(packed(codes), 0xFF)
    expected = downsampled(v, *down)
    before = None if mask is None else mask.clone()
    given_bias = None if call.activation == FROM_MASK else bias
    y = emulator.run(call, x, given_bias, mask, a.gain, a.slope_gain, a.limit)
    scale = float(expected.abs().max()) + 1e-3
    worst = float((y.double() - expected).abs().max())
    tolerance = 1e-12 if call.dtype == torch.float64 else TOLERANCE[call.dtype]
    assert worst <= tolerance * scale * 4, (worst, scale, emulator.plan(call))
    if call.activation == LRELU and call.dtype != torch.float64:
        check_mask(call, mask, codes, v)
    elif mask is not None and call.activation == FROM_MASK:
        assert torch.equal(mask, before)


def check_mask(call: Call, mask: torch.Tensor, codes: torch.Tensor, v: torch.Tensor) -> None:
    """Every code as it should be, but where float32 cannot tell (at zero and at the clamp)."""
    shifts = torch.tensor([0, 2, 4, 6]).view(1, 1, 1, 4, 1)
    written = (mask.int().unsqueeze(3) >> shifts & 3).flatten(2, 3)[:, :, : call.mid[1]]
    differ = written != codes
    close = (v.abs() < 1e-5) | ((v.abs() - 0.8).abs() < 1e-5)
    assert not (differ & ~close).any(), int((differ & ~close).sum())


@pytest.mark.parametrize("device", list(DEVICES))
@pytest.mark.parametrize("kernel", range(len(CASES)))
def test_every_kernel_and_tile(kernel: int, device: str) -> None:
    """Larger than one tile, odd sizes; the planner keeps within the device's shared memory."""
    _, _, up_taps, down, down_taps = CASES[kernel]
    size = (45, 39) if down == 2 else (61, 47)
    for pads in ((9, 8, 6, 7), (10, 9, 11, 12)):
        call = call_of(kernel, size, pads, (up_taps, down_taps), device=DEVICES[device], samples=1)
        for activation in [FROM_MASK] + [LRELU] * (kernel in FORWARD):
            one = dataclasses.replace(call, activation=activation)
            chosen = emulator.plan(one)
            assert chosen.fits
            assert chosen.kernel == kernel
            assert chosen.shared_bytes <= DEVICES[device][0]
            check(one)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_specialised_kernels_on_any_size(data: st.DataObject) -> None:
    kernel = data.draw(st.integers(0, len(CASES) - 1))
    _, up, up_taps, _, down_taps = CASES[kernel]
    counts = (
        data.draw(st.integers(1, up_taps)),
        data.draw(st.integers(1, down_taps)),
    )
    size = (data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))
    pads = data.draw(st.tuples(*[st.integers(-3, 30)] * 4))
    least = min(size[i] * up + pads[2 * i] + pads[2 * i + 1] - counts[0] + 1 for i in (0, 1))
    if least < counts[1]:
        return
    modes = [FROM_MASK, *([LRELU] if kernel in FORWARD else [])]
    call = call_of(
        kernel, size, pads, counts,
        activation=data.draw(st.sampled_from(modes)),
        dtype=data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16])),
        channels=data.draw(st.integers(1, 9)),
        channels_last=data.draw(st.booleans()),
        device=data.draw(st.sampled_from(list(DEVICES.values()))),
        backwards=data.draw(st.booleans()),
        samples=1,
    )  # fmt: skip
    # Gradients also begin elsewhere.
    starts = data.draw(st.tuples(*[st.integers(-5, 3)] * 2))
    if call.activation == FROM_MASK:
        call = dataclasses.replace(call, down_start=starts)
    assert emulator.plan(call).kernel == kernel or counts[0] <= 12
    check(call)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_general_kernel_on_anything(data: st.DataObject) -> None:
    pair = st.tuples(st.integers(1, 5), st.integers(1, 5))
    up, down = data.draw(pair), data.draw(pair)
    count = st.integers(1, 9)
    filters = [
        taps(data.draw(count), False, 3)
        if data.draw(st.booleans())
        else torch.randn([data.draw(count), data.draw(count)], dtype=torch.float64)
        for _ in (0, 1)
    ]
    size = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    mid = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    out = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    starts = data.draw(st.tuples(*[st.integers(-6, 6)] * 4))
    call = Call(
        samples=data.draw(st.integers(1, 2)), channels=data.draw(st.integers(1, 5)),
        size=size, mid=mid, out=out, up=up, down=down, up_start=starts[:2], down_start=starts[2:],
        up_taps=filters[0], down_taps=filters[1],
        activation=data.draw(st.sampled_from([NONE, FROM_MASK])),
        dtype=data.draw(st.sampled_from([torch.float32, torch.float64, torch.float16])),
        channels_last=data.draw(st.booleans()),
        device=data.draw(st.sampled_from(list(DEVICES.values()))),
        general=True, backwards=data.draw(st.booleans()),
    )  # fmt: skip
    check(call)


def stream_call(
    taps_given: torch.Tensor, up: int, down: int, size: tuple[int, int], pads: tuple[int, ...],
    first: bool,
) -> Call | None:  # fmt: skip
    """A call as upfirdn2d makes it: the filter before or after the change of rate."""
    count = taps_given.shape[0]
    padded = [n * up + pads[2 * i] + pads[2 * i + 1] for i, n in enumerate(size)]
    out = [(n - count) // down + 1 for n in padded]
    if min(out) < 1:
        return None
    one = torch.ones([1], dtype=torch.float64) * 1.25
    mid = [n - count + 1 for n in padded] if first else padded
    return Call(
        samples=2, channels=3, size=size, mid=(mid[0], mid[1]), out=(out[0], out[1]),
        up=(up, up), down=(down, down), up_start=(pads[0], pads[2]), down_start=(0, 0),
        up_taps=taps_given if first else one, down_taps=one if first else taps_given,
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_short_filters_on_any_size(data: st.DataObject) -> None:
    up, down = data.draw(st.sampled_from([(2, 1), (1, 2), (1, 1)]))
    count = data.draw(st.integers(1, 4) if up == down else st.integers(1, 12))
    call = stream_call(
        taps(count, False, 5), up, down,
        data.draw(st.tuples(st.integers(1, 21), st.integers(1, 21))),
        data.draw(st.tuples(*[st.integers(-3, 9)] * 4)),
        data.draw(st.booleans()),
    )  # fmt: skip
    if call is None:
        return
    starts = data.draw(st.tuples(*[st.integers(-4, 4)] * 2))  # gradients begin elsewhere
    call = dataclasses.replace(
        call, down_start=starts, channels_last=data.draw(st.booleans()),
        dtype=data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16])),
        device=(48 << 10, 64 << 10, data.draw(st.sampled_from([1, 132]))),
    )  # fmt: skip
    x = images(call)
    up_taps, down_taps = (t.float().double() for t in (call.up_taps, call.down_taps))
    u = upsampled(x, up_taps, call.up, call.mid, call.up_start)
    expected = downsampled(u, down_taps, call.down, call.out, call.down_start)
    y = emulator.run_stream(call, x)
    scale = float(expected.abs().max()) + 1e-3
    worst = float((y.double() - expected).abs().max())
    assert worst <= TOLERANCE[call.dtype] * scale * 4


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_bias_and_leaky_relu(data: st.DataObject) -> None:
    """Both memory formats, packs of 16 bytes and single values; the gradient with its sums."""
    dtype = data.draw(st.sampled_from(list(emulator.ELEMENTS)))
    shape = data.draw(st.tuples(*[st.integers(1, n) for n in (3, 17, 6, 9)]))
    side_by_side, clamped = data.draw(st.booleans()), data.draw(st.booleans())
    pack = 16 // torch.empty([], dtype=dtype).element_size()
    channels, run = shape[1], shape[2] * shape[3]
    a = Activation(1.5, 0.3, 0.8 if clamped else math.inf)
    limit = float(torch.tensor(a.limit, dtype=dtype))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    x, dy = (torch.randn(shape, generator=random).to(dtype) for _ in range(2))
    bias = torch.randn([channels], generator=random).to(dtype)
    u = x.double() + bias.double().view(1, -1, 1, 1)
    v, _ = rectified(u, dataclasses.replace(a, limit=limit))
    y, _ = emulator.run_pointwise(x, None, bias, a, side_by_side, packed=channels * run % pack == 0)
    near = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-7}  # sums in float, then rounded
    torch.testing.assert_close(y.double(), v, **near)
    # The gradient is told from the output that was written, clamped where it equals the limit.
    written = y.double()
    factor = torch.where(written > 0, a.gain, a.slope_gain)
    factor[written.abs() >= limit] = 0.0
    expected = dy.double() * factor
    packed_now = (channels if side_by_side else run) % pack == 0
    dx, sums = emulator.run_pointwise(dy, y, None, a, side_by_side, packed=packed_now)
    torch.testing.assert_close(dx.double(), expected, **near)
    torch.testing.assert_close(sums, expected.sum([0, 2, 3]), rtol=1e-5, atol=1e-5)


def test_conversions_of_halves() -> None:
    """Every half there is, and rounding of what lies between, as torch does it."""
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    for value, half in zip(bits.tolist(), bits.view(torch.float16).float().tolist(), strict=True):
        back = emulator.from_half(value & 0xFFFF)
        assert back == half or (math.isnan(back) and math.isnan(half))
    random = torch.Generator().manual_seed(0)
    floats = torch.randn([2000], generator=random) * torch.logspace(-9, 6, 2000)
    for value in [*floats.tolist(), 0.0, -0.0, 65519.9, 65520.0, 1e-8, math.inf, -math.inf]:
        for dtype, convert in (
            (torch.float16, emulator.to_half),
            (torch.bfloat16, emulator.to_bfloat),
        ):
            expected = torch.tensor(value).to(dtype).view(torch.int16).item() & 0xFFFF
            assert convert(value) == expected, (value, dtype)


@given(n=st.integers(0, 2**31 - 1), d=st.integers(1, 2**31 - 1))
def test_division_by_a_known_number(n: int, d: int) -> None:
    assert emulator.divide(n, d) == n // d
    small = d % 1000 + 1
    assert emulator.divide(n, small) == n // small


@pytest.mark.parametrize("device", list(DEVICES))
@pytest.mark.parametrize("kernel", range(len(CASES)))
def test_plans_for_real_layers_use_the_device(kernel: int, device: str) -> None:
    """StyleGAN3's sizes: tiles fit, and more shared memory never makes them smaller."""
    _, up, up_taps, _, down_taps = CASES[kernel]
    areas = []
    for limits in (DEVICES["48 KB"], DEVICES[device]):
        call = call_of(kernel, (276 * 2 // up, 276 * 2 // up), (9, 8, 6, 7), (up_taps, down_taps),
                       activation=FROM_MASK, device=limits, channels=64, samples=8)  # fmt: skip
        chosen = emulator.plan(call)
        assert chosen.fits
        assert chosen.shared_bytes <= limits[0]
        areas.append(chosen.tile[0] * chosen.tile[1])
    assert areas[1] >= areas[0] * 0.9
    assert areas[0] >= 256


def test_bounds_of_the_general_kernel() -> None:
    """64 taps by 16-fold rates fit in the 48 KB of any card; what does not fit is refused."""
    for count, fits in ((64, True), (400, False)):
        call = Call(
            samples=1, channels=1, size=(64, 64), mid=(900, 900), out=(50, 50), up=(16, 16),
            down=(16, 16), up_start=(0, 0), down_start=(0, 0), up_taps=taps(count, False, 1),
            down_taps=taps(count, False, 2), device=DEVICES["48 KB"],
        )  # fmt: skip
        chosen = emulator.plan(call)
        assert chosen.kernel == -1
        assert chosen.fits is fits
