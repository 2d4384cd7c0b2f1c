"""One figure in its painting order: what lies behind what."""

from __future__ import annotations

from pipeline.data.landmarks import Points
from pipeline.data.painter import accessories, eyes, face
from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.expression import Expression
from pipeline.data.painter.features import build_features
from pipeline.data.painter.hair import HairPainter
from pipeline.data.painter.identity import Identity
from pipeline.data.painter.light import Light
from pipeline.data.painter.outfit import paint_outfit
from pipeline.data.painter.pose import Frame, Placement, Pose

# The chin's height that hair, neck and clothes are laid out for.
USUAL_CHIN = 1.03


def paint_figure(
    drawing: Drawing,
    identity: Identity,
    pose: Pose,
    expression: Expression,
    light: Light,
    placement: Placement,
) -> Points:
    """Paint head and shoulders onto `drawing`; returns the 28 landmarks (28×2 px)."""
    frame = Frame(pose, placement, drop=identity.face.chin - USUAL_CHIN)
    features = build_features(identity, expression)
    hair = HairPainter(identity.hair, frame, light, stretch=identity.face.chin - USUAL_CHIN)

    hair.paint_back(drawing)
    hair.paint_tails(drawing)
    face.paint_neck(drawing, identity, features, frame, light)
    accessories.paint_at_neck(drawing, identity, frame)
    paint_outfit(drawing, identity.outfit, frame, light)
    hair.paint_drapes(drawing)
    face.paint_ears(drawing, identity, frame)
    accessories.paint_at_ears(drawing, identity, frame)

    face.paint_skin(drawing, identity, features, frame, light, hair.fringe_outlines())
    face.paint_blush(drawing, identity, expression, frame)
    face.paint_face_line(drawing, identity, features, frame)
    face.paint_near_ear(drawing, identity, frame)
    face.paint_nose(drawing, identity, features, frame, light)
    face.paint_mouth(drawing, identity, expression, features, frame)
    eyes.paint_brows(drawing, identity, features, frame)
    eyes.paint_eyes(drawing, identity, features, frame, light, expression.shine)
    face.paint_tears(drawing, expression, features, frame)
    accessories.paint_on_face(drawing, identity, features, frame)

    accessories.paint_behind_fringe(drawing, identity, frame)
    hair.paint_buns(drawing)
    hair.paint_cap(drawing)
    hair.paint_sides(drawing)
    hair.paint_fringe(drawing)
    eyes.paint_lids_through_hair(drawing, identity, features, frame)
    eyes.paint_brows_through_hair(drawing, identity, features, frame)
    if light.rim is not None:
        hair.paint_rim(drawing, light.rim)
    hair.paint_ties(drawing, identity.outfit.accent)
    accessories.paint_in_front(drawing, identity, frame)
    return features.landmarks(frame)
