"""Work that is recorded once and then launched as a whole: CUDA graphs, and the same path on a CPU.

A `Recording` is a function of tensors that reads and writes the same memory at every call. Its
first calls run as they are, so that libraries choose their algorithms and layers fill their caches;
the next one records the work, and from then on a call copies its inputs and launches the recording.
`CudaRecorder` records CUDA graphs; `Rerun` runs the function again wherever a graph would be
launched, so that a CPU goes through all of the rest. Knows nothing about networks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
# Calls that run as they are before one is recorded.
WARM_UP_CALLS = 3


class CannotRecordError(Exception):
    """Something in the function cannot be recorded; it has not run. The text is a phrase."""


class Recorder(Protocol):
    """How work is recorded, and where it runs before."""

    def beside(self) -> AbstractContextManager[None]:
        """Inside the block work runs where it will be recorded."""

    def record(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """What launches the work of `function`, which has not run yet, and gives its outputs.

        The outputs lie in the same memory at each launch. CannotRecordError if it is not possible.
        """


class Recording:
    """A function of tensors, called again and again with inputs of the same shapes and types.

    Args:
        function: what is called. It must do the same work each time whatever the values: no
            decision on the host by a value on the device, no other memory than its inputs', its own
            and what stays where it is (weights).
        recorder: how its work is recorded.

    A call's outputs are overwritten by the next call, and where several recordings share a recorder
    by those of the others that were recorded earlier; who keeps them must copy.
    """

    def __init__(self, function: Callable[..., Outputs], recorder: Recorder) -> None:
        self._function = function
        self._recorder = recorder
        self._inputs: list[Tensor] = []
        self._launch: Callable[[], Outputs] | None = None
        self._calls = 0

    @property
    def recorded(self) -> bool:
        """Whether the work has been recorded."""
        return self._launch is not None

    def __call__(self, *inputs: Tensor) -> Outputs:
        """The function's outputs for these values of its inputs.

        ValueError if their shapes or types are not those of the first call.
        """
        self._take_in(inputs)
        if self._launch is None and self._calls < WARM_UP_CALLS:
            self._calls += 1
            with self._recorder.beside():
                return self._function(*self._inputs)
        if self._launch is None:
            self._launch = self._recorder.record(lambda: self._function(*self._inputs))
        return self._launch()

    def _take_in(self, inputs: Sequence[Tensor]) -> None:
        """Copy the values into the memory that the function reads."""
        given = [(tensor.shape, tensor.dtype) for tensor in inputs]
        if not self._inputs:
            self._inputs = [tensor.detach().clone() for tensor in inputs]
        elif given != [(tensor.shape, tensor.dtype) for tensor in self._inputs]:
            raise ValueError("a recording was called with inputs of other shapes or types")
        else:
            with torch.no_grad():
                for mine, theirs in zip(self._inputs, inputs, strict=True):
                    mine.copy_(theirs)


class CudaRecorder:
    """CUDA graphs that share one stream and one pool of memory.

    Sharing is right because they are launched one after the other and in the order in which they
    were recorded: what one has freed while it was recorded, later ones write to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._memory = torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Work on the stream that will be recorded; before it and behind it the streams meet."""
        outer = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outer)
        with torch.cuda.stream(self._stream):
            yield
        outer.wait_stream(self._stream)

    def record(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """Record a graph; random numbers go on from the generator's state at each launch."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (the one that reads images) go on pinning memory meanwhile.
            with torch.cuda.graph(
                graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"
            ):
                outputs = function()
        except RuntimeError as error:
            self._stream = torch.cuda.Stream(self._device)
            self._memory = torch.cuda.graph_pool_handle()
            raise _given_up(error, self._device) from error

        def launch() -> Outputs:
            graph.replay()
            return outputs

        return launch


class Rerun:
    """The function itself, run again at each launch into the same memory."""

    def beside(self) -> AbstractContextManager[None]:
        """Where the caller is."""
        return contextlib.nullcontext()

    def record(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """What runs `function`."""
        outputs: Outputs | None = None

        def launch() -> Outputs:
            nonlocal outputs
            found = function()
            if outputs is None:
                outputs = found
            else:
                with torch.no_grad():
                    for place, value in zip(outputs, found, strict=True):
                        place.copy_(value)
            return outputs

        return launch


def recorder_for(device: torch.device) -> Recorder | None:
    """How work is recorded on a device; None where there is nothing to be gained."""
    return CudaRecorder(device) if device.type == "cuda" else None


def graphed(function: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of one tensor and its gradient as two CUDA graphs.

    Args:
        function: as for `Recording`; it is run a few times.
        like: a tensor of the shape and type that it will be called with, requiring gradients.

    A call's result is overwritten by the next call. CannotRecordError if it is not possible.
    """
    try:
        with torch.enable_grad():
            replay: Any = torch.cuda.make_graphed_callables(function, (like,))
    except RuntimeError as error:
        raise _given_up(error, like.device) from error

    def launch(x: Tensor) -> Tensor:
        result: Tensor = replay(x)
        return result

    return launch


def _given_up(error: RuntimeError, device: torch.device) -> CannotRecordError:
    """What to raise for a recording that broke off, after tidying up behind it.

    It leaves torch's random generator believing that it is still being recorded; the end of the
    next recording, of something harmless, sets that right.
    """
    torch.cuda.synchronize(device)
    stream = torch.cuda.Stream(device)
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local"):
        torch.zeros([1], device=device)
    return CannotRecordError((str(error).strip().splitlines() or [type(error).__name__])[0])
