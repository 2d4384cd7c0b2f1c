"""Tensor code only: operators, random generators, devices. Knows no stages and no configuration."""

import os

# Images and their gradients are tens of megabytes, returned to the system and asked for again at
# every layer; in pages of 4 KiB that costs more than the arithmetic of the pointwise operators.
# torch asks Linux for 2 MiB pages where this is set before its first tensor (elsewhere it does
# nothing).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
