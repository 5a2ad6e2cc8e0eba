"""Which frames are judged: by an interval, or whenever a part has come to rest."""

import numpy as np
import pytest

from padim_jax.line.sources.trigger import AtRest, Every, Trigger, change_between

BELT = np.full((24, 32, 3), 90, np.float32)
PART = BELT.copy()
PART[8:14, 10:20] = 150


def noisy(scene: np.ndarray, index: int) -> np.ndarray:
    return scene + np.random.default_rng(index).normal(0, 1, scene.shape).astype(np.float32)


def moved(columns: int) -> np.ndarray:
    """The belt with the part so many columns to the left of where it comes to rest."""
    scene = BELT.copy()
    scene[8:14, max(0, 10 - columns) : max(0, 20 - columns)] = 150
    return scene


def taken(trigger: Trigger, scenes: list[np.ndarray], rate: float = 30.0) -> list[int]:
    return [
        index
        for index, scene in enumerate(scenes)
        if trigger.takes(index / rate, lambda scene=scene, index=index: noisy(scene, index))
    ]


def visit(length: int = 30) -> list[np.ndarray]:
    """A part comes, lies still for so many frames, and leaves; then the belt is empty for a second."""
    coming = [moved(columns) for columns in range(20, 0, -1)]
    return [*coming, *[PART] * length, *coming[::-1], *[BELT] * 30]


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [(0.0, [0, 1, 2, 3, 4, 5, 6]), (0.1, [0, 1, 2, 3, 4, 5, 6]), (0.2, [0, 2, 4, 6]), (0.25, [0, 3, 5])],
)
def test_the_first_frame_of_each_interval_is_taken(seconds: float, chosen: list[int]) -> None:
    assert taken(Every(seconds), [BELT] * 7, rate=10.0) == chosen


def test_intervals_do_not_drift_and_a_gap_is_not_made_up_for() -> None:
    trigger, times = Every(1.0), [0.0, 1.4, 2.1, 2.9, 9.5, 9.9, 10.0]
    assert [time for time in times if trigger.takes(time, lambda: BELT)] == [0.0, 1.4, 2.1, 9.5, 10.0]


def test_a_part_that_comes_to_rest_is_taken_once_however_long_it_lies() -> None:
    scenes = [*[BELT] * 30, *visit(30), *visit(600)]
    empty = AtRest(empty=BELT)
    found = taken(empty, scenes)
    first, second = 30 + 20, 30 + 100 + 20
    assert len(found) == 2
    assert first + 8 <= found[0] < first + 14
    assert second + 8 <= found[1] < second + 14
    assert len(taken(AtRest(), scenes)) == 5  # without it, each rest of the empty belt is one too


def test_a_part_that_moves_on_or_moves_slowly_is_not_taken_until_it_rests() -> None:
    slow = [moved(columns) for columns in range(20, 0, -1) for _ in range(6)]  # a column in 0.2 s
    found = taken(AtRest(empty=BELT), [*[BELT] * 15, *slow, *[PART] * 30])
    assert len(found) == 1
    assert found[0] >= 15 + len(slow)
    assert not taken(AtRest(empty=BELT), [*[BELT] * 15, *visit(5)])  # no 0.3 s


def test_light_is_no_motion() -> None:
    flicker = [scene + np.float32(25 * np.sin(index)) for index, scene in enumerate([PART] * 90)]
    assert len(taken(AtRest(), flicker)) == 1
    lamp = np.linspace(0, 40, 32, dtype=np.float32)[:, None]  # from the side, brighter within two minutes
    dawn = [PART + lamp * index / 3600 for index in range(3600)]
    assert len(taken(AtRest(), dawn)) == 1


def test_what_empty_looks_like_follows_the_light() -> None:
    lamp = np.linspace(0, 30, 32, dtype=np.float32)[:, None]
    scenes = list[np.ndarray]()
    for step in range(6):
        scenes += [scene + lamp * step / 5 for scene in visit(20)]
    assert len(taken(AtRest(empty=BELT), scenes)) == 6


def test_the_change_is_that_of_the_most_changed_cell_beyond_the_median() -> None:
    assert change_between(PART, BELT) == 60
    assert change_between(PART + 40, BELT) == 60
    assert change_between(BELT + 40, BELT) == 0


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Every(-1), "seconds=-1, wanted 0 or more"),
    (lambda: AtRest(0), "change=0, still=0.3, wanted more than 0"),
    (lambda: AtRest(float("nan")), "change=nan"),
])  # fmt: skip
def test_a_setting_that_can_not_be_is_refused(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]
