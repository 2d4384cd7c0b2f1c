"""The anime-face detector inside the `animeface` package, reached without its Python layer.

That layer returns nothing, silently, under Pillow 12 and later; the shared library beside it
(nvxs by nagadomi, weights included) works, so its C interface is declared here. Knows one image at
one scale; scanning scales and judging results is `pipeline.data.faces`.
"""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# The library's own settings for anime faces: window step in pixels at its base scale, growth of
# the window from one scan to the next, and the smallest window in pixels.
STEP = 4.0
SCALE_FACTOR = 1.095
MIN_WINDOW = 42.592
# Edge strength, as the weights were trained with.
LAPLACIAN_GAIN = 4.0
MAX_FACES = 256

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in continuous pixels


@dataclass(frozen=True)
class RawFace:
    """One detection; boxes in pixels of the image that was scanned."""

    likelihood: float  # 0 to 1
    face: Box
    left_eye: Box  # left in the image (the library names it from the inside)
    right_eye: Box
    nose: tuple[float, float]
    mouth: Box
    chin: tuple[float, float]


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("list", ctypes.c_int),
        ("list_step", ctypes.c_uint),
        ("n", ctypes.c_int),  # values a pixel
        ("m", ctypes.c_int),  # pixels
        ("rows", ctypes.c_int),
        ("cols", ctypes.c_int),
        ("step", ctypes.c_int),  # floats from one pixel to the next
        ("alias", ctypes.c_int),
        ("v", ctypes.POINTER(ctypes.c_float)),
    )


class _Rect(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in ("x", "y", "width", "height"))

    def box(self) -> Box:
        return (self.x, self.y, self.x + self.width, self.y + self.height)


class _Position(ctypes.Structure):
    _fields_ = (
        ("likelihood", ctypes.c_float),
        *((name, _Rect) for name in ("face", "left_eye", "right_eye", "nose", "mouth", "chin")),
    )


class Nvxs:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        matrix = ctypes.POINTER(_Matrix)
        declare(library.nv_matrix3d_alloc, [ctypes.c_int] * 3, matrix)
        declare(library.nv_matrix_zero, [matrix])
        declare(library.nv_matrix_free, [ctypes.POINTER(matrix)])
        declare(library.nv_gray, [matrix, matrix])
        declare(library.nv_gaussian5x5, [matrix, ctypes.c_int, matrix, ctypes.c_int])
        declare(library.nv_laplacian1, [matrix, matrix, ctypes.c_float])
        declare(library.nv_integral, [matrix, matrix, ctypes.c_int])
        declare(
            library.nv_face_detect,
            [ctypes.POINTER(_Position), ctypes.c_int, matrix, matrix, ctypes.POINTER(_Rect)]
            + [ctypes.c_void_p] * 3
            + [ctypes.c_int, ctypes.c_void_p]
            + [ctypes.c_float] * 3,
            ctypes.c_int,
        )
        self._library = library
        self._networks = {
            name: ctypes.addressof(ctypes.c_char.in_dll(library, f"nv_face_mlp_{name}"))
            for name in ("dir", "face_00", "face_01", "face_02", "parts")
        }

    def detect(self, image: np.ndarray, min_window: float = MIN_WINDOW) -> list[RawFace]:
        """Faces in an image (H x W x 3 uint8 RGB), in the library's order.

        Faces 60 to 110 px wide are found best; `min_window` is the width in pixels of the smallest
        ones that are looked for (fewer windows, less time).
        """
        height, width = image.shape[:2]
        if min(height, width) < min_window:
            return []
        library, networks = self._library, self._networks
        shapes = [(3, 0), (1, 0), (1, 0), (1, 0), (1, 1), (1, 1)]
        matrices = [library.nv_matrix3d_alloc(n, height + e, width + e) for n, e in shapes]
        bgr, gray, smooth, edge, gray_integral, edge_integral = matrices
        try:
            for matrix in matrices:
                library.nv_matrix_zero(matrix)
            pixels = np.ctypeslib.as_array(bgr.contents.v, (height, width, bgr.contents.step))
            pixels[:, :, :3] = image[:, :, ::-1]
            library.nv_gray(gray, bgr)
            library.nv_gaussian5x5(smooth, 0, gray, 0)
            library.nv_laplacian1(edge, smooth, LAPLACIAN_GAIN)
            library.nv_integral(gray_integral, gray, 0)
            library.nv_integral(edge_integral, edge, 0)
            found = (_Position * MAX_FACES)()
            size = _Rect(0, 0, width, height)
            bagging = (ctypes.c_void_p * 3)(networks["face_01"], networks["face_02"], None)
            count = library.nv_face_detect(
                found, MAX_FACES, gray_integral, edge_integral, ctypes.byref(size),
                networks["dir"], networks["face_00"], bagging, 2, networks["parts"],
                STEP, SCALE_FACTOR, min_window,
            )  # fmt: skip
            return [_raw_face(position) for position in found[:count]]
        finally:
            for matrix in matrices:
                library.nv_matrix_free(ctypes.byref(matrix))


def declare(function: Any, arguments: list[Any], result: Any = None) -> None:
    """Tell ctypes the C signature of a library function."""
    function.argtypes = arguments
    function.restype = result


@cache
def load() -> Nvxs | str:
    """The library, or one sentence that says why it cannot be used here."""
    package = importlib.util.find_spec("animeface")
    if package is None or package.origin is None:
        return "the package animeface is not installed"
    folder = Path(package.origin).parent
    candidates = sorted(folder.parent.glob("animeface.libs/libnvxs*")) + sorted(
        folder.rglob("libnvxs*")
    )
    if not candidates:
        return "this build of the package animeface has no libnvxs (only Linux x86-64 has)"
    try:
        return Nvxs(candidates[0])
    except (OSError, AttributeError, ValueError) as error:
        return f"{candidates[0].name} of the package animeface cannot be loaded ({error})"


def _raw_face(position: _Position) -> RawFace:
    return RawFace(
        likelihood=position.likelihood,
        face=position.face.box(),
        left_eye=position.right_eye.box(),
        right_eye=position.left_eye.box(),
        nose=(position.nose.x + 0.5, position.nose.y + 0.5),
        mouth=position.mouth.box(),
        chin=(position.chin.x + 0.5, position.chin.y + 0.5),
    )
