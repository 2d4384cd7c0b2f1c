"""Record a trace of the default drag, to notice when a change moves its numbers.

python -m tests.record_drag_golden > tests/golden/drag_default.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from drag_models import AffinePicture

from pipeline.edit import drag
from pipeline.edit.drag import AddHandle, Limits, SetMask, Step, Stepped
from pipeline.edit.strategies import DragGan

MOVES = (((20.3, 41.0), (27.0, 36.5)), ((50.0, 12.0), (50.0, 12.0)))


def trace() -> list[dict[str, Any]]:
    """Eight steps: a travelling handle, a held one, a mask, a margin of 10."""
    picture = AffinePicture(64, 0.5, 10, mode="affine")
    model, strategy, limits = picture.model(), DragGan(learning_rate=0.005), Limits()
    state = drag.start(picture.ws(), (1, 5))
    for start, target in MOVES:
        state, _ = drag.advance(state, AddHandle(start, target), model, strategy, limits)
    mask = torch.linspace(0, 1, 64).repeat(64, 1)
    state, _ = drag.advance(state, SetMask(mask), model, strategy, limits)
    steps = []
    for _ in range(8):
        state, events = drag.advance(state, Step(), model, strategy, limits)
        stepped = events[0]
        assert isinstance(stepped, Stepped)
        steps.append(
            {
                "motion_loss": stepped.motion_loss,
                "mask_loss": stepped.mask_loss,
                "positions": [list(handle.position) for handle in stepped.handles],
                "confidences": [handle.confidence for handle in stepped.handles],
                "ws_row_2": state.ws[0, 2].tolist(),
            }
        )
    return steps


if __name__ == "__main__":
    json.dump({"made_by": "python -m tests.record_drag_golden", "steps": trace()}, sys.stdout)
    print()
