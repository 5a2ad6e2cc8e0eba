"""Images are taken out of models that align: what stays of them is said, and what the page refuses the commands do."""

# what other models do not have is there
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportOptionalSubscript=false

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import load_updatable
from padim_jax.cli import main
from padim_jax.line import forgetting
from padim_jax.line.forgetting import CannotForget, Named
from padim_jax.line.verdict import Rates
from padim_jax.method.calibration import calibration
from padim_jax.runs.forget import REFERENCE_STAYS
from padim_jax.runs.taken_out import UnknownScores, calibration_without
from tests.conftest import write_images
from tests.service import NAME
from tests.test_aligned import GOOD
from tests.test_aligned_runs import RIGID
from tests.test_line_forgetting import named
from tests.test_registration import SIDE, TABLE

RATES = Rates(None, 0.3)


def half(images: np.ndarray) -> np.ndarray:
    """Parts of which half is missing."""
    found = images.copy()
    found[:, SIDE // 2 :] = TABLE
    return found


def run(*words: object) -> None:
    assert main(list(map(str, words))) == 0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good parts, and a half one among them by mistake."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "good", GOOD[:12])
    write_images(folder / "bad", half(GOOD[12:13]))
    return folder


def bad_one(images: Path) -> list[Named]:
    return named(*(images / "bad").iterdir())


@pytest.mark.slow
def test_how_well_parts_have_to_match_stays_and_that_is_said(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / NAME
    run("fit", images, "--out", model, *RIGID, "--ridge", "10")
    before = padim.load(model).calibration
    proposal = forgetting.propose(model, bad_one(images), [], RATES, batch_size=4)
    stays = f"has to match the reference stays at {float(before.least_match):.2f}"
    assert [stays in remark for remark in proposal.remarks].count(True) == 1
    assert float(proposal.changed.calibration.least_match) == float(before.least_match)
    assert REFERENCE_STAYS in proposal.remarks
    # by commands there is no such limit until good images set it, and those in the fit set a stricter one
    capsys.readouterr()
    run("forget", model, images / "bad")
    said = " ".join(capsys.readouterr().err.split())
    assert f"note: {REFERENCE_STAYS}; how well a part has to match it is not known until padim calibrate" in said
    assert load_updatable(model).calibration is None
    run("calibrate", model, images / "good")
    after = padim.load(model)
    assert float(after.calibration.least_match) > float(before.least_match)
    match = float(padim.score(after, half(GOOD[12:13])).match[0])
    assert float(before.least_match) <= match < float(after.calibration.least_match)


@pytest.fixture(scope="module")
def stored(images: Path, tmp_path_factory: pytest.TempPathFactory) -> padim.Updatable:
    """A model whose scores round as much as those of few images do."""
    path = tmp_path_factory.mktemp("stored") / NAME
    run("fit", images, "--out", path, *RIGID)
    return load_updatable(path)


@pytest.mark.slow
def test_a_score_far_above_all_others_is_found_in_the_calibration(images: Path, stored: padim.Updatable) -> None:
    left = calibration_without(stored, [one.path for one in bad_one(images)])  # computed alone, it rounds otherwise
    np.testing.assert_array_equal(left.scores, np.asarray(stored.calibration.scores)[:-1])


def test_among_many_scores_one_that_is_near_is_not_taken_for_an_images_own(
    images: Path, stored: padim.Updatable
) -> None:
    files, own = [one.path for one in bad_one(images)], float(stored.calibration.scores[-1])
    others = own * (1 + np.arange(-500.5, 500) * 1.9e-4)  # the nearest of them is off by less than 1e-4
    pixels = np.asarray(stored.calibration.pixels)
    dense = replace(stored, calibration=calibration(others, pixels, "leave-one-out", least_match=0.5))
    with pytest.raises(UnknownScores):
        calibration_without(dense, files)
    whole = calibration(np.append(others, own), pixels, "leave-one-out", least_match=0.5)
    left = calibration_without(replace(stored, calibration=whole), files)
    np.testing.assert_array_equal(left.scores, np.float32(others))


@pytest.mark.slow
def test_the_commands_do_what_the_page_refuses(images: Path, tmp_path: Path) -> None:
    model = tmp_path / NAME
    run("fit", images, "--out", model, *RIGID, "--ridge", "10", "--anomaly-map", "standardised")
    before = padim.load(model).calibration
    with pytest.raises(CannotForget, match="run padim forget, then padim calibrate on good images"):
        forgetting.propose(model, bad_one(images), [], RATES, batch_size=4)
    run("forget", model, images / "bad")
    run("calibrate", model, images / "good")
    after = padim.load(model)
    assert after.standard.count == len(after.calibration.scores) == 12
    assert float(after.calibration.least_match) > float(before.least_match)
    found = padim.score(after, np.concatenate([GOOD[13:], half(GOOD[12:13])]))
    np.testing.assert_array_equal(found.anomalous, [False, True])
