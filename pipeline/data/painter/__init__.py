"""The painter: procedural anime faces with exact landmarks and part masks, by seed.

`paint_face` draws one identity in one pose, expression, light and background; `sample_face` draws
face number `index` of a seeded set, of one character or of many; `paint_scene` whole pictures.
"""

from pipeline.data.painter.background import BACKGROUNDS, Background, random_background
from pipeline.data.painter.canvas import PARTS
from pipeline.data.painter.expression import EXPRESSIONS, Expression, blend, preset, vary
from pipeline.data.painter.identity import Identity, random_identity
from pipeline.data.painter.light import Light, random_light
from pipeline.data.painter.painting import Painting, face_landmarks, paint_face
from pipeline.data.painter.pose import Placement, Pose
from pipeline.data.painter.samples import character, random_pose, sample_face
from pipeline.data.painter.scene import Scene, SceneFace, paint_scene

__all__ = [
    "BACKGROUNDS",
    "EXPRESSIONS",
    "PARTS",
    "Background",
    "Expression",
    "Identity",
    "Light",
    "Painting",
    "Placement",
    "Pose",
    "Scene",
    "SceneFace",
    "blend",
    "character",
    "face_landmarks",
    "paint_face",
    "paint_scene",
    "preset",
    "random_background",
    "random_identity",
    "random_light",
    "random_pose",
    "sample_face",
    "vary",
]
