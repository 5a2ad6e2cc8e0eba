"""PaDiM as scikit-learn's users know outlier detectors."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

import padim_jax as padim
from padim_jax.images import UnreadableImage
from tests.conftest import SMALL, images, write_images

SEEN = padim.PadimConfig(**{**SMALL.__dict__, "image_size": SMALL.crop})
GOOD = images(20, SEEN)
TEST = images(4, SEEN, seed=1)


@pytest.fixture(scope="module")
def fitted(lite0: padim.Backbone) -> padim.PadimDetector:
    return padim.PadimDetector(lite0, config=SEEN, false_alarm_rate=0.1, batch_size=20).fit(GOOD)


@pytest.fixture(scope="module")
def model(lite0: padim.Backbone) -> padim.Padim:
    """What the functions make of the same images."""
    return padim.calibrate(padim.fit(lite0, GOOD, SEEN), GOOD, false_alarm_rate=0.1)


def fresh(detector: padim.PadimDetector) -> Any:
    """One with the same parameters that has seen nothing."""
    return clone(detector)


def test_it_says_what_the_functions_say(fitted: padim.PadimDetector, model: padim.Padim) -> None:
    test = np.concatenate([TEST, np.zeros_like(TEST[:1])])
    scores = padim.score(model, test)
    assert scores.anomalous is not None
    assert scores.anomalous.any()
    assert not scores.anomalous.all()
    np.testing.assert_allclose(fitted.score_samples(test), -scores.image_score, rtol=2e-3)
    np.testing.assert_array_equal(fitted.predict(test), np.where(scores.anomalous, -1, 1))
    np.testing.assert_array_equal(fitted.decision_function(test), fitted.score_samples(test) - fitted.offset_)
    assert model.calibration is not None
    np.testing.assert_allclose(-fitted.offset_, model.calibration.threshold, rtol=5e-3)
    assert fitted.score_samples(test[:0]).shape == (0,)


@pytest.mark.slow
def test_parts_give_what_the_whole_gives(
    fitted: padim.PadimDetector, model: padim.Padim, lite0: padim.Backbone
) -> None:
    parts = fresh(fitted).partial_fit(GOOD[:10]).partial_fit(GOOD[10:])
    assert float(parts.moments_.count) == 20
    np.testing.assert_allclose(parts.score_samples(TEST), fitted.score_samples(TEST), rtol=2e-3)
    # the threshold comes from the images of the last part, each left out of the model of all
    wanted = padim.calibrate(model, GOOD[10:], partial=True, false_alarm_rate=0.1).calibration
    assert parts.model_ is not None
    assert parts.model_.calibration is not None
    assert wanted is not None
    np.testing.assert_allclose(parts.model_.calibration.scores, wanted.scores, rtol=5e-3)
    assert parts.offset_ == -float(parts.model_.calibration.threshold)
    went_on = fresh(fitted).fit(GOOD[:10]).partial_fit(GOOD[10:])
    np.testing.assert_allclose(went_on.score_samples(TEST), fitted.score_samples(TEST), rtol=2e-3)


def test_too_few_parts_have_no_verdict_yet(lite0: padim.Backbone) -> None:
    detector = padim.PadimDetector(lite0, config=SEEN)
    with pytest.raises(NotFittedError, match="predict: this PadimDetector has seen 0 images, wanted 3 or more"):
        detector.predict(TEST)
    with pytest.raises(NotFittedError):
        check_is_fitted(detector)
    assert not hasattr(detector, "offset_")
    detector.partial_fit(GOOD[:1])
    with pytest.raises(NotFittedError, match=r"score_samples: .* has seen 1 images, wanted 2 or more; call fit, or"):
        detector.score_samples(TEST)
    detector.partial_fit(GOOD[1:2])
    assert detector.score_samples(TEST).shape == (4,)
    with pytest.raises(NotFittedError, match=r"decision_function: .* has seen 2 images, wanted 3"):
        detector.decision_function(TEST)
    assert detector.partial_fit(GOOD[2:3]).predict(TEST).shape == (4,)


def test_a_failed_part_leaves_the_detector_as_it_was(lite0: padim.Backbone, tmp_path: Path) -> None:
    paths = write_images(tmp_path, GOOD[:10])
    detector = padim.PadimDetector(lite0, config=SEEN, batch_size=5).partial_fit(GOOD)
    before = detector.score_samples(TEST)
    paths[9].write_bytes(b"no image")
    with pytest.raises(UnreadableImage):
        detector.partial_fit(paths)
    np.testing.assert_array_equal(detector.score_samples(TEST), before)
    assert float(detector.partial_fit(paths[:5]).moments_.count) == 25


@pytest.mark.slow
def test_images_are_a_folder_paths_or_an_array(lite0: padim.Backbone, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "good", GOOD)
    wanted = padim.PadimDetector(lite0, config=SEEN).fit(GOOD)
    for given in (tmp_path / "good", str(tmp_path / "good"), paths, np.array([str(path) for path in paths]), [*GOOD]):
        found = padim.PadimDetector("efficientnet_lite0", config=SEEN, batch_size=20).fit(given)
        np.testing.assert_allclose(found.score_samples(TEST), wanted.score_samples(TEST), rtol=2e-3)
        if isinstance(given, list):  # in the order given
            np.testing.assert_allclose(
                found.score_samples(given[::-1]), wanted.score_samples(GOOD)[::-1], rtol=1e-2, atol=1e-2
            )


def test_images_fitted_on_are_judged_by_the_others(lite0: padim.Backbone, tmp_path: Path) -> None:
    mixed = np.concatenate([np.zeros_like(GOOD[:1]), GOOD[:9]])  # fewer than channels: it would know each by heart
    detector = padim.PadimDetector(lite0, config=SEEN, false_alarm_rate=0.1, batch_size=20)
    np.testing.assert_array_equal(detector.fit_predict(mixed), [1] * 10)  # k = 1: none lies above the largest
    found = detector.set_params(false_alarm_rate=0.2).fit_predict(mixed)
    np.testing.assert_array_equal(found, [-1] + [1] * 9)
    paths = write_images(tmp_path, mixed)
    np.testing.assert_array_equal(detector.fit_predict(paths[::-1]), found[::-1])


@pytest.mark.slow
def test_principal_components_take_a_fit(lite0: padim.Backbone) -> None:
    config = padim.PadimConfig(**{**SEEN.__dict__, "projection": "principal-components"})
    detector = padim.PadimDetector(lite0, config=config, batch_size=20)
    with pytest.raises(ValueError, match="partial_fit: principal components take a pass over all images; give them to"):
        detector.partial_fit(GOOD)
    assert detector.fit(GOOD).moments_.projection is not None
    assert detector.partial_fit(GOOD).moments_.count == 40  # goes on with those of the fit


def test_it_is_cloned_set_and_pickled(fitted: padim.PadimDetector) -> None:
    assert is_outlier_detector(fitted)
    assert not get_tags(fitted).input_tags.two_d_array
    assert set(fitted.get_params()) == {"backbone", "config", "false_alarm_rate", "batch_size"}
    copy = fresh(fitted)
    assert not hasattr(copy, "model_")
    assert copy.set_params(false_alarm_rate=0.5).get_params()["false_alarm_rate"] == 0.5
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(TEST), fitted.predict(TEST))


def test_deep_images_keep_their_range(lite0: padim.Backbone, tmp_path: Path) -> None:
    for index, image in enumerate(images(4, SEEN)[..., 0]):
        Image.fromarray(image.astype(np.uint16) * 16).save(tmp_path / f"{index}.png")
    detector = padim.PadimDetector(lite0, config=SEEN).partial_fit(tmp_path).partial_fit([tmp_path / "0.png"])
    assert detector.moments_.config.value_range == (0, 4095)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda d, b: d.fit(GOOD[:2]), ValueError, "fit: n_samples=2, wanted 3 or more images"),
        (lambda d, b: d.fit(GOOD[:0]), ValueError, "fit: no images; X is a folder, paths, or uint8 images"),
        (lambda d, b: d.fit(image for image in GOOD), ValueError, "fit: no images; X is"),
        (lambda d, b: d.fit(GOOD / 255), TypeError, "fit: images must be a uint8 array"),
        (lambda d, b: d.fit(np.zeros((20, 3), np.uint8)), ValueError, r"fit: images are \(20, 3\), wanted \(n, 32, 48"),
        (lambda d, b: d.fit([Path("a.png"), GOOD[0]]), TypeError, "fit: paths and objects of type ndarray are mixed"),
        (lambda d, b: d.fit("nowhere"), FileNotFoundError, "fit: there is no file or folder nowhere"),
        (lambda d, b: d.score_samples(["no.png"]), FileNotFoundError, "score_samples: there is no file"),
        (lambda d, b: d.set_params(backbone=3).fit(GOOD), TypeError, "fit: backbone is of type int"),
        (lambda d, b: d.set_params(batch_size=0).fit(GOOD), ValueError, "batch_size=0, wanted a positive integer"),
        (lambda d, b: d.set_params(false_alarm_rate=2).fit(GOOD), ValueError, "false_alarm_rate=2"),
        (lambda d, b: d.set_params(config=padim.PadimConfig(**{**SEEN.__dict__, "ridge": 1})).partial_fit(GOOD), ValueError, "partial_fit: the settings were changed since the fit began .*ridge: 1.0 against 0.01"),
        (lambda d, b: d.set_params(backbone=padim.load_backbone("resnet18", "random"), config=None).partial_fit(GOOD), ValueError, "settings were changed"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_in_words(
    fitted: padim.PadimDetector, lite0: padim.Backbone, call: Any, error: type[Exception], words: str
) -> None:
    detector = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(error, match=words):
        call(detector, lite0)


def test_the_rest_of_the_package_does_without_scikit_learn() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from padim_jax import *; import padim_jax\n"
        "print(padim_jax.PadimDetector.fit.__doc__.splitlines()[0])\n"
        "try: padim_jax.PadimDetector(batch_size=3)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("Fit on good images")
    assert second == "PadimDetector needs scikit-learn: pip install 'padim-jax[evaluate]'"


class OfTables(padim.PadimDetector):
    """The detector on tables of numbers, each row drawn as an image, so that scikit-learn's own checks can run."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags

    def _drawn(self, X: Any, reset: bool) -> np.ndarray:
        table: Any = validate_data(self, X, reset=reset, dtype=np.float64)
        values = (255 / (1 + np.exp(-np.clip(table, -30, 30)))).astype(np.uint8)
        cells = np.resize(np.arange(table.shape[1]), (*SEEN.crop, 3))
        return values[:, cells]

    def fit(self, X: Any, y: object = None) -> "OfTables":
        super().fit(X if getattr(X, "ndim", 2) == 4 else self._drawn(X, reset=True))
        return self

    def partial_fit(self, X: Any, y: object = None) -> "OfTables":
        super().partial_fit(self._drawn(X, reset=not hasattr(self, "moments_")))
        return self

    def fit_predict(self, X: Any, y: object = None) -> np.ndarray:
        return super().fit_predict(self._drawn(X, reset=True))

    def score_samples(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super().score_samples(self._drawn(X, reset=False))


NOT_MET = {
    "check_outliers_fit_predict": "fit_predict leaves each image out; fit(X).predict(X) knows every image of X",
}


@pytest.mark.slow
@pytest.mark.optimised  # they compare subsets to the last bits
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks_pass(lite0: padim.Backbone) -> None:
    config = padim.PadimConfig(**{**SEEN.__dict__, "taps": ("block0",), "n_channels": 3})
    done = check_estimator(OfTables(lite0, config=config, batch_size=20), expected_failed_checks=NOT_MET)
    assert {one["check_name"] for one in done if one["status"] == "xfail"} == {*NOT_MET}
    assert sum(one["status"] == "passed" for one in done) > 35
