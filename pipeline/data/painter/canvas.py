"""A drawing as a list of filled shapes in picture pixels, rendered by Skia; and its part masks.

Each shape may belong to a part ("hair", "eyes", ...). The picture is rendered with antialiasing;
`labels` and `masks` render the same shapes without it, so masks are the painted geometry itself.
Shading that stays inside a part carries no part name. Knows nothing about faces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import skia
from numpy.typing import ArrayLike, NDArray

from pipeline.data.painter.colours import Colour, argb
from pipeline.data.painter.curves import Array

# Names of the parts in the order of their label values; 0 is the background.
PARTS: tuple[str, ...] = (
    "background",
    "hair_back",
    "body",
    "neck",
    "ears",
    "face",
    "nose",
    "mouth",
    "eyes",
    "brows",
    "hair_front",
    "accessories",
)

Stop = tuple[float, Colour, float]  # position 0..1, colour, opacity 0..1


class _Operation(NamedTuple):
    """One step of the display list: a fill (both set), a clip (no paint), a layer that its paint
    filters (no path), or the end of a clip or layer (neither)."""

    path: skia.Path | None
    paint: skia.Paint | None
    part: str | None
    matrix: skia.Matrix | None = None  # of what a layer holds


def to_path(shapes: Iterable[Array]) -> skia.Path:
    """One path of closed polygons (each n×2)."""
    path = skia.Path()
    for points in shapes:
        line_to = path.lineTo
        rows = points.tolist()
        path.moveTo(rows[0][0], rows[0][1])
        for x, y in rows[1:]:
            line_to(x, y)
        path.close()
    return path


def _point(point: ArrayLike) -> skia.Point:
    return skia.Point(*np.asarray(point, dtype=np.float64).tolist())


def _shader_colours(stops: Sequence[Stop]) -> tuple[list[int], list[float]]:
    return [argb(colour, alpha) for _, colour, alpha in stops], [stop[0] for stop in stops]


class Drawing:
    """Shapes in painting order on a canvas of `width`×`height` px."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._operations: list[_Operation] = []
        self._grade: skia.Paint | None = None

    def _add(self, shapes: Sequence[Array], paint: skia.Paint, part: str | None) -> None:
        self._operations.append(_Operation(to_path(shapes), paint, part))

    def fill(
        self, points: Array, colour: Colour, part: str | None = None, alpha: float = 1.0
    ) -> None:
        """Fill one closed polygon."""
        self._add([points], skia.Paint(AntiAlias=True, Color=argb(colour, alpha)), part)

    def fill_all(
        self, shapes: Sequence[Array], colour: Colour, part: str | None = None, alpha: float = 1.0
    ) -> None:
        """Fill several polygons as one shape (their union)."""
        if shapes:
            self._add(shapes, skia.Paint(AntiAlias=True, Color=argb(colour, alpha)), part)

    def piece(
        self, points: Array, colour: Colour, ink: Colour, line_width: float, part: str | None = None
    ) -> None:
        """Fill one closed polygon and draw its outline, `line_width` px wide all round."""
        path = to_path([points])
        fill = skia.Paint(AntiAlias=True, Color=argb(colour))
        self._operations.append(_Operation(path, fill, part))
        outline = skia.Paint(
            AntiAlias=True,
            Color=argb(ink),
            Style=skia.Paint.kStroke_Style,
            StrokeWidth=line_width,
            StrokeJoin=skia.Paint.kRound_Join,
        )
        self._operations.append(_Operation(path, outline, part))

    def fill_outside(self, points: Array, colour: Colour, alpha: float = 1.0) -> None:
        """Fill what lies outside a polygon; meant for use inside `clipped`: a shape's dark side is
        what is left of it when it is moved towards the light."""
        path = to_path([points])
        path.setFillType(skia.PathFillType.kInverseWinding)
        paint = skia.Paint(AntiAlias=True, Color=argb(colour, alpha))
        self._operations.append(_Operation(path, paint, None))

    def gradient(
        self,
        points: Array,
        start: ArrayLike,
        end: ArrayLike,
        stops: Sequence[Stop],
        part: str | None = None,
    ) -> None:
        """Fill with a linear gradient between two points (px)."""
        colours, positions = _shader_colours(stops)
        shader = skia.GradientShader.MakeLinear([_point(start), _point(end)], colours, positions)
        self._add([points], skia.Paint(AntiAlias=True, Shader=shader), part)

    def glow(
        self,
        centre: ArrayLike,
        radius: float,
        stops: Sequence[Stop],
        squash: float = 1.0,
        angle: float = 0.0,
    ) -> None:
        """A soft round spot (px), `squash` times as high as wide, turned by `angle` degrees."""
        colours, positions = _shader_colours(stops)
        matrix = skia.Matrix()
        matrix.setScale(1.0, squash)
        matrix.postRotate(angle)
        middle = np.asarray(centre, dtype=np.float64)
        matrix.postTranslate(*middle.tolist())
        shader = skia.GradientShader.MakeRadial(
            skia.Point(0, 0), radius, colours, positions, skia.TileMode.kClamp, 0, matrix
        )
        reach = radius * max(1.0, squash)
        box = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * reach + middle
        self._add([box], skia.Paint(AntiAlias=True, Shader=shader), None)

    def wash(self, colour: Colour, alpha: float = 1.0, multiply: bool = True) -> None:
        """Tint everything painted so far (multiply, or screen)."""
        mode = skia.BlendMode.kMultiply if multiply else skia.BlendMode.kScreen
        paint = skia.Paint(Color=argb(colour, alpha), BlendMode=mode)
        box = np.array([[0, 0], [self.width, 0], [self.width, self.height], [0, self.height]])
        self._add([box.astype(np.float64)], paint, None)

    def veil(self, start: ArrayLike, end: ArrayLike, colour: Colour, alpha: float) -> None:
        """Light laid over everything painted so far (screen), fading from one point to another."""
        colours = [argb(colour, alpha), argb(colour, 0.25 * alpha), argb(colour, 0.0)]
        shader = skia.GradientShader.MakeLinear([_point(start), _point(end)], colours, [0, 0.5, 1])
        box = np.array([[0, 0], [self.width, 0], [self.width, self.height], [0, self.height]])
        paint = skia.Paint(Shader=shader, BlendMode=skia.BlendMode.kScreen)
        self._add([box.astype(np.float64)], paint, None)

    def set_grade(self, saturation: float, lift: float) -> None:
        """How the finished picture is graded: `saturation` 1 as painted, `lift` of its blacks."""
        if saturation == 1.0 and lift == 0.0:
            self._grade = None
            return
        grey = np.array([0.2126, 0.7152, 0.0722]) * (1 - saturation)
        matrix = np.zeros((4, 5))
        matrix[:3, :3] = (grey + saturation * np.eye(3)) * (1 - lift)
        matrix[:3, 4] = lift
        matrix[3, 3] = 1
        self._grade = skia.Paint(ColorFilter=skia.ColorFilters.Matrix(matrix.ravel().tolist()))

    @contextmanager
    def blurred(self, sigma: float) -> Iterator[None]:
        """Out of focus: what is painted inside the `with`, blurred by a Gaussian (`sigma` px)."""
        paint = None
        if sigma > 0.3:
            blur = skia.ImageFilters.Blur(sigma, sigma, skia.TileMode.kClamp)
            paint = skia.Paint(ImageFilter=blur)
            # Spread past the edges, where the blur would else mix in nothing.
            matrix = skia.Matrix()
            grow = [1 + 7 * sigma / side for side in (self.width, self.height)]
            matrix.setScale(grow[0], grow[1], 0.5 * self.width, 0.5 * self.height)
            self._operations.append(_Operation(None, paint, None, matrix))
        yield
        if paint is not None:
            self._operations.append(_Operation(None, None, None))

    @contextmanager
    def clipped(self, shapes: Sequence[Array]) -> Iterator[None]:
        """Restrict what is painted inside the `with` to the shapes' union."""
        self._operations.append(_Operation(to_path(shapes), None, None))
        try:
            yield
        finally:
            self._operations.append(_Operation(None, None, None))

    def render(self) -> NDArray[np.uint8]:
        """The picture: HWC uint8 RGB."""
        pixels = np.zeros((self.height, self.width, 4), dtype=np.uint8)
        canvas = skia.Surface(pixels, colorType=skia.ColorType.kRGBA_8888_ColorType).getCanvas()
        if self._grade is not None:
            canvas.saveLayer(None, self._grade)
        for path, paint, _, matrix in self._operations:
            if path is not None and paint is not None:
                canvas.drawPath(path, paint)
            elif path is not None:
                canvas.save()
                canvas.clipPath(path, skia.ClipOp.kIntersect, True)
            elif paint is not None:
                canvas.saveLayer(None, paint)
                canvas.concat(matrix)
            else:
                canvas.restore()
        if self._grade is not None:
            canvas.restore()
        return np.ascontiguousarray(pixels[..., :3])

    def _flat(self, parts: Sequence[str]) -> NDArray[np.uint8]:
        """Label values (HW uint8) with only the shapes of `parts` painted, in order."""
        pixels = np.zeros((self.height, self.width, 4), dtype=np.uint8)
        canvas = skia.Surface(pixels, colorType=skia.ColorType.kRGBA_8888_ColorType).getCanvas()
        values = {part: PARTS.index(part) for part in parts}
        for path, paint, part, _ in self._operations:
            if path is not None and paint is not None:
                if part in values:
                    flat = skia.Paint(
                        AntiAlias=False,
                        Color=0xFF000000 | (values[part] << 16),
                        Style=paint.getStyle(),
                        StrokeWidth=paint.getStrokeWidth(),
                        StrokeJoin=skia.Paint.kRound_Join,
                    )
                    canvas.drawPath(path, flat)
            elif path is not None:
                canvas.save()
                canvas.clipPath(path, skia.ClipOp.kIntersect, False)
            elif paint is not None:
                canvas.save()
            else:
                canvas.restore()
        return np.ascontiguousarray(pixels[..., 0])

    def labels(self) -> NDArray[np.uint8]:
        """The part seen at each pixel: HW uint8, an index into PARTS."""
        return self._flat(PARTS[1:])

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Each part's whole shape, also where another part covers it: part -> HW bool."""
        return {part: self._flat([part]) > 0 for part in PARTS[1:]}
