"""Names of the emotions and of the feature sliders, for settings, which import nothing heavy."""

from __future__ import annotations

# In the order in which sheets show them.
EMOTIONS = (
    "neutral",
    "smile",
    "laugh",
    "wink",
    "surprised",
    "embarrassed",
    "pout",
    "angry",
    "sad",
    "sleepy",
)
SLIDERS = (
    "eye_size",
    "eye_open_left",
    "eye_open_right",
    "gaze_x",
    "gaze_y",
    "mouth_width",
    "mouth_open",
    "mouth_corners",
    "brow_height",
    "brow_tilt",
    "head_yaw",
    "head_pitch",
    "head_roll",
)
# The animations that ship (conf/animation/).
ANIMATIONS = ("blink", "talk", "nod", "turn")
