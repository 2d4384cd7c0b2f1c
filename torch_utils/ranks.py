"""Which of a run's processes this one is, read from the environment in one place.

The variables are torchrun's; pipeline/launch.py sets the same ones inside a Slurm job. Imports no
torch, so that the console and the command line can ask. Knows nothing about what is exchanged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """A process's place: `rank` of `size` in all, `local_rank` of `local_size` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process talks to the user and to the disk for all."""
        return self.rank == 0


SINGLE = Ranks()

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def ranks() -> Ranks:
    """This process's place; that of a single one where nothing launched several.

    ConfigError where the environment contradicts itself.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return SINGLE
    missing = [name for name in (*_NAMES, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set in the environment, but not "
            f"{', '.join(missing)}; start several processes with torchrun, or unset WORLD_SIZE."
        )
    try:
        rank, size, local_rank, local_size = (int(os.environ[name]) for name in _NAMES)
    except ValueError as error:
        raise ConfigError(
            f"{', '.join(_NAMES)} in the environment must be whole numbers ({error}); start "
            "several processes with torchrun."
        ) from error
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        raise ConfigError(
            f"RANK={rank} of WORLD_SIZE={size} with LOCAL_RANK={local_rank} of "
            f"LOCAL_WORLD_SIZE={local_size} is not possible; start several processes with torchrun."
        )
    return Ranks(rank, size, local_rank, local_size)
