"""Every operator against the original's values, first and second derivatives included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.reference import Arrays, check_case, close
from torch_utils import native
from torch_utils.ops import conv2d, upfirdn2d
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.grid_sample import grid_sample


@pytest.fixture(autouse=True, params=["as installed", "plain torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test twice: with compiled operators where they are built, and without."""
    if request.param == "plain torch":
        monkeypatch.setattr(native, "runs_on", lambda x: False)


def options(case: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: case[k] for k in keys if k in case}


def filters(arrays: Arrays) -> dict[str, torch.Tensor | None]:
    found = {k[7:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("filter/")}
    return {**found, "none": None}


def test_bias_act(golden: Callable) -> None:
    arrays, text = golden("ops/bias_act")
    for name, values in text["activation_table"].items():
        assert ACTIVATIONS[name].alpha == values["def_alpha"]
        assert ACTIVATIONS[name].gain == pytest.approx(values["def_gain"])
    for prefix, case in text["cases"].items():
        given = options(case, "dim", "act", "alpha", "gain", "clamp")

        def op(x: torch.Tensor, b: torch.Tensor | None = None, given: dict = given) -> torch.Tensor:
            return bias_act(x, b, **given)

        check_case(arrays, prefix, case, op)


def test_setup_filter(golden: Callable) -> None:
    arrays, text = golden("ops/setup_filter")
    for prefix, case in text["cases"].items():
        given = options(case, "normalize", "flip_filter", "gain", "separable")
        f = upfirdn2d.setup_filter(arrays[f"{prefix}/f_in"], **given)
        close(prefix, f, arrays[f"{prefix}/f"], 0)
    close("none", upfirdn2d.setup_filter(None), arrays["none/f"], 0)


def test_upfirdn2d(golden: Callable) -> None:
    arrays, text = golden("ops/upfirdn2d")
    table = filters(arrays)
    for prefix, case in text["cases"].items():
        given = options(case, "up", "down", "padding", "flip_filter", "gain")
        function = getattr(upfirdn2d, case["op"])
        f = table[case["filter"]]
        check_case(arrays, prefix, case, lambda x, fn=function, f=f, g=given: fn(x, f, **g))


def test_filtered_lrelu(golden: Callable) -> None:
    arrays, text = golden("ops/filtered_lrelu")
    table = filters(arrays)
    for prefix, case in text["cases"].items():
        given = options(case, "up", "down", "padding", "gain", "slope", "clamp", "flip_filter")
        given |= {"fu": table[case["fu"]], "fd": table[case["fd"]]}
        check_case(arrays, prefix, case, lambda x, b=None, g=given: filtered_lrelu(x, b=b, **g))


def test_conv2d_resample(golden: Callable) -> None:
    arrays, text = golden("ops/conv2d_resample")
    table = filters(arrays)
    for prefix, case in text["cases"].items():
        given = options(case, "up", "down", "padding", "groups", "flip_weight")
        given["f"] = table[case["filter"] or "none"]
        check_case(arrays, prefix, case, lambda x, w, g=given: conv2d.conv2d_resample(x, w, **g))


@pytest.mark.parametrize("form", ["as given", "the other form", "chosen"])
def test_modulated_conv2d_of_stylegan2(golden: Callable, form: str) -> None:
    arrays, text = golden("ops/modulated_conv2d_sg2")
    f = filters(arrays)["k4"]
    for prefix, case in text["cases"].items():
        given = options(case, "up", "demodulate", "flip_weight", "padding")
        fused = {"as given": case["fused"], "the other form": not case["fused"], "chosen": None}
        given |= {"fused": fused[form], "resample_filter": f}
        check_case(
            arrays, prefix, case, lambda g=given, **inputs: conv2d.modulated_conv2d(**inputs, **g)
        )


@pytest.mark.parametrize("fused", [True, False, None])
def test_modulated_conv2d_of_stylegan3(golden: Callable, fused: bool | None) -> None:
    arrays, text = golden("ops/modulated_conv2d_sg3")
    for prefix, case in text["cases"].items():
        given = {**options(case, "demodulate", "padding"), "fused": fused}

        def op(
            x: torch.Tensor,
            w: torch.Tensor,
            s: torch.Tensor,
            input_gain: torch.Tensor | None = None,
            given: dict = given,
        ) -> torch.Tensor:
            return conv2d.modulated_conv2d(x, w, s, input_gain=input_gain, **given)

        check_case(arrays, prefix, case, op)


def test_convolutions_fma_and_grid_sample(golden: Callable) -> None:
    arrays, text = golden("ops/misc")
    cases = text["cases"]
    given = options(cases["conv"], "stride", "padding", "groups")
    check_case(arrays, "conv", cases["conv"], lambda x, w: F.conv2d(x, w, **given))
    given_t = options(cases["convt"], "stride", "padding", "output_padding", "groups")
    check_case(arrays, "convt", cases["convt"], lambda x, w: F.conv_transpose2d(x, w, **given_t))
    check_case(arrays, "fma", cases["fma"], lambda a, b, c: conv2d.scale_and_add(a, b, c))
    check_case(
        arrays, "grid_sample", cases["grid_sample"], lambda input, grid: grid_sample(input, grid)
    )
    # The layers of the same file are tested with the networks.
    assert set(cases) - {"conv", "convt", "fma", "grid_sample"} == {
        "mbstd_g4", "mbstd_gNone_f2", "mbstd_g4_f2_n4",
        "fc2_linear", "fc2_lrelu_lr", "fc3_linear", "fc3_lrelu_lr",
    }  # fmt: skip
