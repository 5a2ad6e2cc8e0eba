"""The front door: ``fit``, ``calibrate`` and ``score`` for images as arrays, which go straight on, or as files."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

from padim_jax.backbones import Backbone, load_backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians.factors import Solver
from padim_jax.images import find_images, find_value_range, load_batches
from padim_jax.method import fitting, scoring
from padim_jax.method.calibration import FALSE_ALARM_RATE, PIXEL_RATE
from padim_jax.method.checks import padded
from padim_jax.method.records import Padim, Scores
from padim_jax.runs.score import Rereadable

Place = str | os.PathLike[str]
Images = UInt8[Array | np.ndarray, "n height width 3"]


def fit(
    backbone: Backbone | str,
    batches: Place | Iterable[Place] | Images | Iterable[Images],
    config: PadimConfig | None = None,
    *,
    solver: Solver = fitting.DEFAULT_SOLVER,
    batch_size: int = 16,
) -> Padim:
    """Fit a model on good images: a folder of files, files, or batches of arrays.

    Arrays go to :func:`padim_jax.method.fitting.fit`.

    Files are found and read as ``padim fit`` does it: folders are searched for image files, each file counts once, and
    where they have more than 8 bits a channel and ``config.value_range`` is None, the range of their values is found
    and fixed in the model. Memory does not depend on the number of images.

    Args:
      backbone: from :func:`load_backbone`, or its name, which loads it.
      batches: a folder, a file, or several of them; or uint8 RGB arrays (n, height, width, 3) of ``config.crop_size``,
        one or an iterable of them. They are read once, but twice for principal components.
      config: the settings; None for the defaults, of files with an ``image_size`` of 224, so that the model sees all of
        each image.
      solver: see :func:`finalize`.
      batch_size: of files, how many are computed at once.

    Raises:
      FileNotFoundError: a path that is not there.
      UnreadableImage: a file that can't be read (a ``ValueError``).
      TypeError, ValueError, FloatingPointError: as :func:`padim_jax.method.fitting.fit`; an unknown backbone; no image
        files.
    """
    if isinstance(backbone, str):
        backbone = load_backbone(backbone)
    if not isinstance(backbone, Backbone):
        raise TypeError(
            f"fit: backbone is of type {type(backbone).__name__}, wanted a name or what load_backbone gives"
        )
    places, arrays = _told_apart("fit", batches)
    if places is None:
        return fitting.fit(backbone, arrays, config, solver=solver)
    config = PadimConfig(image_size=PadimConfig().crop_size) if config is None else config
    paths = _found("fit", places)
    if config.value_range is None:
        config = replace(config, value_range=find_value_range(paths))
    with _Notes() as notes:
        read = Rereadable(lambda: _read(paths, config, batch_size, notes))
        return fitting.fit(backbone, read, config, solver=solver)


def calibrate(
    model: Padim,
    batches: Place | Iterable[Place] | Images | Iterable[Images],
    *,
    held_out: bool = False,
    partial: bool = False,
    weights: Iterable[float] | None = None,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    pixel_rate: float = PIXEL_RATE,
    batch_size: int = 16,
) -> Padim:
    """Calibrate on good images alone, files or arrays, so that scores come with p-values and verdicts.

    The images it was fitted on are each scored by the model of all the others; others are given with ``held_out=True``.
    :func:`padim_jax.method.scoring.calibrate` says more.

    Args:
      model: as :func:`fit` or :func:`finalize` gives it, or loaded.
      batches: the good images it was fitted on, as :func:`fit` takes them; memory stays flat.
      held_out: they are other good images instead, which the model was not fitted on.
      partial: they are some of those it was fitted on, not all.
      weights: of the images in order, where they were not fitted with weight 1. Implies ``partial``.
      false_alarm_rate: share of good images that may be called anomalous, in (0, 1).
      pixel_rate: share of good images' pixels that may be marked, in (0, 1).
      batch_size: of files, how many are computed at once.

    Raises:
      FileNotFoundError: a path that is not there.
      UnreadableImage: a file that can't be read (a ``ValueError``).
      TypeError, ValueError, FloatingPointError: as :func:`padim_jax.method.scoring.calibrate`; no image files.
    """
    places, arrays = _told_apart("calibrate", batches)
    with _Notes() as notes:
        if places is not None:
            arrays = _read(_found("calibrate", places), model.config, batch_size, notes)
        return scoring.calibrate(
            model,
            arrays,
            held_out=held_out,
            partial=partial,
            weights=weights,
            false_alarm_rate=false_alarm_rate,
            pixel_rate=pixel_rate,
        )


def score(model: Padim, images: Place | Iterable[Place] | Images, *, batch_size: int = 16) -> Scores:
    """Score images, files or an array: a map of Mahalanobis distances each, and its maximum.

    Of a folder the scores come in the order of :func:`padim_jax.images.find_images`, sorted; of several paths in
    theirs. All maps are held in memory, 0.2 MB an image of 224×224; ``padim score`` holds few at a time.
    :func:`padim_jax.method.scoring.score` says what is computed.

    Args:
      model: from :func:`fit`, :func:`finalize` or :func:`load`.
      images: a file, a folder, or several of them; or uint8 RGB (n, height, width, 3) of ``config.crop_size``, any n.
      batch_size: of files, how many are computed at once.

    Raises:
      FileNotFoundError: a path that is not there.
      UnreadableImage: a file that can't be read (a ``ValueError``).
      TypeError, ValueError: as :func:`padim_jax.method.scoring.score`; no image files.
    """
    places = None if _is_array(images) else _places("score", images)
    if places is None:
        return scoring.score(model, images)  # type: ignore[arg-type]  # checked there, in words
    paths = [path for place in places for path in _found("score", [place])]
    parts: list[Scores] = []
    with _Notes() as notes:
        for batch, valid in padded("score", _read(paths, model.config, batch_size, notes), model.config):
            n = int(valid.sum())
            parts.append(jax.tree.map(lambda leaf, n=n: np.asarray(leaf)[:n], scoring.score(model, batch)))
    return jax.device_put(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))


class _Notes:
    """What was decided about files, warned of at the end: of many equal notes one, with their number."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, Path] = {}

    def __enter__(self) -> "_Notes":
        return self

    def __call__(self, path: Path, text: str) -> None:
        self._counts[text] += 1
        self._first.setdefault(text, path)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for text, count in self._counts.items() if kind is None else ():
            more = f" (and {count - 1} more files)" if count > 1 else ""
            warnings.warn(f"{self._first[text]}: {text}{more}", stacklevel=3)


def _told_apart(call: str, given: Any) -> tuple[Sequence[Place] | None, Any]:
    """Paths, or batches of arrays: the other is None, or empty."""
    if _is_array(given):
        return None, [given] if given.ndim <= 4 else given  # one array is one batch
    if not isinstance(given, str | os.PathLike) and iter(_iterable(call, given)) is given:
        first = next(given, None)  # of what can be read only once
        if first is None:
            return None, ()
        given = chain([first], given)
        return (_places(call, [*given]), ()) if isinstance(first, str | os.PathLike) else (None, given)
    places = _places(call, given)
    return (None, given) if places is None else (places, ())


def _is_array(given: Any) -> bool:
    return isinstance(given, Array | np.ndarray)


def _iterable(call: str, given: Any) -> Any:
    if not isinstance(given, Iterable):
        raise TypeError(
            f"{call}: images are of type {type(given).__name__}, wanted a path, several paths, or uint8 arrays"
        )
    return given


def _places(call: str, given: Any) -> Sequence[Place] | None:
    """The paths that were given; None where it is something else."""
    if isinstance(given, str | os.PathLike):
        return [given]
    if not isinstance(_iterable(call, given), list | tuple | set | frozenset):
        return None
    kinds = [isinstance(one, str | os.PathLike) for one in given]
    if any(kinds) and not all(kinds):
        other = type(next(one for one in given if not isinstance(one, str | os.PathLike))).__name__
        raise TypeError(f"{call}: paths and objects of type {other} are mixed; give one or the other")
    return list(given) if kinds and all(kinds) else None


def _found(call: str, places: Sequence[Place]) -> Sequence[Path]:
    try:
        return find_images(places).paths
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{call}: {error}") from None


def _read(paths: Sequence[Path], config: PadimConfig, batch_size: int, notes: _Notes) -> Iterator[Images]:
    return (batch.images for batch in load_batches(paths, config, batch_size, note=notes))
