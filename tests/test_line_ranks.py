"""Ranks of numbers among those before them: uniform, whatever the numbers are, also among a sample of these."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from padim_jax.line.drift import DriftTests, find_drifts
from padim_jax.line.martingale import Martingale
from padim_jax.line.ranks import Ranks, ranks
from tests.test_line_drift import alarms, figures, pictured


def test_the_ranks_of_any_numbers_in_any_order_are_uniform() -> None:
    rng = np.random.default_rng(1)
    for numbers in (rng.gamma(0.5, size=4000), rng.integers(0, 4, 4000).astype(float)):  # ties too
        found = ranks(zip(numbers, rng.random(4000), strict=True))
        assert stats.kstest(found, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05


@pytest.mark.parametrize("sizes", [[1] * 40, [600], [3, 0, 290, 7, 300]])
def test_ranks_are_those_of_the_formula_in_blocks_of_any_size(sizes: list[int]) -> None:
    rng, tracker = np.random.default_rng(2), Ranks()
    numbers, u = rng.integers(0, 50, sum(sizes)).astype(float), rng.random(sum(sizes))
    ends = np.cumsum([0, *sizes])
    found = np.concatenate([tracker.add(numbers[a:b], u[a:b]) for a, b in pairwise(ends)])
    brute = [
        ((numbers[:t] > numbers[t]).sum() + u[t] * (1 + (numbers[:t] == numbers[t]).sum())) / (t + 1)
        for t in range(len(numbers))
    ]
    np.testing.assert_allclose(found, brute)


def test_ranks_among_a_sample_are_independent_uniform_and_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_jax.line.ranks.MOST", 16)  # so that much is forgotten
    rng, runs, n = np.random.default_rng(4), 400, 300
    found = np.empty((runs, n))
    for row in range(runs):
        tracker = Ranks(np.random.default_rng((4, row)))
        found[row] = tracker.add(rng.gamma(0.5, size=n), rng.random(n))
        assert len(tracker._before) <= 16
    assert stats.kstest(found[:, 200:].ravel(), "uniform").pvalue > 1e-4
    for lag in (1, 2, 8, 16, 40):
        assert abs(np.corrcoef(found[:, lag:].ravel(), found[:, :-lag].ravel())[0, 1]) < 4 / (runs * (n - lag)) ** 0.5
    assert np.var(found[:, 16:].mean(1)) == pytest.approx(1 / 12 / (n - 16), rel=0.3)
    for rate in (0.05, 0.2):
        reached = (Martingale(runs).bet(found.T).value >= 1 / rate).any(0)
        assert reached.sum() <= stats.binom.ppf(0.999, runs, rate)


def test_what_is_forgotten_is_the_same_in_parts_and_a_change_is_found_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("padim_jax.line.ranks.MOST", 200)
    numbers = figures(1500, 8)
    numbers[1000:, 1] -= 2
    decisions = pictured(numbers)
    whole, tests = find_drifts(decisions), DriftTests()
    for start in range(0, 1500, 17):
        tests.add(decisions[start : start + 17])
    assert tests.found() == whole
    assert alarms(whole[0]) == {("brightness", None): False}
    (test,) = tests._tests.values()
    assert max(len(each._before) for each in test._ranks) <= 200
