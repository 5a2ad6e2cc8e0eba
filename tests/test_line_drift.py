"""Drift: no more false alarms than the stated rate, and changes found and named, early and late, up and down."""

import hashlib
import json
import lzma
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from padim_jax.line.appearance import FIGURES, GRID, Appearance
from padim_jax.line.drift import MOST_SOURCES, OTHERS, QUANTITIES, Drift, DriftTests, find_drifts
from padim_jax.line.drift_words import offer, place_name, sentences
from padim_jax.line.martingale import Martingale
from padim_jax.line.records import Decision
from padim_jax.line.store import Store
from tests.test_cli import run
from tests.test_line_appearance import OLD
from tests.test_line_store import decision

Capture = pytest.CaptureFixture[str]


def line(scores: np.ndarray, name: str = "m") -> list[Decision]:
    return [
        Decision("/in", f"{index}.png", f"{name}{index}", name, name, "good", score=float(score), sequence=index + 1)
        for index, score in enumerate(scores)
    ]


def figures(n: int, seed: int) -> np.ndarray:
    """Numbers of images that stay as they are; all depend on each other, as those of real images do."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 1))
    return 0.7 * common + rng.normal(size=(n, len(QUANTITIES)))


def pictured(numbers: np.ndarray, name: str = "m") -> list[Decision]:
    """Decisions with these quantities."""
    return [
        replace(found, appearance=Appearance(*map(float, row[1:7]), places=tuple(map(float, row[7:]))))
        for found, row in zip(line(numbers[:, 0], name), numbers.astype(np.float32), strict=True)
    ]


def alarms(drift: Drift) -> dict[tuple[str, tuple[int, int] | None], bool | None]:
    return {(one.quantity.kind, one.quantity.place): one.is_higher for one in drift.alarms}


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_line_that_stays_as_it_is_gives_no_more_false_alarms_than_stated(rate: float) -> None:
    rng, runs = np.random.default_rng(0), 200
    reached = (Martingale(runs).bet(rng.random((500, runs))).value >= 1 / rate).any(0)
    assert reached.sum() <= stats.binom.ppf(0.999, runs, rate)
    assert sum(quantity.share for quantity in QUANTITIES) == pytest.approx(1)


def test_all_quantities_together_give_no_more_false_alarms_than_stated() -> None:
    rate, runs = 0.2, 60
    count = sum(bool(find_drifts(pictured(figures(300, 100 + run), f"{run}"), rate)[0].alarms) for run in range(runs))
    assert count <= stats.binom.ppf(0.999, runs, rate)


def test_the_mean_capital_of_one_who_bets_on_nothing_stays_one() -> None:
    rng = np.random.default_rng(2)
    values = Martingale(4000).bet(rng.random((20, 4000))).value[-1]
    assert np.mean(values) == pytest.approx(1, abs=4 * np.std(values) / 4000**0.5)


def test_each_sequence_is_bet_on_by_itself_and_what_is_missing_is_passed_over() -> None:
    p = np.random.default_rng(3).random((40, 3)) ** 2
    p[5:9, 1] = p[20, 2] = p[:, 0] = np.nan
    together = Martingale(3)
    found = np.concatenate([together.bet(part).value for part in (p[:7], p[7:8], p[8:8], p[8:])])
    for column in range(3):
        there = ~np.isnan(p[:, column])
        alone = Martingale().bet(p[there, column][:, None]).value[:, 0]
        np.testing.assert_allclose(found[there, column], alone)
    np.testing.assert_array_equal(found[:, 0], 1)
    np.testing.assert_array_equal(found[4:9, 1], found[4, 1])


@pytest.mark.parametrize(("start", "within"), [(100, 100), (5000, 110)])
@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_change_is_found_also_after_a_long_time_without_one(start: int, within: int, shift: float) -> None:
    scores = np.random.default_rng(3).normal(size=start + within)
    scores[start:] += shift
    (drift,) = find_drifts(line(scores))
    (found,) = drift.alarms
    assert found.quantity.kind == "score"
    assert start < found.at.sequence <= start + within
    assert abs(found.since.sequence - start) < 60
    assert found.is_higher == (shift > 0)
    assert drift.pictured == 0


@pytest.mark.parametrize("column", range(len(QUANTITIES)))
@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_what_has_changed_is_named_and_nothing_else(column: int, shift: float) -> None:
    numbers = figures(360, 4)
    numbers[240:, column] += shift
    (drift,) = find_drifts(pictured(numbers))
    assert alarms(drift) == {(QUANTITIES[column].kind, QUANTITIES[column].place): shift > 0}
    (found,) = drift.alarms
    assert abs(found.since.sequence - 240) < 40


def test_it_is_the_same_at_once_and_in_parts() -> None:
    numbers = figures(700, 5)
    numbers[400:, [0, 1, 9]] += 1.5
    numbers[:100, 1:] = numbers[:, 6] = np.nan  # an older version recorded these; no model turns
    decisions = pictured(numbers)
    decisions[:100] = line(numbers[:100, 0])
    decisions = [replace(one, appearance=one.appearance and replace(one.appearance, turn=None)) for one in decisions]
    whole = find_drifts(decisions)
    tests = DriftTests()
    for start in range(0, 700, 13):
        tests.add(decisions[start : start + 13])
    assert tests.found() == whole
    (drift,) = whole
    assert alarms(drift).keys() == {("score", None), ("brightness", None), ("place", (0, 2))}
    assert (drift.images, drift.pictured) == (700, 600)
    assert drift.findings[6].images == 0


def of_source(source: str, decisions: list[Decision], first: int = 0) -> list[Decision]:
    return [replace(one, source=source, sequence=first + index + 1) for index, one in enumerate(decisions)]


def test_each_source_is_looked_at_by_itself() -> None:
    numbers = [figures(300, seed) for seed in (20, 21)]
    for one in numbers:
        one[200:, 1] -= 2
    numbers[1][:, 1] += 50  # the other camera's pictures are brighter, and get darker too
    cameras = [pictured(one, f"{index}") for index, one in enumerate(numbers)]
    cameras = [[replace(one, model="m", model_digest="m") for one in camera] for camera in cameras]
    mixed = [one for pair in zip(*cameras, strict=True) for one in pair]
    mixed = [replace(one, source=("left", "right")[index % 2], sequence=index + 1) for index, one in enumerate(mixed)]
    found = find_drifts(mixed)
    assert [(drift.source, drift.images) for drift in found] == [("left", 300), ("right", 300)]
    for drift, own in zip(found, cameras, strict=True):
        assert alarms(drift) == alarms(find_drifts(own)[0]) == {("brightness", None): False}


def test_another_camera_that_begins_later_is_no_drift() -> None:
    first, second = figures(400, 26), figures(200, 27)
    second[:, 1] += 50  # its pictures are brighter
    left, right = (of_source(name, pictured(one, name)) for name, one in (("left", first), ("right", second)))
    both = [*left[:200], *(one for pair in zip(left[200:], right, strict=True) for one in pair)]
    both = [replace(one, model="m", model_digest="m", sequence=index + 1) for index, one in enumerate(both)]
    assert [(drift.source, drift.alarms) for drift in find_drifts(both)] == [("left", ()), ("right", ())]
    (together,) = find_drifts([replace(one, source="both") for one in both])  # as they were followed once
    assert alarms(together) == {("brightness", None): True}


def test_a_line_beside_one_that_drifts_gives_no_more_false_alarms_than_stated() -> None:
    rate, runs, wrong, right = 0.2, 40, 0, 0
    for seed in range(runs):
        moved, steady = figures(240, 300 + seed), figures(240, 500 + seed)
        moved[120:, 2] += 3
        both = [*of_source("a", pictured(moved, f"{seed}m")), *of_source("b", pictured(steady, f"{seed}s"))]
        both = [replace(one, model="m", model_digest="m") for one in both]
        first, second = find_drifts(both, rate)
        right += ("contrast", None) in alarms(first)
        wrong += bool(second.alarms)
    assert right == runs
    assert wrong <= stats.binom.ppf(0.999, runs, rate)


def test_made_up_names_of_sources_are_followed_together_beyond_the_first_ones() -> None:
    steady = of_source("camera", pictured(figures(60, 22)))
    made_up = [replace(one, source=f"part {index}") for index, one in enumerate(pictured(figures(300, 23)))]
    found = find_drifts([*steady, *made_up])
    assert len(found) == MOST_SOURCES + 1
    assert (found[0].source, found[0].images) == ("camera", 60)
    assert (found[-1].source, found[-1].source_name, found[-1].images) == (None, OTHERS, 300 - MOST_SOURCES + 1)
    found = find_drifts(
        [*(replace(one, source=OTHERS) for one in steady), *made_up]
    )  # a source of this name is not they
    assert [(one.source, one.images) for one in (found[0], found[-1])] == [(OTHERS, 60), (None, 300 - MOST_SOURCES + 1)]


@pytest.mark.parametrize("sizes", [(1000,), (37,)])
def test_a_second_change_of_the_same_quantity_is_found_and_the_way_back_too(sizes: tuple[int]) -> None:
    numbers = figures(1000, 24)
    numbers[200:400, 1] -= 2  # darker,
    numbers[600:800, 1] -= 2  # as before, darker again,
    numbers[800:, 1] -= 4  # and darker still
    decisions, tests = pictured(numbers), DriftTests()
    for start in range(0, 1000, sizes[0]):
        tests.add(decisions[start : start + sizes[0]])
    (drift,) = tests.found()
    found = [(one.quantity.kind, one.number, one.is_higher) for one in drift.alarms]
    assert found == [
        ("brightness", 1, False),
        ("brightness", 2, True),
        ("brightness", 3, False),
        ("brightness", 4, False),
    ]
    for alarm, start in zip(drift.alarms, (200, 400, 600, 800), strict=True):
        assert start < alarm.at.sequence <= start + 110
        assert abs(alarm.since.sequence - start) < 40
    assert [words.split(" since ")[0] for words in sentences(drift.alarms)] == [
        *("the images are darker", "the images are brighter", "the images are darker", "the images are darker"),
    ]
    record = drift.record()["findings"][1]
    assert (record["change"], record["is_higher"], record["alarm"]["sequence"]) == (
        4,
        False,
        drift.alarms[3].at.sequence,
    )
    assert record["images"] == 1000
    assert record["highest"] >= 100


@pytest.mark.slow
def test_a_line_that_stays_changed_gives_no_more_second_alarms_than_stated() -> None:
    rate, runs, seconds = 0.2, 60, 0
    for seed in range(runs):
        numbers = figures(400, 700 + seed)
        numbers[100:] += 3  # everything has changed once
        (drift,) = find_drifts(pictured(numbers, f"{seed}"), rate)
        assert len({one.quantity for one in drift.alarms}) == len(QUANTITIES)
        seconds += any(one.number > 1 for one in drift.alarms)
    assert seconds <= stats.binom.ppf(0.999, runs, rate)


@pytest.mark.slow
def test_many_alarms_at_once_are_those_that_come_one_by_one_and_take_little_memory() -> None:
    rate, numbers = 0.99, figures(600, 28)
    numbers[:, [0, 1, 9]] = np.arange(600)[:, None]  # always higher, so there is an alarm every few images
    decisions, found = pictured(numbers), list[list[Drift]]()
    for size in (1, 37, 256, 300, 600):
        tests = DriftTests(rate)
        for start in range(0, 600, size):
            tests.add(decisions[start : start + size])
        found.append(tests.found())
    assert all(one == found[0] for one in found)
    assert len(found[0][0].alarms) > 100
    many = line(np.arange(4096.0))
    tracemalloc.start()
    find_drifts(many, rate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_places_that_changed_twice_are_told_apart() -> None:
    numbers = figures(700, 25)
    numbers[200:400, [7, 8]] += 2
    (drift,) = find_drifts(pictured(numbers))
    first, second = sentences(drift.alarms)
    assert first.startswith("the upper left and upper middle of the picture score higher since about ")
    assert second.startswith("the upper left and upper middle of the picture score lower since about ")


def test_each_state_of_a_model_is_looked_at_by_itself() -> None:
    rng = np.random.default_rng(4)
    steady, moved = line(rng.normal(size=200), "a"), line(rng.normal(size=200) + 8, "b")
    unreadable = [Decision("/in", "x.png", "x", "a", "a", "unreadable")]
    found = find_drifts([*steady, *unreadable, *moved])
    assert [(drift.model, drift.images, drift.alarms) for drift in found] == [("a", 200, ()), ("b", 200, ())]
    assert find_drifts([]) == []
    with pytest.raises(ValueError, match="rate=1, wanted a number above 0 and below 1"):
        find_drifts([], 1)


def test_words_name_what_where_and_since_when() -> None:
    assert [place_name(place) for place in ((0, 0), (1, 2), (GRID - 1, 1))] == ["upper left", "middle", "lower middle"]
    numbers = figures(400, 6)
    numbers[240:, 1] -= 2
    numbers[240:, [7, 8, 7 + GRID * GRID - 1]] += 2
    (drift,) = find_drifts(pictured(numbers))
    darker, places = sentences(drift.alarms)
    assert darker.startswith("the images are darker since about ")
    assert places.startswith("the upper left, upper middle and lower right of the picture score higher since about ")
    assert offer(replace(drift, model="a b"))["update"] == "padim update 'MODELS/a b' GOOD_IMAGES"


def test_the_command_says_whether_what_and_since_when(tmp_path: Path, capsys: Capture) -> None:
    numbers = figures(300, 7)
    numbers[200:, [0, 1]] += 2
    with Store.open(tmp_path / "l.db") as store:
        store.record(pictured(numbers))
    code, out, err = run(capsys, "drift", tmp_path / "l.db")
    assert code == 0
    first, *lines = out.splitlines()
    assert first == "m (m), /in, 300 images: drift"
    assert lines[0].startswith("  the images score higher since about 20")
    assert lines[1].startswith("  the images are brighter since about 20")
    assert "camera, lens, light" in err
    assert "  padim calibrate MODELS/m GOOD_IMAGES\n" in err
    assert "where MODELS is the folder that m lies in" in err
    code, out, _ = run(capsys, "drift", tmp_path / "l.db", "--json")
    (record,) = json.loads(out)
    score, *others = record["findings"]
    assert 200 < score["alarm"]["sequence"] <= 260
    assert score["highest"] > 100 > score["value"]  # it begins anew
    assert (record["source"], score["change"]) == ("/in", 1)
    assert [other["kind"] for other in others[: len(FIGURES)]] == list(FIGURES)
    assert record["words"] == [each.strip() for each in lines]
    code, out, err = run(capsys, "drift", tmp_path / "l.db", "--model", "other")
    assert (code, out, "no decisions with a score" in err) == (0, "", True)


def test_of_an_older_store_scores_alone_are_known_and_that_is_said(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "l.db").write_bytes(lzma.decompress(OLD.read_bytes()))
    code, out, err = run(capsys, "drift", tmp_path / "l.db")
    assert code == 0
    assert "40 images: no drift" in out
    assert "of 40 of these decisions only the score is known" in err


def test_it_begins_after_what_retention_has_deleted(tmp_path: Path, capsys: Capture) -> None:
    rng, scores = np.random.default_rng(6), list[float]()
    with Store.open(tmp_path / "l.db") as store:
        for index in range(400):  # all high ones of the first half were corrected, and are kept
            score = float(rng.normal())
            (found,) = store.record([decision(f"{index}.png", score=score)])
            if index < 200 and score > 1:
                store.correct(found.id, "good", who="Ada")
                scores.append(score)
        assert len(scores) > 10
        with store._database.transaction() as connection:
            connection.execute("UPDATE decisions SET time = '2000-01-01' WHERE sequence <= 200")
        assert store.retain(max_seconds=1e8).kept_corrected == len(scores)
        last = store.last_deleted
        assert [one.sequence for one in store.scores()] == list(range(last + 1, 401))
        assert [one.sequence for one in store.scores(after=398)] == [399, 400]
        assert sum(1 for _ in store.decisions()) == 200 + len(scores)
        (drift,) = find_drifts(store.scores())
        assert drift == find_drifts(store.decisions(after=last))[0]
        assert list(store.scores(model="other")) == list(store.scores(since="2100-01-01")) == []
    code, out, err = run(capsys, "drift", tmp_path / "l.db")
    assert code == 0
    assert f"{400 - last} images: no drift" in out
    assert f"begins after decision {last}" in err


def test_scores_that_are_not_finite_are_passed_over(tmp_path: Path) -> None:
    given = [1.0, float("inf"), -1e308, float("-inf"), None, float("nan"), 2.0]
    with Store.open(tmp_path / "l.db") as store:
        store.record([decision(f"{index}.png", score=score) for index, score in enumerate(given)])
        assert [one.score for one in store.scores()] == [1.0, -1e308, 2.0]


def test_an_id_gives_the_same_number_each_time() -> None:
    twice = [line(np.zeros(50), hashlib.sha256(b"x").hexdigest()) for _ in range(2)]
    assert find_drifts(twice[0]) == find_drifts(twice[1])
