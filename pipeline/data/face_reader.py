"""The face reader: 28 landmarks, what is seen of them, the expression and the head's angles.

`FaceReader.read` takes a picture and perhaps the box of a face, `FaceReader.tensors` a batch of
images as generators make them, and can be differentiated. Both look twice: once at the place they
are given, once at a levelled close-up of the face found there, together with its mirror image.

A reader's folder (artifact kind `reader`):

    architecture.json, reader.safetensors   the network, see pipeline/models/checkpoint.py
    reader.json    {"format": "animedrag-reader", "version": 1, "expressions": [names in order]}

Trained by pipeline/train/reader on painted faces. Finds no faces: see `pipeline.data.faces`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.data import landmarks as lm
from pipeline.data.align import CropTransform
from pipeline.data.close_ups import Zoomable
from pipeline.data.landmarks import Points
from pipeline.errors import DataError, ModelError
from pipeline.files import put_text
from pipeline.models import checkpoint
from pipeline.models.face_reader import DEGREES, ConvNorm, FaceReaderNetwork, channels_last

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "face-reader"
NETWORK = "reader"
READER_FILE = "reader.json"
FORMAT, VERSION = "animedrag-reader", 1
# Side of the close-up, in sides of the square around the levelled landmarks.
CLOSE_UP = 1.4
# Side of the first look, in sides of a detector's box (cheeks to cheeks, forehead to chin).
AROUND_BOX = 1.7
# Expected mean errors, in face widths, up to which a reading is believed.
CONFIDENT = 0.06
_MIRROR = list(lm.MIRROR)


@dataclass(frozen=True)
class Reading:
    """What was read of one face. `landmarks`: 28×2, `errors`: 28, both px of the picture;
    `visibility`: 28 in [0, 1]; angles in degrees, as the painter's `Pose` has them (yaw > 0 looks
    to the picture's right, pitch > 0 up, roll > 0 tilts clockwise)."""

    landmarks: Points
    errors: np.ndarray  # how far each landmark is expected to be off
    visibility: np.ndarray  # probability that nothing covers the landmark
    expressions: dict[str, float]  # probability by name; sum to 1
    yaw: float
    pitch: float
    roll: float

    @cached_property
    def expression(self) -> str:
        """The most probable expression."""
        return max(self.expressions, key=lambda name: self.expressions[name])

    @cached_property
    def part_visibility(self) -> dict[str, float]:
        """Mean visibility of each part's landmarks, by the names in `landmarks.PARTS`."""
        return {name: float(self.visibility[points].mean()) for name, points in lm.PARTS.items()}

    @cached_property
    def expected_error(self) -> float:
        """Mean of `errors` in face widths; infinite where the landmarks are of no face."""
        width = lm.face_width(self.landmarks)
        return float(self.errors.mean()) / width if width > 0 else float("inf")

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, rounded."""
        return {
            "landmarks": lm.to_json(self.landmarks),
            "errors": [round(float(value), 3) for value in self.errors],
            "visibility": [round(float(value), 4) for value in self.visibility],
            "expressions": {name: round(value, 4) for name, value in self.expressions.items()},
            "yaw": round(self.yaw, 2),
            "pitch": round(self.pitch, 2),
            "roll": round(self.roll, 2),
            "confident": self.confident,
        }

    @property
    def confident(self) -> bool:
        """Whether the landmarks can be believed, as far as the reader can tell."""
        return self.expected_error <= CONFIDENT


class TensorReading(NamedTuple):
    """What was read of N images, as tensors on their device."""

    landmarks: Tensor  # N×28×2, px
    errors: Tensor  # N×28, px
    visibility: Tensor  # N×28, probabilities
    expressions: Tensor  # N×E, probabilities, in the order of `FaceReader.expressions`
    angles: Tensor  # N×3, degrees: yaw, pitch, roll


class _Look(NamedTuple):
    """The network's answers about close-ups, mirror images averaged in; shares of their side."""

    landmarks: Tensor
    errors: Tensor
    visibility: Tensor  # logits
    expression: Tensor  # logits
    angles: Tensor  # degrees


class FaceReader:
    """Reads faces with a trained network.

    Args:
        network: is copied, so that the caller may train on.
        expressions: names in the network's order.
        device: where it computes in `read`; `tensors` takes images of this device.
    """

    def __init__(
        self,
        network: FaceReaderNetwork,
        expressions: Sequence[str],
        device: torch.device | str = "cpu",
    ) -> None:
        self.expressions = tuple(expressions)
        self.device = torch.device(device)
        self.input_px = network.input_px
        self._network = channels_last(_fused(network).to(self.device))

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> FaceReader:
        """The reader in an artifact's folder; ModelError where it is none, or damaged."""
        network = checkpoint.load(folder, (NETWORK,), device)[NETWORK]
        names = _read_expressions(folder / READER_FILE)
        if not isinstance(network, FaceReaderNetwork):
            raise ModelError(f"{folder} holds no face reader; give the folder of a reader.")
        if (
            network.parts[-1][1] != lm.NUM_LANDMARKS
            or len(names) != network.expression.out_features
        ):
            raise ModelError(
                f"{folder}: the network reads {network.parts[-1][1]} landmarks and "
                f"{network.expression.out_features} expressions, not {lm.NUM_LANDMARKS} and "
                f"{len(names)} as {READER_FILE} says; make the reader again."
            )
        return cls(network, names, device)

    @classmethod
    def shipped(cls, device: torch.device | str = "cpu") -> FaceReader:
        """The reader that ships with the code; one a process and device, for it keeps no state."""
        if not SHIPPED.is_dir():
            raise ModelError(
                f"The face reader that ships with the code is missing ({SHIPPED}); "
                "check out the project whole, or train one: make reader."
            )
        return _read_once(SHIPPED, str(device))

    def read(
        self,
        image: np.ndarray,
        box: tuple[float, float, float, float] | None = None,
        roll_degrees: float = 0.0,
    ) -> Reading:
        """Read one face of a picture.

        Args:
            image: H×W×3 uint8 RGB.
            box: (x0, y0, x1, y1) px from cheek to cheek and forehead to chin, as detectors give it
                (`Face.box`); None for a picture that is a portrait already.
            roll_degrees: about how far the face leans clockwise, where that is known.

        DataError for what is no picture, or a box without area. Where there is no face it returns
        something nevertheless; `Reading.confident` is then mostly, but not always, False.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise DataError(
                f"A picture must be height x width x 3 of uint8, not {image.shape} of "
                f"{image.dtype}."
            )
        return self.read_in(Zoomable(image), box, roll_degrees)

    def read_in(
        self,
        picture: Zoomable,
        box: tuple[float, float, float, float] | None = None,
        roll_degrees: float = 0.0,
    ) -> Reading:
        """`read` for a picture of which several faces are looked at."""
        frame = _first_frame(picture.image, box, roll_degrees)
        with torch.inference_mode():
            first = self._look(self._cut(picture, frame), mirror=False)
            points = frame.inverse(first.landmarks[0].double().cpu().numpy())
            frame = close_up_frame(points)
            look = self._look(self._cut(picture, frame), mirror=True)
            landmarks, errors, angles = (
                values[0].double().cpu().numpy()
                for values in (look.landmarks, look.errors, look.angles)
            )
            chances = look.expression.softmax(dim=1)[0].tolist()
            visibility = look.visibility.sigmoid()[0].cpu().numpy()
        return Reading(
            landmarks=frame.inverse(landmarks),
            errors=errors * frame.width,
            visibility=visibility,
            expressions=dict(zip(self.expressions, chances, strict=True)),
            yaw=float(angles[0]),
            pitch=float(angles[1]),
            roll=_wrapped(float(angles[2]) + frame.roll_degrees),
        )

    def tensors(
        self, images: Tensor, mirror: bool = True, near: Points | None = None
    ) -> TensorReading:
        """Read N portraits at once; gradients flow back to the images.

        Args:
            images: N×3×H×W in [-1, 1] on the reader's device, each the portrait of one face (the
                whole image is looked at first).
            mirror: also read the close-up's mirror image: half the speed, a little more exact.
            near: 28×2 px about where all the faces are; saves the first look.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"The reader takes images of N x 3 x H x W, not {tuple(images.shape)}.")
        frames = self._close_ups(images) if near is None else [close_up_frame(near)] * len(images)
        look = self._look(sample(images, frames, self.input_px), mirror)
        turn, scale, centre = _placed(frames, images.device)
        roll = torch.tensor([frame.roll_degrees for frame in frames], device=images.device)
        tilt = torch.stack([torch.zeros_like(roll)] * 2 + [roll], dim=1)
        return TensorReading(
            landmarks=((look.landmarks - 0.5) * scale[:, None, None]) @ turn + centre[:, None],
            errors=look.errors * scale[:, None],
            visibility=look.visibility.sigmoid(),
            expressions=look.expression.softmax(dim=1),
            angles=look.angles + tilt,
        )

    @torch.no_grad()
    def _close_ups(self, images: Tensor) -> list[CropTransform]:
        """Where the faces of portraits are, by a look at the whole images."""
        height, width = images.shape[2:]
        whole = CropTransform.square(width / 2, height / 2, float(max(height, width)))
        frames = [whole] * len(images)
        first = self._look(sample(images, frames, self.input_px), mirror=False).landmarks
        return [close_up_frame(whole.inverse(points)) for points in first.double().cpu().numpy()]

    def _cut(self, picture: Zoomable, frame: CropTransform) -> Tensor:
        pixels = torch.from_numpy(picture.crop(frame, self.input_px)).to(self.device)
        return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1

    def _look(self, images: Tensor, mirror: bool) -> _Look:
        """[N, 3, input_px, input_px] => the network's answers; `mirror` averages both views."""
        count = len(images)
        views = torch.cat([images, images.flip(3)]) if mirror else images
        out = self._network(views.contiguous(memory_format=torch.channels_last))
        look = _Look(
            out.landmarks, out.log_error.exp(), out.visibility, out.expression, out.angles * DEGREES
        )
        if not mirror:
            return look
        points = look.landmarks[count:, _MIRROR]
        return _Look(
            (look.landmarks[:count] + torch.stack([1 - points[..., 0], points[..., 1]], -1)) / 2,
            (look.errors[:count] + look.errors[count:, _MIRROR]) / 2,
            (look.visibility[:count] + look.visibility[count:, _MIRROR]) / 2,
            (look.expression[:count] + look.expression[count:]) / 2,
            (look.angles[:count] + look.angles[count:] * look.angles.new_tensor([-1, 1, -1])) / 2,
        )


def close_up_frame(landmarks: Points) -> CropTransform:
    """The levelled square in which a face of these landmarks (28×2 px) is read best."""
    roll = lm.roll_degrees(landmarks)
    angle = np.radians(roll)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    level = landmarks @ turn.T
    low, high = level.min(axis=0), level.max(axis=0)
    x, y = (low + high) / 2 @ turn
    # Landmarks that all lie on one point are of no face, but must not end the program.
    side = max(CLOSE_UP * float((high - low).max()), 1.0)
    return CropTransform.square(float(x), float(y), side, roll)


def sample(images: Tensor, frames: Sequence[CropTransform], size: int) -> Tensor:
    """N×3×H×W => N×3×size×size: from each image its frame, bilinear, mirrored outside.

    Images that are shrunk are averaged first, by the whole factor that the smallest frame allows.
    """
    factor = max(1, round(min(frame.width for frame in frames) / size))
    if factor > 1:
        images = F.avg_pool2d(images, factor, ceil_mode=True, count_include_pad=False)
        frames = [frame.scaled(1 / factor) for frame in frames]
    height, width = images.shape[2:]
    turn, scale, centre = _placed(frames, images.device)
    steps = (torch.arange(size, device=images.device) + 0.5) / size - 0.5
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).view(1, -1, 2)
    places = (grid * scale[:, None, None]) @ turn + centre[:, None]
    limits = torch.tensor([width, height], device=images.device)
    places = (places / limits * 2 - 1).view(len(images), size, size, 2)
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=False)


def _placed(frames: Sequence[CropTransform], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """N×2×2 turns (for row vectors), N sides and N×2 centres of square frames, px."""
    angles = torch.tensor([np.radians(frame.roll_degrees) for frame in frames], device=device)
    cos, sin = angles.float().cos(), angles.float().sin()
    turn = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], dim=-2)
    scale = torch.tensor([frame.width for frame in frames], device=device)
    centre = torch.tensor([(frame.center_x, frame.center_y) for frame in frames], device=device)
    return turn, scale, centre


def _first_frame(
    image: np.ndarray, box: tuple[float, float, float, float] | None, roll_degrees: float
) -> CropTransform:
    height, width = image.shape[:2]
    if box is None:
        return CropTransform.square(width / 2, height / 2, float(max(height, width)), roll_degrees)
    x0, y0, x1, y1 = (float(value) for value in box)
    if not (x1 > x0 and y1 > y0):  # also what is not a number
        raise DataError(f"A face's box needs x0 < x1 and y0 < y1 in px, but is {box}.")
    side = AROUND_BOX * max(x1 - x0, y1 - y0)
    return CropTransform.square((x0 + x1) / 2, (y0 + y1) / 2, side, roll_degrees)


def _wrapped(degrees: float) -> float:
    return (degrees + 180.0) % 360.0 - 180.0


@cache
def _read_once(folder: Path, device: str) -> FaceReader:
    # Half a second; an edit asks for it at every frame of its film.
    return FaceReader.load(folder, device)


def _fused(network: FaceReaderNetwork) -> FaceReaderNetwork:
    """A copy in evaluation mode with the batch norms in the convolutions: a third less time."""
    fused = copy.deepcopy(network).eval().float().requires_grad_(False)
    for module in fused.modules():
        if isinstance(module, ConvNorm):
            convolution, norm = cast(nn.Conv2d, module[0]), cast(nn.BatchNorm2d, module[1])
            module[0] = fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
    return fused


def save(folder: Path, network: FaceReaderNetwork, expressions: Sequence[str]) -> None:
    """Write a reader into a folder, in half precision; `FaceReader.load` reads it."""
    checkpoint.save(folder, {NETWORK: network}, half=True)
    content = {"format": FORMAT, "version": VERSION, "expressions": list(expressions)}
    put_text(folder / READER_FILE, json.dumps(content, indent=1) + "\n")


def _read_expressions(path: Path) -> tuple[str, ...]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ModelError(
                f"{path} is not of the format {FORMAT}, version {VERSION}; use the program that "
                "wrote it, or make the reader again."
            )
        names = tuple(content["expressions"])
        if not all(isinstance(name, str) for name in names):
            raise TypeError("an expression's name is no text")
        return names
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; give the folder of a face reader.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({error}); make the reader again.") from None
