"""What happens again and again on a line is said so often that somebody knows of it, and not each time."""

from types import SimpleNamespace

import pytest

from padim_jax.line.remarks import Outages, Seldom
from tests.test_line_store import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(0.0)
    monkeypatch.setattr("padim_jax.line.remarks.time", SimpleNamespace(monotonic=clock))
    return clock


def test_what_happens_all_the_time_is_said_now_and_then_with_how_often_it_was(clock: Clock) -> None:
    said = list[str]()
    seldom = Seldom(said.append, 10.0)
    for second in range(26):
        clock.now = float(second)
        seldom.say(f"lost {second}")
    more = ", and 9 more since the last word on it"
    assert said == ["lost 0", f"lost 10{more}", f"lost 20{more}"]


def frames(outages: Outages, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        outages.frame()
        clock.now += 1


def test_an_outage_is_told_once_with_each_reason_and_once_when_it_is_over(clock: Clock) -> None:
    said = list[str]()
    outages = Outages("door", said.append, steady=5.0)
    frames(outages, clock, 20)  # they come from the start on, of which nothing is said
    for why in ("its stream has ended", *["refused", "401 Unauthorized"] * 20):
        outages.fail(why)
        clock.now += 2
    assert said == [
        f"no frames come from door ({why}); it is tried again until they do"
        for why in ("its stream has ended", "refused", "401 Unauthorized")
    ]
    frames(outages, clock, 5)
    assert len(said) == 3
    frames(outages, clock, 5)
    assert said[3:] == ["frames come from door again, after 82 s without any (41 connections failed)"]
    outages.fail("refused")
    assert said[4:] == ["no frames come from door (refused); it is tried again until they do"]  # another outage


def test_a_camera_that_comes_and_goes_every_other_second_has_one_outage(clock: Clock) -> None:
    said = list[str]()
    outages = Outages("door", said.append, steady=5.0)
    for _ in range(100):
        outages.fail("its stream has ended")
        clock.now += 1
        frames(outages, clock, 2)
    assert len(said) == 1
    frames(outages, clock, 6)
    assert said[1:] == ["frames come from door again, after 100 s without any in 100 gaps (100 connections failed)"]
