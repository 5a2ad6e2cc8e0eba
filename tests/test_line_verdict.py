"""Three verdicts: by p-values, by what these can tell, and never good where the score says little."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from padim_jax.line.verdict import Decider, NoVerdicts, Rates
from padim_jax.method.calibration import BINS, Calibration, at_threshold, calibration, p_values
from padim_jax.runs.score import OTHER_SIZE, POOR_MATCH, FittedOn, ScoredImage
from tests.conftest import write_images
from tests.line_parts import fit_model, parts
from tests.test_cli import rows, run

KNOWN = FittedOn(frozenset(), ((56, 40),))


def calibrated(n: int = 99, rate: float = 0.01) -> Calibration:
    return calibration(np.arange(1, n + 1, dtype=np.float32), np.ones(BINS), "held-out", rate)


def scored(known: Calibration, score: float, *notes: str) -> ScoredImage:
    (p,) = p_values(known, np.asarray([score]))
    return replace(ScoredImage.empty(Path("a.png"), notes), score=score, p_value=float(p), anomalous=False)


def decider(known: Calibration | None, rates: Rates | None = None) -> Decider:
    return Decider.of("test", known, rates or Rates(), KNOWN)


@pytest.mark.parametrize(
    ("score", "verdict"), [(99.5, "bad"), (99.0, "look"), (95.5, "look"), (95.0, "good"), (1.0, "good")]
)
def test_the_verdict_follows_the_p_value_exactly_at_both_rates(score: float, verdict: str) -> None:
    known = calibrated()  # p is k / 100 where k - 1 of the scores 1, 2 ... 99 are no less
    found, reason = decider(known).verdict(scored(known, score))
    assert found == verdict
    assert bool(reason) == (verdict != "good")


@pytest.mark.parametrize("n", [19, 59, 99, 199, 333])
@pytest.mark.parametrize("rates", [(0.05, 0.1), (0.1, 0.25), (0.29, 0.58)])
def test_of_good_images_no_more_than_the_rates_are_bad_or_not_good(n: int, rates: tuple[float, float]) -> None:
    known = calibrated(n)
    judge = decider(known, Rates(*rates))
    found = [judge.verdict(scored(known, score + 0.5))[0] for score in range(n + 1)]  # every p-value there is, once
    bad, good = found.count("bad"), found.count("good")
    assert bad == np.floor(rates[0] * (n + 1) + 1e-9)
    assert n + 1 - good == np.floor(rates[1] * (n + 1) + 1e-9)


def test_an_image_whose_score_says_little_is_never_good() -> None:
    known = calibrated()
    for note in (f"{POOR_MATCH} (match -1.00)", f"10×80 pixels, {OTHER_SIZE} and another aspect ratio"):
        assert decider(known).verdict(scored(known, 1.0, note)) == ("look", note)
        assert decider(known).verdict(scored(known, 99.5, note))[0] == "bad"
    assert decider(known).verdict(scored(known, 1.0, f"112×80 pixels, {OTHER_SIZE}"))[0] == "good"


def test_a_threshold_set_by_hand_says_what_is_bad_unless_a_rate_is_asked_for() -> None:
    known = at_threshold(calibrated(), 97.5)
    by_hand = decider(known, Rates(None, 0.1))
    assert [by_hand.verdict(scored(known, score))[0] for score in (97.6, 97.4, 90.5, 89.0)] == [
        "bad", "look", "look", "good",
    ]  # fmt: skip
    assert decider(known, Rates(0.01, 0.1)).verdict(scored(known, 97.6))[0] == "look"


def test_rates_that_too_few_images_cannot_tell_are_refused_or_told() -> None:
    with pytest.raises(
        NoVerdicts, match=r"test: look_rate=0\.05, wanted more .* on 8 good images.* 0\.222.* 99 images"
    ):
        decider(calibrated(8))
    told = decider(calibrated(8), Rates(0.01, 0.25))
    assert "8 images are too few for a false-alarm rate of 0.01, which takes 99" in told.remark
    assert told.verdict(scored(calibrated(8), 8.5))[0] == "bad"
    assert not decider(calibrated()).remark


def test_a_model_without_a_calibration_is_refused_in_words() -> None:
    with pytest.raises(NoVerdicts, match=r"not calibrated.*run padim calibrate"):
        decider(None)


@pytest.mark.parametrize(("rates", "said"), [((0.0, 0.1), "false_alarm_rate=0.0"), ((0.1, 0.1), "wanted more than")])
def test_rates_that_make_no_sense_are_refused(rates: tuple[float, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rates(*rates)


def test_score_gives_three_verdicts_where_a_look_rate_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, out = tmp_path / "new", tmp_path / "r"
    write_images(new, np.concatenate([parts(6, seed=1), parts(2, seed=2, defect=True)]))
    model = fit_model(tmp_path / "m")
    code, said, err = run(capsys, "score", model, new, "--out", out, "--look-rate", 0.5, "--batch-size", 8)
    assert code == 0
    three = rows(out / "scores.csv")
    expected = [
        "bad" if p < 0.045 else "look" if p < 0.485 else "good" for p in (float(row["p_value"]) for row in three)
    ]
    assert [row["verdict"] for row in three] == expected
    assert {"bad", "look", "good"} == set(expected)
    assert f"{sum(row['verdict'] == 'bad' for row in three)} bad" in said
    assert run(capsys, "score", model, new, "--out", out, "--batch-size", 8)[0] == 0
    two = rows(out / "scores.csv")
    assert list(two[0]) == list(three[0])
    assert {row["verdict"] for row in two} <= {"normal", "anomalous"}
    code, _, err = run(capsys, "score", model, new, "--out", out, "--look-rate", 0.03)
    assert code == 2
    assert "look_rate=0.03, wanted more than what is called bad" in err
