"""PaDiM as an outlier detector of scikit-learn."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig, differences
from padim_jax.images import find_value_range
from padim_jax.lazy import extra
from padim_jax.method import fitting, scoring
from padim_jax.method.calibration import FALSE_ALARM_RATE
from padim_jax.method.checks import pad_batches
from padim_jax.method.records import Padim, PadimMoments, Scores
from padim_jax.method.regularisation import ImageSample, regularise
from padim_jax.runs.inputs import Images, Notes, Place, as_backbone, image_paths, paths_in, read_images
from padim_jax.runs.score import Rereadable

if TYPE_CHECKING or find_spec("sklearn") is not None:
    with extra("evaluate"):
        from sklearn.base import BaseEstimator, OutlierMixin
        from sklearn.exceptions import NotFittedError
else:  # the class is there for `help` and `import *`; whoever makes one is told what it needs

    class BaseEstimator:
        """Stands in for scikit-learn's."""

        def __new__(cls, *_: object, **__: object) -> "BaseEstimator":
            """Raise."""
            raise ImportError("PadimDetector needs scikit-learn: pip install 'padim-jax[evaluate]'")

    class OutlierMixin:
        """Stands in for scikit-learn's."""

    NotFittedError = ValueError


class PadimDetector(OutlierMixin, BaseEstimator):
    """PaDiM with the methods and conventions of scikit-learn's outlier detectors.

    Wherever images are asked for, ``X`` is a folder, a sequence of paths, or uint8 RGB images (n, height, width, 3) of
    ``config.crop_size``. ``y`` is ignored.

    Args:
      backbone: a name out of ``padim_jax.BACKBONES``, or what :func:`padim_jax.load_backbone` gives.
      config: the settings; None for the defaults with an ``image_size`` of 224, so that the model sees all of an image.
      false_alarm_rate: the share of good images that ``predict`` may call outliers, in (0, 1).
      batch_size: how many images are computed at once.

    Attributes:
      model_: the fitted :class:`padim_jax.Padim`, which :func:`padim_jax.score` takes for maps and
        :func:`padim_jax.save` writes; None after ``partial_fit`` of a single image.
      moments_: the moments of all images so far, which ``partial_fit`` goes on from.
      offset_: minus the threshold: ``decision_function(X) = score_samples(X) - offset_``.

    There is no ``n_features_in_``: images are not rows of a table.

    >>> detector = padim.PadimDetector(config=config, false_alarm_rate=0.1).fit(good_images)
    >>> detector.predict(test_images)  # the second one has a black square
    array([ 1, -1])
    >>> bool((detector.score_samples(test_images) >= detector.offset_)[0])
    True
    """

    model_: Padim | None
    moments_: PadimMoments

    def __init__(
        self,
        backbone: Backbone | str = "efficientnet_lite0",
        *,
        config: PadimConfig | None = None,
        false_alarm_rate: float = FALSE_ALARM_RATE,
        batch_size: int = 16,
    ) -> None:
        self.backbone = backbone
        self.config = config
        self.false_alarm_rate = false_alarm_rate
        self.batch_size = batch_size

    def fit(self, X: Any, y: object = None) -> "PadimDetector":
        """Fit on good images and calibrate by leaving each of them out in turn.

        Files are read twice, and once more for principal components, and for several components.

        Raises:
          ValueError: fewer than 3 images; as :func:`padim_jax.fit` and :func:`padim_jax.calibrate` otherwise.
          TypeError, FileNotFoundError, FloatingPointError: likewise.
        """
        return self._fold("fit", X, None)

    def partial_fit(self, X: Any, y: object = None) -> "PadimDetector":
        """Fold more good images in: the model is the same as if ``fit`` had been given all of them, to rounding.

        Earlier images are no longer available, so the threshold comes from the images of this call alone, each left
        out of the model of all images so far. A call with n images resolves no false-alarm rate below 1 / (n + 1). An
        image that is given twice counts twice. With standardised maps, a call with fewer than 3 images leaves the
        detector without what it scores by, until a later call has 3. Where anything is raised, it stays as it was.

        Raises:
          ValueError: settings that were changed since the first call, principal components, several components or
            aligned images (which take a pass over all images), or no images; as :meth:`fit` otherwise.
          TypeError, FileNotFoundError, FloatingPointError: as :meth:`fit`.
        """
        return self._fold("partial_fit", X, getattr(self, "moments_", None))

    def score_samples(self, X: Any) -> Float[np.ndarray, " n"]:
        """Minus the image scores, as of :func:`padim_jax.score`, in the order of X: higher is more normal.

        A folder's files come in the order of :func:`padim_jax.images.find_images`, sorted.

        Raises:
          NotFittedError: fewer than 2 images fitted so far, or, with standardised maps, fewer than 3 in the last call.
          TypeError, ValueError, FileNotFoundError: as :func:`padim_jax.score`.
        """
        model = self._model("score_samples", least=2)
        scores = [-np.asarray(batch.image_score)[:n] for batch, n in self._scores("score_samples", X, model)]
        return np.concatenate([np.zeros(0), *scores])

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """``score_samples(X) - offset_``: below 0 for outliers.

        Raises:
          NotFittedError: fewer than 3 images fitted so far, which give no threshold; as :meth:`score_samples`.
          TypeError, ValueError, FileNotFoundError: as :meth:`score_samples`.
        """
        self._model("decision_function", least=3)
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Int[np.ndarray, " n"]:
        """1 for good images, -1 for outliers, the verdicts of :func:`padim_jax.score`.

        Raises:
          NotFittedError, TypeError, ValueError, FileNotFoundError: as :meth:`decision_function`.
        """
        model = self._model("predict", least=3)
        if model.alignment is None:
            is_outlier = self.decision_function(X) < 0
        else:  # those that do not match the reference are outliers too, whatever they score
            verdicts = [np.asarray(batch.anomalous)[:n] for batch, n in self._scores("predict", X, model)]
            is_outlier = np.concatenate([np.zeros(0, bool), *verdicts])
        return np.where(is_outlier, -1, 1)

    def fit_predict(self, X: Any, y: object = None) -> Int[np.ndarray, " n"]:  # type: ignore[override]  # no more to fit
        """Fit on X and say which of these images are outliers, by their scores, each by the model of all the others.

        That is another answer than ``fit(X).predict(X)``, which knows every image too well to call it an outlier.

        Raises:
          TypeError, ValueError, FileNotFoundError, FloatingPointError: as :meth:`fit`.
        """
        model = self.fit(X)._model("fit_predict", least=3)
        with Notes() as notes:
            batches = self._in_order("fit_predict", X, model.config, notes)
            scores = scoring.calibration_scores(model, batches)
        return np.where(-scores >= self.offset_, 1, -1)

    @property
    def offset_(self) -> float:
        """Minus the threshold of the model's calibration."""
        calibration = self._model("offset_", least=3).calibration
        assert calibration is not None
        return -float(calibration.threshold)

    def __sklearn_tags__(self) -> Any:
        """X is not a table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags

    def _fold(self, call: str, X: Any, before: PadimMoments | None) -> "PadimDetector":
        places, array = _places_or_array(call, X)
        paths = None if places is None else image_paths(call, places)
        backbone = as_backbone(call, self.backbone)
        config = self._settings(call, paths, before)
        with Notes() as notes:
            batches = Rereadable(lambda: self._batches(paths, array, config, notes))
            # a copy, because accumulating uses its moments up, and reading may fail
            moments = _start(call, backbone, config, batches) if before is None else jax.tree.map(jnp.copy, before)
            sample = ImageSample(config)
            for later in fitting.accumulate(backbone, moments, sample.watch(batches)):
                moments = later
            count = int(moments.count)
            if call == "fit" and count < 3:
                raise ValueError(f"fit: n_samples={count}, wanted 3 or more images, as each is left out to calibrate")
            model = None
            if count > 1:  # numbers are chosen anew each time, by the images of this call
                chosen = regularise(backbone, moments, sample.batches(), sample.weights)
                model = fitting.finalize(backbone, chosen)
            new = count if before is None else count - int(before.count)
            if model is not None and (new if config.is_standardised else count) > 2:
                rate = self.false_alarm_rate
                model = scoring.calibrate(model, batches, partial=before is not None, false_alarm_rate=rate)
        self.moments_, self.model_ = moments, model
        return self

    def _settings(self, call: str, paths: Sequence[Path] | None, before: PadimMoments | None) -> PadimConfig:
        config = PadimConfig(image_size=PadimConfig().crop_size) if self.config is None else self.config
        if config.value_range is None and before is not None:
            config = replace(config, value_range=before.config.value_range)
        elif config.value_range is None and paths is not None:
            config = replace(config, value_range=find_value_range(paths))
        if before is not None and config != before.config:
            raise ValueError(
                f"{call}: the settings were changed since the fit began ({differences(config, before.config)}); "
                "set them back, or call fit to begin anew"
            )
        return config

    def _scores(self, call: str, X: Any, model: Padim) -> Iterator[tuple[Scores, int]]:
        """Scores of the images of X in order, batch by batch, and how many of each batch count."""
        with Notes() as notes:
            batches = self._in_order(call, X, model.config, notes)
            for images, valid in pad_batches(call, batches, model.config):
                yield scoring.score(model, images), int(valid.sum())

    def _in_order(self, call: str, X: Any, config: PadimConfig, notes: Notes) -> Iterator[Images]:
        places, array = _places_or_array(call, X)
        paths = None if places is None else [path for place in places for path in image_paths(call, [place])]
        return self._batches(paths, array, config, notes)

    def _batches(self, paths: Sequence[Path] | None, array: Any, config: PadimConfig, notes: Notes) -> Iterator[Images]:
        if paths is not None:
            return read_images(paths, config, self.batch_size, notes)
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size!r}, wanted a positive integer")
        return (array[start : start + self.batch_size] for start in range(0, len(array), self.batch_size))

    def _model(self, call: str, least: int) -> Padim:
        """The fitted model; NotFittedError where it has seen fewer than ``least`` images."""
        count = int(self.moments_.count) if hasattr(self, "moments_") else 0
        if count < least or self.model_ is None:
            raise NotFittedError(
                f"{call}: this PadimDetector has seen {count} images, wanted {least} or more; call fit, or "
                "partial_fit with more of them"
            )
        if self.model_.config.is_standardised and self.model_.calibration is None:
            raise NotFittedError(
                f"{call}: the maps of this PadimDetector are standardised by the images of the last call of "
                "partial_fit, which were fewer than 3; call partial_fit with 3 or more good images"
            )
        return self.model_


def _places_or_array(call: str, X: Any) -> tuple[Sequence[Place] | None, Any]:
    """What is given as images: paths, or an array; the other is None."""
    if isinstance(X, str | os.PathLike):
        return [X], None
    is_sequence = isinstance(X, list | tuple) or (getattr(X, "ndim", 0) == 1 and X.dtype.kind in "OU")
    if is_sequence and (places := paths_in(call, [*X])) is not None:
        return places, None
    array: Any = X if hasattr(X, "dtype") else np.asarray(X)
    if array.ndim == 0 or (len(array) == 0 and call != "score_samples"):
        raise ValueError(f"{call}: no images; X is a folder, paths, or uint8 images (n, height, width, 3)")
    return None, array


def _start(call: str, backbone: Backbone, config: PadimConfig, batches: Rereadable[Images]) -> PadimMoments:
    if call == "partial_fit" and config.found_first is not None:
        raise ValueError(f"partial_fit: {config.found_first} take a pass over all images; give them to fit")
    return fitting.begin(call, backbone, batches, config)
