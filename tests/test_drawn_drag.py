"""A drag carried out on the drawing itself, on paintings whose landmarks are known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from drag_models import AffinePicture
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import face_measures
from pipeline.data import landmarks as lm
from pipeline.data.face_reader import FaceReader
from pipeline.edit import session as sessions
from pipeline.edit.drag import Limits
from pipeline.edit.drawn_drag import draw_drag
from pipeline.edit.emotions.face_pixels import darkest, painted_over
from pipeline.edit.full_picture import (
    LEAST_MOTION,
    LEAST_READ,
    MOST_NEW,
    Dragged,
    full_picture,
    views_between,
)
from pipeline.edit.likely_landmarks import followed, held
from pipeline.edit.own_face import kept_part
from pipeline.edit.recipe import Move
from pipeline.edit.session_acts import acts_of
from pipeline.edit.session_machine import receive
from pipeline.edit.strategies import DragGan
from tests.test_carry import FACE, SIDE, WHOLE, painting, small

CALM = painting()
WIDTH = lm.face_width(CALM.landmarks)


def pull(name: str, right: float, down: float) -> Move:
    """A landmark of CALM, dragged by so many face widths."""
    x, y = (float(v) for v in CALM.landmarks[lm.INDEX[name]])
    return Move((x, y), (x + right * WIDTH, y + down * WIDTH))


# --- where the landmarks go ---


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(lm.NAMES), st.floats(-0.08, 0.08), st.floats(-0.08, 0.08), st.booleans())
def test_a_dragged_landmark_arrives_and_a_mirrored_drag_does_the_mirrored(
    name: str, right: float, down: float, twice: bool
) -> None:
    moves = [pull(name, right, down)] + ([pull("chin", 0.02, 0.02)] if twice else [])
    moved = followed(CALM.landmarks, moves)
    if not twice:
        # Of a shut mouth's lips, which lie on each other, the one is meant that the way is of.
        gone = held(CALM.landmarks, moves)[0] @ (moved - CALM.landmarks)
        miss = np.linalg.norm(np.subtract(moves[0].target, moves[0].start) - gone) / WIDTH
        assert miss < 0.3 * float(np.hypot(right, down)) + 0.012
    mirrored = [
        Move((SIDE - m.start[0], m.start[1]), (SIDE - m.target[0], m.target[1])) for m in moves
    ]
    other = followed(lm.mirrored(CALM.landmarks, SIDE), mirrored)
    # The statistics are of drawn faces, alike on both sides up to chance.
    assert np.abs(lm.mirrored(other, SIDE) - moved).max() / WIDTH < 0.03


def test_one_corner_of_the_mouth_leaves_the_eyes_alone_and_all_points_turn_the_head() -> None:
    corner = followed(CALM.landmarks, [pull("mouth_right", 0.04, -0.08)]) - CALM.landmarks
    eyes = np.r_[lm.LEFT_EYE, lm.RIGHT_EYE]
    assert np.abs(corner[eyes]).max() < 0.03 * WIDTH
    names = ("nose", "chin", "mouth_left", "mouth_right", "left_eye_lower_middle")
    turned = followed(CALM.landmarks, [pull(name, 0.08, 0.0) for name in names]) - CALM.landmarks
    assert turned[lm.RIGHT_EYE, 0].mean() > 0.03 * WIDTH  # which nobody took hold of


def test_what_belongs_together_moves_together() -> None:
    eye = CALM.landmarks[lm.LEFT_EYE].mean(axis=0)
    way = np.array([-0.05, 0.02]) * WIDTH
    moved = followed(CALM.landmarks, [Move(tuple(eye), tuple(eye + way))]) - CALM.landmarks
    assert np.abs(moved[lm.LEFT_EYE] - way).max() < 0.35 * np.linalg.norm(way)
    brow = followed(CALM.landmarks, [pull("right_brow_middle", 0.0, -0.05)]) - CALM.landmarks
    # A raised brow opens no mouth.
    opened = brow[lm.INDEX["mouth_lower"]] - brow[lm.INDEX["mouth_upper"]]
    assert np.abs(opened).max() < 0.12 * np.abs(brow[lm.RIGHT_BROW]).max()
    # A lip pulled down from a shut mouth opens it.
    lip = followed(CALM.landmarks, [pull("mouth_lower", 0.0, 0.06)]) - CALM.landmarks
    lower, upper = (lip[lm.INDEX[f"mouth_{one}"]][1] for one in ("lower", "upper"))
    assert lower > 0.04 * WIDTH
    assert upper < 0.5 * lower
    # Its corners pulled up and apart do not, nor when they are taken hold of nearer its middle.
    left, right = (CALM.landmarks[lm.INDEX[f"mouth_{side}"]] for side in ("left", "right"))
    for share in (0.0, 0.2):
        inner = share * (right - left)
        pulled = [
            Move(tuple(left + inner), tuple(left + inner + np.array([-0.02, -0.03]) * WIDTH)),
            Move(tuple(right - inner), tuple(right - inner + np.array([0.02, -0.03]) * WIDTH)),
        ]
        smile = followed(CALM.landmarks, pulled) - CALM.landmarks
        way = np.subtract(pulled[0].target, pulled[0].start)
        assert smile[lm.INDEX["mouth_left"]] == pytest.approx(way, rel=0.2)
        opened = smile[lm.INDEX["mouth_lower"]] - smile[lm.INDEX["mouth_upper"]]
        assert np.abs(opened).max() < 1e-6
    hair = Move((0.5 * SIDE, 2.0), (0.5 * SIDE + 9, 8.0))
    assert np.array_equal(followed(CALM.landmarks, [hair]), CALM.landmarks)


# --- the picture ---


def test_the_drawing_follows_its_points_with_its_own_lines() -> None:
    reader, keep = FaceReader.shipped(), kept_part(None, CALM.image.shape)
    reading = replace(reader.read(CALM.image), landmarks=CALM.landmarks)
    corners = [pull("mouth_left", -0.03, -0.02), pull("mouth_right", 0.03, -0.02)]
    for moves in ([pull("mouth_lower", 0.0, 0.07)], corners, [pull("chin", 0.03, 0.04)]):
        drawn = draw_drag(CALM.image, reading, moves, keep)
        found = reader.read(drawn).landmarks
        for move in moves:
            # Of a shut mouth's lips, which lie on each other, the lower one is meant.
            off = np.linalg.norm(CALM.landmarks - move.start, axis=1)
            index = int(np.flatnonzero(off < off.min() + 0.02 * WIDTH)[-1])
            begun = np.linalg.norm(np.subtract(move.target, move.start))
            assert np.linalg.norm(found[index] - move.target) < 0.6 * begun, lm.NAMES[index]


def test_an_eye_that_is_pulled_shut_leaves_the_brow_where_it_is() -> None:
    reader, keep = FaceReader.shipped(), kept_part(None, CALM.image.shape)
    reading = replace(reader.read(CALM.image), landmarks=CALM.landmarks)
    upper, lower = CALM.landmarks[[lm.INDEX[f"left_eye_{i}_middle"] for i in ("upper", "lower")]]
    start = upper + np.array([0.03, -0.03]) * WIDTH  # on the lash, as one takes hold of it
    lid = Move(tuple(start), tuple(start + 0.95 * (lower - upper)))
    drawn = draw_drag(CALM.image, reading, [lid], keep)
    found = reader.read(drawn).landmarks
    assert face_measures.eye_aspect(found, "left") < 0.45 * face_measures.eye_aspect(
        CALM.landmarks, "left"
    )
    moved = (found - reader.read(CALM.image).landmarks)[lm.LEFT_BROW]
    assert np.abs(moved).max() < 0.09 * WIDTH


def test_a_part_that_is_read_too_small_leaves_no_lines_behind() -> None:
    """An open mouth whose upper lip, and an eye whose lash, lie further out than was read."""
    scene = painting("surprised")
    points, dark = scene.landmarks.copy(), scene.image.sum(axis=2) < 330
    parts = ("mouth", "mouth_left", 0.7), ("left_eye", "left_eye_upper_middle", 0.3)
    for part, name, inwards in parts:
        row = lm.INDEX[name]
        points[row] += inwards * (points[lm.PARTS[part]].mean(axis=0) - points[row])
        clean = painted_over(scene.image, points, part, WIDTH)
        x, y = (int(v) for v in scene.landmarks[row])
        reach = round(0.05 * WIDTH)
        window = np.s_[y - reach : y + reach, x - reach : x + reach]
        assert dark[window].sum() > 20
        assert (clean[window].sum(axis=2) < 330).sum() < 0.25 * dark[window].sum(), part
    # Hair as dark as the lash, which reaches the eye, is none.
    eye = scene.landmarks[lm.LEFT_EYE]
    x, y = int(eye[:, 0].min()), int(eye[:, 1].mean())
    haired = scene.image.copy()
    haired[y - 30 : y + 10, : x + 4] = darkest(scene.image, scene.landmarks, "left_eye", WIDTH)
    clean = painted_over(haired, scene.landmarks, "left_eye", WIDTH)
    beyond = np.s_[y - 25 : y + 5, : round(x - 0.09 * WIDTH)]
    assert np.array_equal(clean[beyond], haired[beyond])


def test_hair_moves_alone_and_what_a_mask_keeps_stays() -> None:
    reading = replace(FaceReader.shipped().read(CALM.image), landmarks=CALM.landmarks)
    x, y = (float(v) for v in CALM.landmarks[lm.INDEX["contour_lower_left"]])
    lock = Move((x - 0.22 * WIDTH, y), (x - 0.34 * WIDTH, y + 0.03 * WIDTH))
    keep = kept_part(None, CALM.image.shape)
    drawn = draw_drag(CALM.image, reading, [lock], keep)
    inner = cv2.boundingRect(CALM.landmarks[5:28].astype(np.float32))
    window = np.s_[inner[1] : inner[1] + inner[3], inner[0] + inner[2] // 2 : inner[0] + inner[2]]
    assert np.array_equal(drawn[window], CALM.image[window])
    assert not np.array_equal(drawn, CALM.image)
    keep[: SIDE // 2] = 1
    held = draw_drag(CALM.image, reading, [pull("nose", 0.05, 0.0)], keep)
    assert np.array_equal(held[: SIDE // 2 - 2], CALM.image[: SIDE // 2 - 2])
    assert not np.array_equal(held, CALM.image)


# --- which way is taken ---


def dragged(after: np.ndarray, drawing: np.ndarray = CALM.image) -> Dragged:
    scale = FACE / SIDE
    chin = pull("chin", 0.05, 0.0)
    start, target = (tuple(scale * v for v in point) for point in (chin.start, chin.target))
    act = (Move(start, target),)
    return Dragged(drawing, WHOLE, small(drawing), after, (act,), None)


def test_a_model_that_moved_the_face_is_followed_and_one_that_broke_it_is_not() -> None:
    turned = small(painting(yaw=6.0).image)
    assert full_picture(dragged(turned), "auto")[1]["from"] == "drawing"
    broken = small(CALM.image).copy()
    broken[50:80, 30:66] = (255, 40, 250)
    full, about = full_picture(dragged(broken), "auto")
    assert about["from"] == "drawn"
    assert about["new_colours"] > MOST_NEW
    assert not np.array_equal(full, CALM.image)
    assert full_picture(dragged(broken), "drawing")[1]["from"] == "drawing"
    for way in ("drawn", "drawing"):
        views = views_between(dragged(broken), way, 4)
        assert len({view.shape for view in views}) == 1
        # From the drawing as it was, farther and farther away.
        steps = [int(np.abs(view.astype(int) - views[0]).sum()) for view in views]
        assert steps[0] == 0
        assert steps == sorted(set(steps))
    assert full_picture(dragged(broken), "face")[1]["from"] == "face"


def test_a_smear_and_a_model_that_did_not_move_are_not_followed() -> None:
    # Colours that were near already, and yet no motion.
    smeared = small(CALM.image).copy()
    smeared[40:90, 24:72] = cv2.GaussianBlur(smeared, (0, 0), 3)[40:90, 24:72]
    full, about = full_picture(dragged(smeared), "auto")
    assert about["new_colours"] < MOST_NEW
    assert about["explained_by_motion"] < LEAST_MOTION
    assert about["from"] == "drawn"
    still, about = full_picture(dragged(small(CALM.image)), "auto")
    assert about["carried_share"] == 0
    assert np.array_equal(still, full)
    assert not np.array_equal(still, CALM.image)


def test_a_mood_that_the_model_knows_is_followed_though_little_of_it_is_motion() -> None:
    truth = painting("laugh")
    places = [lm.INDEX[name] for name in ("mouth_lower", "left_eye_upper_middle")]
    ends = [(one.landmarks[i] * FACE / SIDE).tolist() for i in places for one in (CALM, truth)]
    act = (Move(tuple(ends[0]), tuple(ends[1])), Move(tuple(ends[2]), tuple(ends[3])))
    # In the studio the same may have come about in two acts.
    half = tuple(
        ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in ((m.start, m.target) for m in act)
    )
    first = tuple(Move(m.start, there) for m, there in zip(act, half, strict=True))
    then = tuple(Move(there, m.target) for m, there in zip(act, half, strict=True))
    for acts in ((act,), (first, then)):
        done = Dragged(CALM.image, WHOLE, small(CALM.image), small(truth.image), acts, None)
        full, about = full_picture(done, "auto")
        assert about["explained_by_motion"] < LEAST_MOTION
        assert about["from"] == "drawing"
        assert about["read_share"] > LEAST_READ
    far, begun = (np.abs(one.astype(float) - truth.image).mean() for one in (full, CALM.image))
    assert far < 0.5 * begun


def test_a_handle_that_holds_its_place_does_not_make_a_drag_fail() -> None:
    turned = dragged(small(painting(yaw=6.0).image))
    x, y = (float(v) * FACE / SIDE for v in CALM.landmarks[lm.INDEX["left_eye_upper_middle"]])
    pinned = replace(turned, acts=((*turned.acts[0], Move((x, y), (x, y))),))
    shares = [full_picture(one, "auto")[1]["carried_share"] for one in (turned, pinned)]
    assert shares[0] == shares[1] > 0


def test_what_was_no_drag_is_never_undone_by_carrying_out_a_drag() -> None:
    broken = small(CALM.image).copy()
    broken[50:80, 30:66] = (255, 40, 250)
    full, about = full_picture(replace(dragged(broken), acts=()), "auto")
    assert about["from"] == "drawing"
    assert not np.array_equal(full, CALM.image)


def test_with_a_mask_the_border_is_at_rest_as_without() -> None:
    still = dragged(small(CALM.image))
    nothing_kept = replace(still, mask=np.zeros((FACE, FACE), np.uint8))
    without, with_mask = (full_picture(one, "drawn")[0] for one in (still, nothing_kept))
    assert np.array_equal(without, with_mask)


def test_where_no_face_is_recognised_what_is_around_a_handle_goes_with_it() -> None:
    paper = np.full((SIDE, SIDE, 3), 200, np.uint8)
    cv2.circle(paper, (200, 160), 6, (20, 20, 20), -1)
    act = (Move((200.5 * FACE / SIDE, 160.5 * FACE / SIDE), (56.0, 36.0)),)
    full, about = full_picture(
        Dragged(paper, WHOLE, small(paper), small(paper), (act,), None), "auto"
    )
    assert np.array_equal(draw_drag(paper, None, (), kept_part(None, paper.shape)), paper)
    assert about["from"] == "drawn"
    rows, columns = np.nonzero(full.max(axis=2) < 110)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((224, 144), abs=2)


@pytest.mark.parametrize(
    ("starts", "targets"), [((150.0, 250.0), (195.0, 205.0)), ((100.0, 190.0), (200.0, 200.0))]
)
def test_points_that_pull_to_one_place_tear_nothing(
    starts: tuple[float, ...], targets: tuple[float, ...]
) -> None:
    ramp = np.repeat(np.linspace(0, 255, SIDE).astype(np.uint8)[None], SIDE, axis=0)
    paper = np.repeat(ramp[..., None], 3, axis=2)
    moves = [Move((a, 200.0), (b, 200.0)) for a, b in zip(starts, targets, strict=True)]
    drawn = draw_drag(paper, None, moves, kept_part(None, paper.shape))[..., 0].astype(int)
    assert (np.diff(drawn, axis=1) >= -1).all()  # what lay to the right does so still
    assert drawn[200, 180] < ramp[200, 180] - 5


# --- a session's drags, one after the other ---


def test_a_handle_that_was_taken_away_has_still_done_its_act() -> None:
    picture = AffinePicture()
    engine = sessions.Engine(picture.model(), DragGan(learning_rate=0.05), Limits())

    def told(session: sessions.Session, *messages: sessions.MessageIn) -> sessions.Session:
        for message in messages:
            session, _ = receive(session, message, engine)
        return session

    def run(session: sessions.Session) -> sessions.Session:
        session = told(session, sessions.Run())
        while session.running:
            session = told(session, sessions.Tick())
        return session

    session = sessions.begin(picture.ws(), (1, 5))
    assert acts_of(session) == ()
    first = run(told(session, sessions.Add((20.0, 30.0), (24.0, 30.0))))
    # It arrived: on the drawing it goes all the way.
    assert acts_of(first) == ((Move((20.0, 30.0), (24.0, 30.0)),),)
    (handle,) = first.state.handles
    second = told(first, sessions.Remove(handle.id), sessions.Add((40.0, 40.0), (40.0, 44.0)))
    second = run(second)
    both = ((Move((20.0, 30.0), (24.0, 30.0)),), (Move((40.0, 40.0), (40.0, 44.0)),))
    assert acts_of(second) == both
    # Scrubbed back to the first drag's end, the second act is undone, ...
    back = told(second, sessions.Seek(first.frame.id))
    assert acts_of(back) == both[:1]
    # ... and on the way there the drawing is as far as the drag was.
    half = told(second, sessions.Seek(first.frame.id - 1))
    ((way,),) = acts_of(half)
    assert way.start == (20.0, 30.0)
    assert 20.5 < way.target[0] < 23.5
    # The same handle, set somewhere else, goes from there.
    elsewhere = sessions.Move(handle.id, (40.0, 40.0), (40.0, 44.0))
    assert acts_of(run(told(first, elsewhere))) == both
    # What arrived stays where it is on the drawing while another handle goes.
    joined = run(told(first, sessions.Add((40.0, 20.0), (40.0, 16.0))))
    here, there = acts_of(joined)[1]
    assert here == Move((24.0, 30.0), (24.0, 30.0))
    assert there.start == (40.0, 20.0)
    # An emotion that was entered is no way of handles.
    entered = sessions.Play("emotion happy", first.frame.id, (first.frame.ws + 0.1,))
    assert acts_of(told(first, entered)) == ()
