"""Several processes that run one command: how they find each other, who speaks, and how they end.

torchrun (or scripts/launch.py) starts them on one machine or several; inside a Slurm job submitit
does. The first process decides everything and writes everything; the others follow its orders. A
process that dies ends them all with one sentence that names it. Knows nothing about stages.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipeline.console import complain, disregard_stops
from pipeline.errors import AnimedragError, ConfigError, Interrupted
from torch_utils.ranks import Ranks, ranks

if TYPE_CHECKING:
    from torch_utils.lifeline import Lifeline

# What another process waits for before it ends on an error that all have, so that the launcher,
# which stops all when one ends, leaves the first one time to say it.
SPEAK_SECONDS = 3.0
# In which the death of another process, if that is why a launcher stopped this one, becomes known.
DEATH_SECONDS = 1.0


class CrewLost(AnimedragError):
    """The run cannot go on because another process failed; an empty message is for those that
    leave it to another one to say so."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Order:
    """What the first process tells the others: take part in a stage's work, or (None) go on."""

    work: tuple[dict[str, Path], Path] | None = None  # inputs, out


@dataclass(frozen=True)
class Crew:
    """The processes of this run, seen from one of them."""

    ranks: Ranks
    lifeline: Lifeline

    @property
    def is_first(self) -> bool:
        """Whether this process decides."""
        return self.ranks.is_first

    def send(self, order: Order) -> None:
        """The first process: tell the others."""
        message: dict[str, object] = {}
        if order.work is not None:
            inputs, out = order.work
            message["inputs"] = {key: str(path.absolute()) for key, path in inputs.items()}
            message["out"] = str(out.absolute())
        self.lifeline.order(message)

    def receive(self) -> Order:
        """Another process: wait, however long, for what comes next; CrewLost if nothing will."""
        try:
            message = self.lifeline.await_order()
        except ConnectionError as error:
            raise self._lost(error) from error
        if "out" not in message:
            return Order()
        inputs = {key: Path(path) for key, path in message["inputs"].items()}
        for path in (*inputs.values(), Path(message["out"])):
            if not path.exists():
                raise ConfigError(
                    f"{socket.gethostname()} does not see {path}, which the first process works "
                    "with; data and store must lie on a disk that all machines share."
                )
        return Order((inputs, Path(message["out"])))

    def explain(self, error: Exception) -> Exception:
        """What is raised in place of an error of an exchange between processes."""
        return self._lost(error)

    def _lost(self, error: Exception) -> CrewLost:
        from torch_utils.lifeline import GRACE

        trouble = self.lifeline.trouble(GRACE)
        if trouble is None:
            return CrewLost(
                f"The processes lost touch with each other ({_first_line(error)}); run the same "
                "command again to continue from the last saved state.",
                1,
            )
        speaks = trouble.speaks and self.lifeline.may_speak()
        return CrewLost(trouble.sentence if speaks else "", trouble.exit_code)


@contextlib.contextmanager
def crew() -> Iterator[Crew | None]:
    """Meet the other processes of this run for the length of the block; None where there are none.

    An error that leaves the block ends all processes: the first one raises it, the others leave it
    to the first to say what was wrong with them, and raise CrewLost without a message.
    """
    place = ranks()
    if place.size == 1:
        yield None
        return
    from torch_utils import distributed

    found: list[Crew] = []

    def explain(error: Exception) -> Exception:
        return found[0].explain(error) if found else _not_met(place, error)

    with distributed.joined(place, explain) as world:
        found.append(Crew(place, _lifeline(place, world)))
        try:
            yield found[0]
        except BaseException as error:
            # A launcher that sees one process end stops the others in the middle of their sentence.
            disregard_stops()
            raise _leave(found[0], error) from error
        found[0].lifeline.end(0)


def _lifeline(place: Ranks, world: object) -> Lifeline:
    from torch_utils.distributed import World
    from torch_utils.lifeline import Lifeline, Meeting, connect

    assert isinstance(world, World)

    def describe_death(rank: int) -> str:
        return (
            f"The process of rank {rank} (of {place.size}) died without a word (killed, or out of "
            "memory?), so all were stopped; run the same command again to continue from the last "
            "saved state."
        )

    try:
        meeting = Meeting(place) if place.is_first else None
        door = world.broadcast((meeting.port, meeting.word) if meeting else None)
        if meeting is not None:
            peers = meeting.wait()
        else:
            assert door is not None
            peers = connect(place, os.environ["MASTER_ADDR"], *door)
    except OSError as error:
        raise _not_met(place, error) from error
    return Lifeline(place, peers, describe_death, complain)


def _not_met(place: Ranks, error: Exception) -> CrewLost:
    return CrewLost(
        f"The process of rank {place.rank} did not meet the other {place.size - 1} at "
        f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({_first_line(error)}); start "
        "all of them, and let their machines connect to each other.",
        1,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:200]


def _leave(crew: Crew, error: BaseException) -> BaseException:
    """Take leave because of `error`; returns what this process raises instead."""
    code = error.exit_code if isinstance(error, AnimedragError) else 1
    if isinstance(error, KeyboardInterrupt):
        code = Interrupted.exit_code
    if crew.is_first:
        if isinstance(error, Interrupted | KeyboardInterrupt):
            # A launcher that sees a process die stops the rest, often before we have seen it.
            trouble = crew.lifeline.trouble(DEATH_SECONDS)
            if trouble is not None and trouble.speaks and crew.lifeline.may_speak():
                error = CrewLost(trouble.sentence, trouble.exit_code)
                code = error.exit_code
        crew.lifeline.end(code)
        return error
    if isinstance(error, CrewLost):
        crew.lifeline.end(0)
        return error
    if not isinstance(error, Interrupted | KeyboardInterrupt):
        sentence = str(error) or type(error).__name__
        if not crew.lifeline.report(sentence, code):
            return error
        crew.lifeline.trouble(SPEAK_SECONDS)
    crew.lifeline.end(0)
    return CrewLost("", code)


def adopt_submitit() -> None:
    """Inside a submitit job (Slurm's, or a local one) set the variables that torchrun sets.

    Every task of the job is then one of the processes.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ or "RANK" in os.environ:
        return
    try:
        from submitit.helpers import TorchDistributedEnvironment
    except ImportError:
        return
    # Each process picks its own GPU among all that it sees (torch_utils/device.py).
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


def end(exit_code: int) -> NoReturn:
    """End the process; one of several at once, because libraries would wait for lost peers."""
    sys.stdout.flush()
    sys.stderr.flush()
    if exit_code and os.environ.get("WORLD_SIZE", "1") != "1":
        os._exit(exit_code)
    sys.exit(exit_code)


def let_first_speak() -> None:
    """In all but the first process: wait for what the launcher does when the first one ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(SPEAK_SECONDS)
