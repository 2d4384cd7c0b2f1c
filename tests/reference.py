"""Helpers for tests against reference values: closeness, derivatives, state dicts.

Fields of an operator's case: y the output, dy a random weight, d_X the gradient of sum(y * dy)
with respect to X, v_X a random tensor, dd_X the gradient of the sum over X of sum(d_X * v_X).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Arrays = dict[str, np.ndarray]


def tensor(array: np.ndarray) -> torch.Tensor:
    """A copy as a tensor."""
    return torch.from_numpy(np.array(array))


def close(name: str, ours: torch.Tensor, theirs: np.ndarray, fp64_diff: float = 0.0) -> None:
    """Equal to 1e-5 of the array's scale, or as well as float32 itself can be.

    `fp64_diff` is how far the original's own float32 result lies from its float64 result.
    """
    expected = tensor(theirs)
    assert ours.shape == expected.shape, (name, ours.shape, expected.shape)
    if expected.numel() == 0:
        return
    scale = float(expected.abs().max())
    worst = float((ours.detach() - expected).abs().max())
    assert worst <= max(1e-5 * max(scale, 1e-3), 4 * fp64_diff), (name, worst, scale)


def load_state(net: torch.nn.Module, arrays: Arrays) -> None:
    """Load the arrays called state/...; names and shapes must agree exactly."""
    state = {k[6:]: tensor(v) for k, v in arrays.items() if k.startswith("state/")}
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    net.load_state_dict(state, strict=True)


def check_case(
    arrays: Arrays, prefix: str, case: dict[str, Any], op: Callable[..., torch.Tensor]
) -> None:
    """Run `op` on the case's inputs (by name) and compare the output and both derivatives."""
    mine = {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(prefix + "/")}
    names = [k[2:] for k in mine if k.startswith("v_")]
    fixed = {
        k: tensor(v)
        for k, v in mine.items()
        if k not in names and k not in ("y", "dy") and not k.startswith(("d_", "dd_", "v_"))
    }
    inputs = {k: tensor(mine[k]).requires_grad_() for k in names}
    dy = tensor(mine["dy"]).requires_grad_()
    guide = case["fp64_max_abs_diff"]

    y = op(*inputs.values()) if not fixed and len(inputs) == 1 else op(**inputs, **fixed)
    close(f"{prefix} y", y, mine["y"], guide["y"])
    first = torch.autograd.grad((y * dy).sum(), list(inputs.values()), create_graph=True)
    for k, gradient in zip(names, first, strict=True):
        close(f"{prefix} d_{k}", gradient, mine[f"d_{k}"], guide[f"d_{k}"])
    directions = [tensor(mine[f"v_{k}"]) for k in names]
    total = torch.stack([(g * v).sum() for g, v in zip(first, directions, strict=True)]).sum()
    wanted = {"dy": dy, **inputs}
    second = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    for k, gradient in zip(wanted, second, strict=True):
        value = torch.zeros_like(wanted[k]) if gradient is None else gradient
        close(f"{prefix} dd_{k}", value, mine[f"dd_{k}"], guide[f"dd_{k}"])


def watch(net: torch.nn.Module, paths: list[str]) -> dict[str, torch.Tensor]:
    """A dict that fills with the outputs of the named submodules as `net` runs."""
    found: dict[str, torch.Tensor] = {}

    def hook(path: str) -> Callable[..., None]:
        def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
            found[path] = (output[0] if isinstance(output, tuple) else output).detach()

        return keep

    for path in paths:
        net.get_submodule(path).register_forward_hook(hook(path))
    return found


def check_probes(arrays: Arrays, found: dict[str, torch.Tensor]) -> None:
    """Compare each output's mean, standard deviation and central crop."""
    for path, x in found.items():
        statistics = torch.stack([x.mean(), x.std()])
        close(path, statistics, arrays[f"probe/{path}/mean_std"], 1e-6)
        h, w = x.shape[2] // 2, x.shape[3] // 2
        close(path, x[:, :4, h - 2 : h + 2, w - 2 : w + 2], arrays[f"probe/{path}/crop"], 1e-6)
