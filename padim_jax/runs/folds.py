"""Good images in folds, each scored by a model of the others: for methods that can't leave one image out exactly.

Cross-conformal scores (Vovk, arXiv 1208.0806): they come from models of fewer images than the one that is used, so the
rate of false alarms holds approximately, on the side of fewer alarms where more images make good ones score less.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from padim_jax.baselines.features import TooFewImages
from padim_jax.method.calibration import Histogram
from padim_jax.runs.scorer import Scorer

FOLDS = 5  # by default
Folds = tuple[tuple[int, ...], ...]
Batch = UInt8[np.ndarray, "n height width 3"]


class TooFewInFolds(ValueError):
    """The images of the other folds are too few for a model."""


def deal(n_images: int, n_folds: int, seed: int) -> Folds:
    """Places of ``n_images`` dealt into folds at random, by ``seed``; their numbers differ by 1 at most.

    Fewer images than folds make a fold of each.
    """
    order = np.random.default_rng(seed).permutation(n_images)
    folds = (order[start::n_folds] for start in range(min(n_folds, n_images)))
    return tuple(tuple(sorted(fold.tolist())) for fold in folds)


def deal_alike(images: Sequence[str], n_folds: int, seed: int) -> tuple[Folds, frozenset[int]]:
    """As :func:`deal`, with copies in one fold; and the place of the first of each, which is the one that counts.

    A model that knows a copy of an image would score it too low, and a copy that counts shows nothing new.

    Args:
      images: what tells them apart, such as :func:`padim_jax.runs.copies.pixels_digest`.
      n_folds: of different images.
      seed: of the draw.
    """
    first: dict[str, int] = {}
    for place, image in enumerate(images):
        first.setdefault(image, place)
    different = list(first)
    fold_of = {
        different[place]: number for number, fold in enumerate(deal(len(different), n_folds, seed)) for place in fold
    }
    folds: list[list[int]] = [[] for _ in range(min(n_folds, len(different)))]
    for place, image in enumerate(images):
        folds[fold_of[image]].append(place)
    return tuple(map(tuple, folds)), frozenset(first.values())


def score_folds(
    folds: Folds,
    read: Callable[[Sequence[int]], Iterator[Batch]],
    fit: Callable[[Iterable[Batch]], Scorer],
    counted: frozenset[int] | None = None,
) -> tuple[Float[np.ndarray, " n"], Histogram]:
    """Scores of good images, fold by fold, by a model of the other folds; and the counts of their maps' pixels.

    Where a method gives no maps, the scores of images are counted.

    Args:
      folds: places of the images, from :func:`deal`.
      read: gives batches of the images at some places, of at most the scorer's size.
      fit: makes a scorer of good images.
      counted: places of the images whose scores count; None for all.

    Raises:
      TooFewInFolds: the others are too few for ``fit``.
      FloatingPointError: a score is not finite.
    """
    scores, histogram = list[float](), Histogram()
    for fold in folds:
        others = sorted(place for other in folds if other is not fold for place in other)
        try:
            scorer = fit(read(others))
        except TooFewImages as error:
            n_others = "1 image" if len(others) == 1 else f"{len(others)} images"
            raise TooFewInFolds(f"{len(folds)} folds leave {n_others} to fit on: {error}") from error
        for batch in read([place for place in fold if counted is None or place in counted]):
            values, maps = scorer.finish(scorer.start(batch), len(batch))
            if not np.isfinite(values).all():
                raise FloatingPointError(
                    "a good image got a score that is not finite by a model of the others; the model or the image is "
                    "broken"
                )
            scores += values.tolist()
            histogram.add(values if maps is None else maps)
        del scorer  # a model may be as large as all images
    return np.asarray(scores, np.float32), histogram
