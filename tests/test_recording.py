"""Recordings: warm-up, one recording, launches on the same memory; on a GPU, CUDA graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from torch_utils.recording import (
    WARM_UP_CALLS,
    CannotRecordError,
    CudaRecorder,
    Outputs,
    Recording,
    Rerun,
    recorder_for,
)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Logged(Rerun):
    """A Rerun that writes down what is asked of it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        self.log.append("beside")
        yield

    def record(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        self.log.append("record")
        launch = super().record(function)

        def logged() -> Outputs:
            self.log.append("launch")
            return launch()

        return logged


def test_a_few_calls_as_they_are_one_recording_then_launches() -> None:
    recorder = Logged()
    weight = torch.tensor(2.0)
    double = Recording(lambda x, y: (x * weight, x + y), recorder)
    values = []
    for call in range(WARM_UP_CALLS + 3):
        x = torch.full([2], float(call))
        assert double.recorded == (call > WARM_UP_CALLS)
        values.append([value.tolist() for value in double(x, x + 1)])
    assert values == [[[2.0 * k] * 2, [2.0 * k + 1] * 2] for k in range(WARM_UP_CALLS + 3)]
    launches = ["record", "launch", "launch", "launch"]
    assert recorder.log == ["beside"] * WARM_UP_CALLS + launches


def test_inputs_and_outputs_stay_where_they_are() -> None:
    seen: set[int] = set()

    def function(x: Tensor) -> Outputs:
        seen.add(x.data_ptr())
        return (x + 1,)

    recording = Recording(function, Rerun())
    for _ in range(WARM_UP_CALLS):
        recording(torch.zeros(3))
    first = recording(torch.zeros(3))[0]
    second = recording(torch.ones(3))[0]
    assert len(seen) == 1
    assert first.data_ptr() == second.data_ptr()
    assert first.tolist() == [2.0] * 3  # overwritten by the second call, as a graph would


@pytest.mark.parametrize("other", [torch.zeros(4), torch.zeros(3, dtype=torch.float64)])
def test_other_shapes_or_types_are_refused(other: Tensor) -> None:
    recording = Recording(lambda x: (x,), Rerun())
    recording(torch.zeros(3))
    with pytest.raises(ValueError, match="other shapes or types"):
        recording(other)


def test_a_cpu_has_nothing_to_record() -> None:
    assert recorder_for(torch.device("cpu")) is None


@needs_gpu
def test_graphs_draw_as_the_function_does() -> None:
    device = torch.device("cuda")
    noisy = Recording(lambda x: (x + torch.randn_like(x),), CudaRecorder(device))
    for seed in range(WARM_UP_CALLS + 3):
        x = torch.full([1000], float(seed), device=device)
        torch.manual_seed(seed)
        expected = x + torch.randn_like(x)
        torch.manual_seed(seed)
        assert torch.equal(noisy(x)[0], expected)


@needs_gpu
def test_what_cannot_be_recorded_says_so_and_leaves_torch_usable() -> None:
    device = torch.device("cuda")

    def decides(x: Tensor) -> Outputs:
        noise = torch.randn_like(x)
        return (x if float(x.sum()) > 0 else noise,)

    recorder = CudaRecorder(device)
    recording = Recording(decides, recorder)
    x = torch.ones([4], device=device)
    for _ in range(WARM_UP_CALLS):
        recording(x)
    with pytest.raises(CannotRecordError):
        recording(x)
    torch.manual_seed(0)
    first = torch.randn([4], device=device)
    torch.manual_seed(0)
    assert torch.equal(torch.randn([4], device=device), first)
    again = Recording(lambda y: (y * 2,), recorder)
    for value in range(WARM_UP_CALLS + 2):
        assert again(x * value)[0].tolist() == [2.0 * value] * 4
