"""Drift: no more false alarms than the stated rate, and changes found, early and late, up and down."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from padim_jax.line.drift import Martingale, find_drifts, ranks
from padim_jax.line.records import Decision
from padim_jax.line.store import Store
from tests.test_cli import run
from tests.test_line_store import decision

Capture = pytest.CaptureFixture[str]


def line(scores: np.ndarray, name: str = "m") -> list[Decision]:
    return [
        Decision("/in", f"{index}.png", f"{name}{index}", name, name, "good", score=float(score), sequence=index + 1)
        for index, score in enumerate(scores)
    ]


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_line_that_stays_as_it_is_gives_no_more_false_alarms_than_stated(rate: float) -> None:
    rng, runs = np.random.default_rng(0), 200
    alarms = sum(any(value >= 1 / rate for value in map(Martingale().bet, rng.random(500))) for _ in range(runs))
    assert alarms <= stats.binom.ppf(0.999, runs, rate)


def test_the_ranks_of_any_scores_in_any_order_are_uniform() -> None:
    rng = np.random.default_rng(1)
    for scores in (rng.gamma(0.5, size=4000), rng.integers(0, 4, 4000).astype(float)):  # ties too
        found = list(ranks(zip(scores, rng.random(4000), strict=True)))
        assert stats.kstest(found, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    brute = [np.mean(scores[:t] > scores[t]) for t in range(1, 50)]
    exact = list(ranks((score, 0.0) for score in scores[:50]))[1:]
    np.testing.assert_allclose(exact, [share * t / (t + 1) for t, share in enumerate(brute, 1)])


def test_the_mean_capital_of_one_who_bets_on_nothing_stays_one() -> None:
    rng = np.random.default_rng(2)
    values = [[martingale.bet(p) for p in rng.random(20)][-1] for martingale in (Martingale() for _ in range(4000))]
    assert np.mean(values) == pytest.approx(1, abs=4 * np.std(values) / 4000**0.5)


@pytest.mark.parametrize(("start", "within"), [(100, 100), (5000, 110)])
@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_change_is_found_also_after_a_long_time_without_one(start: int, within: int, shift: float) -> None:
    scores = np.random.default_rng(3).normal(size=start + within)
    scores[start:] += shift
    (drift,) = find_drifts(line(scores))
    assert drift.alarm is not None
    assert drift.since is not None
    assert start < drift.alarm.sequence <= start + within
    assert abs(drift.since.sequence - start) < 60
    assert drift.is_higher == (shift > 0)


def test_each_state_of_a_model_is_looked_at_by_itself() -> None:
    rng = np.random.default_rng(4)
    steady, moved = line(rng.normal(size=200), "a"), line(rng.normal(size=200) + 8, "b")
    unreadable = [Decision("/in", "x.png", "x", "a", "a", "unreadable")]
    found = find_drifts([*steady, *unreadable, *moved])
    assert [(drift.model, drift.images, drift.alarm) for drift in found] == [("a", 200, None), ("b", 200, None)]
    assert find_drifts([]) == []
    with pytest.raises(ValueError, match="rate=1, wanted a number above 0 and below 1"):
        find_drifts([], 1)


def test_the_command_says_whether_and_since_when(tmp_path: Path, capsys: Capture) -> None:
    scores = np.random.default_rng(5).normal(10, 1, 300)
    scores[200:] += 2
    with Store.open(tmp_path / "l.db") as store:
        store.record([decision(f"{index}.png", score=float(score)) for index, score in enumerate(scores)])
    code, out, err = run(capsys, "drift", tmp_path / "l.db")
    assert code == 0
    assert "m (m0), 300 images: scores have become higher since about 20" in out
    assert "camera, lens, light" in err
    code, out, _ = run(capsys, "drift", tmp_path / "l.db", "--json")
    (record,) = json.loads(out)
    assert 200 < record["alarm"]["sequence"] <= 260
    assert record["value"] > 100
    code, out, err = run(capsys, "drift", tmp_path / "l.db", "--model", "other")
    assert (code, out, "no decisions with a score" in err) == (0, "", True)


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
