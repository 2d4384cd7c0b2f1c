"""Several processes that compute one thing together: their world, and what they exchange.

Every function does nothing, or gives back what it got, where there is one process only, so that
callers have one path. Also the rows of a batch that this process computes while the batch is spread
over several (`spread`), for layers that draw for, or average over, the whole of it. Knows nothing
about networks, stages, or how processes are started.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from torch_utils.ranks import SINGLE, Ranks

# Whoever waits longer for another process gives up: more than any rank spends on its own (samples,
# saving a state), and far less than a night.
TIMEOUT = datetime.timedelta(minutes=30)

Anything = TypeVar("Anything")


def _as_it_is(error: Exception) -> Exception:
    return error


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    explain: turns an error of an exchange into what is raised for it (a process that has died
    shows as a closed connection in all others).
    """

    ranks: Ranks = SINGLE
    explain: Callable[[Exception], Exception] = _as_it_is

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self.ranks.rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.ranks.size

    @property
    def local_rank(self) -> int:
        """This process's number among those on the same machine."""
        return self.ranks.local_rank

    @property
    def local_size(self) -> int:
        """How many processes there are on this machine."""
        return self.ranks.local_size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.ranks.is_first

    @property
    def rows(self) -> slice:
        """This process's share of a batch or list: every size-th, from its rank on."""
        return slice(self.rank, None, self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, of any dtype and device, in each of them."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        with self._exchange():
            dist.all_reduce(total)
        return total

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor (all of one dtype) by its mean over the processes, in one message."""
        if self.size == 1 or not tensors:
            return
        bucket = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._exchange():
            dist.all_reduce(bucket)
        bucket /= self.size
        pieces = bucket.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(
            list(tensors),
            [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)],
        )

    def gather(self, rows: Tensor) -> Tensor:
        """All processes' rows (N × ...) in each of them: row i of rank r comes before row i of
        rank r + 1 and before any row i + 1, so that shares taken with `rows` are put together."""
        if self.size == 1:
            return rows
        rows = rows.detach().contiguous()
        counts = self._gather_equal(torch.tensor([len(rows)])).flatten()
        padded = rows.new_zeros((int(counts.max()), *rows.shape[1:]))
        padded[: len(rows)] = rows
        table = self._gather_equal(padded)  # size × most rows × ...
        present = torch.arange(len(padded))[:, None] < counts[None, :]
        return table.transpose(0, 1).flatten(0, 1)[present.flatten().to(rows.device)]

    def _gather_equal(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._exchange():
            dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process. Does not wait for a GPU."""
        return bool(self.sum(torch.tensor(int(flag)))) if self.size > 1 else flag

    def largest(self, values: Mapping[str, float]) -> dict[str, float]:
        """The largest of each value over the processes; all must give the same names."""
        if self.size == 1:
            return dict(values)
        row = torch.tensor([list(values.values())], dtype=torch.float64)
        return dict(zip(values, self.gather(row).amax(dim=0).tolist(), strict=True))

    def broadcast(self, value: Anything) -> Anything:
        """The first process's value, which must be picklable, in all of them."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.is_first else None]
        with self._exchange():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first process's tensors by name, on the CPU, in all of them."""
        if self.size == 1:
            return {name: tensor.cpu() for name, tensor in tensors.items()}
        kinds = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        received = {}
        for name, (shape, dtype) in self.broadcast(kinds).items():
            mine = tensors[name].detach().cpu().contiguous() if self.is_first else None
            received[name] = torch.empty(shape, dtype=dtype) if mine is None else mine
            with self._exchange():
                dist.broadcast(received[name], src=0)
        return received

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        # What the backends raise is RuntimeError, or one of its children.
        except RuntimeError as error:
            raise self.explain(error) from error


ALONE = World()

# The world that the process belongs to, in all its threads: as torch's default process group is.
_members: list[World] = [ALONE]


def current() -> World:
    """The world this process joined; ALONE if none."""
    return _members[-1]


@contextlib.contextmanager
def joined(place: Ranks, explain: Callable[[Exception], Exception] = _as_it_is) -> Iterator[World]:
    """Meet the other processes (at MASTER_ADDR:MASTER_PORT), and leave them when the block ends.

    Tensors on the CPU travel by gloo; those on GPUs by nccl, or by gloo where processes share one.
    """
    own_gpus = torch.cuda.is_available() and place.local_size <= torch.cuda.device_count()
    if own_gpus:
        torch.cuda.set_device(place.local_rank)
    backend = "cpu:gloo,cuda:nccl" if own_gpus and dist.is_nccl_available() else "gloo"
    try:
        store, *_ = next(dist.rendezvous("env://", place.rank, place.size, timeout=TIMEOUT))
        # After a restart the launcher's store may still hold the addresses of those that died.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"attempt {attempt}", store),
            rank=place.rank,
            world_size=place.size,
            timeout=TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise explain(error) from error
    world = World(place, explain)
    _members.append(world)
    try:
        yield world
        # Only after a good end: with a peer gone, taking leave would wait for it.
        dist.destroy_process_group()
    finally:
        _members.remove(world)


@dataclass(frozen=True)
class Share:
    """Rows index, index + count, index + 2·count, ... of a batch: one of `count` equal pieces.

    Strided as the groups of the discriminator's minibatch statistics are, so that as long as the
    groups divide into pieces, each piece holds whole groups.
    """

    index: int = 0
    count: int = 1

    @property
    def rows(self) -> slice:
        """To take the piece out of the batch."""
        return slice(self.index, None, self.count)

    def piece(self, index: int, count: int) -> Share:
        """The share of the whole batch that is one of `count` pieces of this share."""
        return Share(index * self.count + self.index, count * self.count)


WHOLE = Share()
# As `_members`; a list and no context variable, because torch.compile can follow it.
_shares: list[Share] = [WHOLE]


@contextlib.contextmanager
def spread(share: Share) -> Iterator[None]:
    """Inside the block, what layers compute is `share` of a batch; other pieces are computed by
    other processes, or at other times."""
    _shares.append(share)
    try:
        yield
    finally:
        _shares.pop()


def draw_rows(draw: Callable[[int], Tensor], count: int) -> Tensor:
    """`draw(count)`, or where a batch is spread: what falls to these `count` rows of it.

    Every process draws for the whole batch, so that the values do not depend on how it is spread.
    """
    share = _shares[-1]
    return draw(count) if share.count == 1 else draw(count * share.count)[share.rows]


def batch_mean(mean: Tensor) -> Tensor:
    """The mean over a whole batch from that over this process's rows; no gradients pass."""
    world = current()
    if world.size == 1 or _shares[-1].count == 1:
        return mean
    return world.sum(mean) / world.size
