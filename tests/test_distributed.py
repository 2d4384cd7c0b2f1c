"""What processes exchange, in three real ones; and who they are, from the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from tests import quick_python
from torch_utils import distributed
from torch_utils.ranks import SINGLE, ranks

PROBE = """
import torch
from torch_utils import distributed
from torch_utils.distributed import Share, spread
from torch_utils.ranks import ranks

with distributed.joined(ranks()) as world:
    me = world.rank
    assert world is distributed.current() and world.size == 3 and world.is_first == (me == 0)
    one = torch.tensor([1.0, me], dtype=torch.float64)
    assert world.sum(one).tolist() == [3.0, 3.0] and one.tolist() == [1.0, me]
    tensors = [torch.full((2, 2), float(me)), torch.tensor(3.0 * me), torch.zeros(0)]
    world.average(tensors)
    assert tensors[0].tolist() == [[1, 1], [1, 1]] and float(tensors[1]) == 3
    for count in (0, 1, 2, 3, 7):
        whole = torch.arange(count * 2).reshape(count, 2)
        assert torch.equal(world.gather(whole[world.rows]), whole), count
    assert world.any(me == 2) and not world.any(False)
    assert world.largest({"a": me, "b": -me}) == {"a": 2.0, "b": 0.0}
    assert world.broadcast({"from": me}) == {"from": 0}
    mine = {"x": torch.full((2,), me), "y": torch.tensor(1.5)} if me == 0 else {}
    got = world.broadcast_tensors(mine)
    assert got["x"].tolist() == [0, 0] and got["x"].dtype == torch.int64 and got["y"] == 1.5
    mean = torch.tensor(float(me))
    assert distributed.batch_mean(mean) is mean  # no batch is spread here
    with spread(Share(me, 3)):
        assert float(distributed.batch_mean(mean)) == 1
assert distributed.current() is distributed.ALONE
"""


def test_three_processes_exchange(root: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    done = quick_python.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3", str(probe)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_process_gets_back_what_it_gives() -> None:
    world = distributed.current()
    rows = torch.arange(4.0)
    assert world.size == 1
    assert world.sum(rows) is rows
    assert world.gather(rows) is rows
    assert rows[world.rows].tolist() == [0, 1, 2, 3]
    world.average([rows])
    assert rows.tolist() == [0, 1, 2, 3]
    assert world.any(True)
    assert not world.any(False)
    assert world.largest({"a": 1.0}) == {"a": 1.0}
    assert world.broadcast("it") == "it"
    assert world.broadcast_tensors({"a": rows})["a"].tolist() == [0, 1, 2, 3]


VARIABLES = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1", "MASTER_PORT": "29500",
}  # fmt: skip


def test_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert ranks() is SINGLE
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    found = ranks()
    assert (found.rank, found.size, found.local_rank, found.local_size) == (3, 4, 1, 2)
    assert not found.is_first


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MASTER_ADDR", None, "not MASTER_ADDR; start several processes with torchrun"),
        ("RANK", "x", "must be whole numbers"),
        ("RANK", "4", "RANK=4 of WORLD_SIZE=4 .* is not possible"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, message: str
) -> None:
    for other, right in VARIABLES.items():
        monkeypatch.setenv(other, right)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        ranks()
