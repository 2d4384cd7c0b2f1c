"""Emotions of one face: presets, sliders, and what they ask of a picture's landmarks.

No stage and no store is needed:

    from pipeline.data.face_reader import FaceReader
    from pipeline.edit.emotions import EMOTIONS, SLIDERS, Goal, labels, plan_emotion, plan_goal

    reading = FaceReader.shipped().read(face)  # H × W × 3 uint8, the model's picture
    plan = plan_emotion(reading, "smile", 0.8, width=face.shape[1], height=face.shape[0])
    plan.moves  # handles and targets (pipeline.edit.recipe.Move), px of that picture
    plan.mask  # H × W uint8, 255 keeps; None where the head turns
    plan.landmark_targets  # 28 × 2 px, for whoever optimises by the face reader instead

    # Several at once, sliders, the other way round:
    goal = Goal({"smile": 0.7, "surprised": 0.3}, {"eye_open_left": -0.5}, mirror=True)
    plan = plan_goal(reading, goal, width=..., height=...)

`labels()` names all presets for a palette. `parse_goal("smile 0.7 + surprised 0.3",
"eye_open_left=-0.5")` reads the command line's form. A plan whose `moves` are empty asks for
what the face does already.
"""

from pipeline.edit.emotion_names import EMOTIONS, SLIDERS
from pipeline.edit.emotions.goal_text import goal_text, parse_goal
from pipeline.edit.emotions.plan import EmotionPlan, Goal, plan_emotion, plan_goal
from pipeline.edit.emotions.presets import Preset, find_preset


def labels() -> dict[str, dict[str, str]]:
    """{"emotion": {name: label}, "slider": {name: label}}, in the order of sheets."""
    return {
        "emotion": {name: find_preset("emotion", name).label for name in EMOTIONS},
        "slider": {name: find_preset("slider", name).label for name in SLIDERS},
    }


__all__ = [
    "EMOTIONS",
    "SLIDERS",
    "EmotionPlan",
    "Goal",
    "Preset",
    "find_preset",
    "goal_text",
    "labels",
    "parse_goal",
    "plan_emotion",
    "plan_goal",
]
