"""Which of several settings suits a kind of part, found out on its good images alone.

Where no defect is known, some are drawn (:mod:`padim_jax.method.pseudo_defects`), one of each family on every good
image, and each candidate is asked how far they stand out. Its models do not know the images: these are parted into
four, and those of each part, with their defects, are scored by a model of the other three. With m and sd the mean and
the standard deviation of the scores of the n good images, a defect of family f on image i, of score s_fi, stands out by

    a_fi = tanh((s_fi - m) / (2 sd)),

which is near 1 for any defect that can't be overlooked, so that those decide which nearly can. (It is 2 P - 1, with P
the chance that a good image scores less, where scores are logistic with mean m and scale sd.) The criterion is the mean
of a_fi over families and images.

The first candidate is kept unless another is better beyond doubt: by more than a standard error of the difference,
which is taken over the images, as all candidates see the same defects. So the first is to be the one that needs no
images to be believed: the simplest, or, as in the preset "auto", the one that found most on many kinds of parts.
Candidates that turn images are not tried where the parts are not turned. Drawn defects are not real ones. On real parts
they were mostly right about standardised maps, and hardly better than chance about whether positions should share their
covariances, so it matters what is among the candidates.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.method import fitting, scoring
from padim_jax.method.anomaly_map import image_score
from padim_jax.method.map_sample import MapSample
from padim_jax.method.pseudo_defects import FAMILIES, pseudo_defects
from padim_jax.method.records import PadimMoments
from padim_jax.method.reference import find_alignment
from padim_jax.method.regularisation import regularise
from padim_jax.method.variants import with_roi

Images = UInt8[np.ndarray, "n height width 3"]
Roi = Bool[np.ndarray, "height width"] | None

SAMPLE_IMAGES = 64
FEWEST_IMAGES = 12  # three a part
_PARTS = 4
_DOUBT = 1.0  # standard errors
_READING = ("image_size", "crop_size", "interpolation", "resize", "value_range")


@dataclass(frozen=True)
class Choice:
    """What was chosen among candidates, and by how much.

    Attributes:
      candidates: the settings; the first is kept where the images can't tell.
      images: how many different good images they were compared on.
      criteria: how far drawn defects stand out by each candidate, from -1 to 1; nothing where none were compared.
      standard_errors: of the differences of ``criteria`` from the first one, over images; 0 for that itself.
    """

    candidates: tuple[PadimConfig, ...]
    images: int
    criteria: tuple[float, ...] = ()
    standard_errors: tuple[float, ...] = ()

    @property
    def index(self) -> int:
        """Of the candidate that is chosen."""
        better = [i for i, error in enumerate(self.standard_errors) if self.gain(i) > _DOUBT * error]
        return max(better, key=self.criteria.__getitem__, default=0)

    @property
    def config(self) -> PadimConfig:
        """The settings that are chosen."""
        return self.candidates[self.index]

    def gain(self, index: int) -> float:
        """By how much the criterion of a candidate is above that of the first."""
        return self.criteria[index] - self.criteria[0]

    def describe(self) -> str:
        """A sentence for the user."""
        kept = self._name(0)
        if not self.criteria:
            few = f"{self.images} different images are too few to choose by, wanted {FEWEST_IMAGES}"
            return f"{few}; {kept} is kept" if len(self.candidates) > 1 else f"nothing is left to choose: {kept}"
        others = [i for i in range(len(self.candidates)) if i != 0]
        best = self.index or max(others, key=self.criteria.__getitem__)
        compared = (
            f"defects drawn on {self.images} good images stand out by {self.criteria[best]:.3f} of 1 with "
            f"{self._name(best)}, and by {self.criteria[0]:.3f} with {kept} (difference {self.gain(best):+.3f} ± "
            f"{self.standard_errors[best]:.3f})"
        )
        if self.index:
            return f"{self._name(best)} is chosen: {compared}"
        reason = "nothing is better" if self.gain(best) <= 0 else "nothing is better beyond doubt"
        return f"{kept} is kept, for {reason}: {compared}"

    def _name(self, index: int) -> str:
        """The settings in which the candidates differ."""
        each = [asdict(candidate) for candidate in self.candidates]
        varying = [name for name in each[0] if any(one[name] != each[0][name] for one in each)] or ["anomaly_map"]
        return ", ".join(f"{name}={each[index][name]}" for name in varying)


def unlike(call: str, candidates: Iterable[PadimConfig]) -> tuple[PadimConfig, ...]:
    """The candidates, each once, in order.

    Raises:
      ValueError: naming ``call``, no candidates, or some by which images would be read differently.
    """
    found = tuple(dict.fromkeys(candidates))
    if not found:
        raise ValueError(f"{call}: no candidates; give two or more PadimConfigs, the one to keep in doubt first")
    for name in _READING:
        values = list(dict.fromkeys(getattr(candidate, name) for candidate in found))
        if len(values) > 1:
            raise ValueError(
                f"{call}: the candidates have {name}={', '.join(map(repr, values))}, wanted one value for all, because "
                "they are compared on the same images"
            )
    return found


def images_computed(candidates: Sequence[PadimConfig], count: int) -> int:
    """How many images :func:`compare` puts through the network for ``count`` different ones."""
    if len(candidates) == 1 or count < FEWEST_IMAGES:
        return 0
    return sum(config.passes + config.chooses + 1 + len(FAMILIES) for config in _fits(candidates)) * count


def spread(count: int) -> list[int]:
    """At most :data:`SAMPLE_IMAGES` of ``count`` indices, evenly spread."""
    return [(2 * i + 1) * count // (2 * min(SAMPLE_IMAGES, count)) for i in range(min(SAMPLE_IMAGES, count))]


def compare(
    backbone: Backbone,
    images: Images,
    candidates: Iterable[PadimConfig],
    *,
    roi: Roi = None,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda count: None,
) -> Choice:
    """Compare settings on good images; the module says how.

    For n different images, at most 64 of those given, 8 n images are put through the network, 9 n where the ridge is
    "auto", for candidates that are fitted alike: as many as three fits with calibration take, and fewer than one of
    more than 192 images. Images that are turned back are fitted anew, which takes as much again. Four models are
    factored and, unlike in a fit, defects drawn and maps standardised on the host, which takes time. Candidates that
    differ in maps and image scores only share all of it. Room is taken for six states of moments. Parts and defects
    follow from the pixels and the first candidate's seed, so the order of the images does not matter, nor, beyond
    rounding, does ``batch_size``.

    Args:
      backbone: the frozen network.
      images: good ones, RGB, of the candidates' ``crop_size``; copies count once, and of more than 64 different ones
        some are taken, evenly spread. Fewer than 12 leave the first candidate.
      candidates: settings, the first of which is kept in doubt; equal ones count once.
      roi: the region of interest, as of :func:`padim_jax.with_roi`; defects are drawn in the rectangle around it.
      batch_size: images computed at once.
      advance: told how many more of :func:`images_computed` are done.

    Raises:
      TypeError, ValueError, FloatingPointError: no candidates, or such that read images differently; images or
        settings as :func:`padim_jax.fit`.
    """
    configs = unlike("choose", candidates)
    images = _sample(np.asarray(images), configs[0].seed)
    if not images_computed(configs, len(images)):
        return Choice(configs, len(images))
    box, stand_out = _box(roi, images.shape[1:3]), dict[PadimConfig, np.ndarray]()
    for fit in _fits(configs):
        drawn = functools.partial(_with_defects, seed=configs[0].seed, box=box)
        good, defects = _held_out(backbone, images, fit, drawn, roi, batch_size, advance)
        for config in configs:
            if _fit_of(config) == fit:
                stand_out[config] = _stand_out(config, good, defects, roi).mean(axis=0)
    each = np.stack([stand_out[config] for config in configs])
    errors = (each - each[0]).std(axis=1, ddof=1) / len(images) ** 0.5
    return Choice(configs, len(images), tuple(map(float, each.mean(axis=1))), tuple(map(float, errors)))


def without_needless_turns(
    configs: tuple[PadimConfig, ...], images: Images, roi: Roi = None
) -> tuple[PadimConfig, ...]:
    """The candidates but those that turn images, where the parts are not turned; never all of them.

    Nor are images turned where a region of interest was drawn: it would lie on a reference that is yet to be made.
    """
    turning = [config for config in configs if config.align == "rigid"]
    if not turning or len(turning) == len(configs):
        return configs
    if roi is None and len(images) >= FEWEST_IMAGES:
        found = find_alignment([images], turning[0])
        if found is not None and found.max_angle > 0:
            return configs
    return tuple(config for config in configs if config.align != "rigid")


def with_settings(candidates: Iterable[PadimConfig], settings: Mapping[str, Any]) -> tuple[PadimConfig, ...]:
    """The candidates with some settings replaced, each once; those but the first that don't go with them are left out.

    Raises:
      ValueError: settings that do not go with the first.
    """
    found = list[PadimConfig]()
    for candidate in candidates:
        try:
            found.append(replace(candidate, **settings))
        except ValueError:
            if not found:
                raise
    return tuple(dict.fromkeys(found))


def _fit_of(config: PadimConfig) -> PadimConfig:
    """The settings that a fit depends on: those that differ only otherwise share distances."""
    return replace(config, anomaly_map="distance", image_score="max")


def _fits(candidates: Iterable[PadimConfig]) -> list[PadimConfig]:
    return list(dict.fromkeys(map(_fit_of, candidates)))


def _sample(images: Images, seed: int) -> Images:
    """Different images, evenly spread, in an order that follows from the seed and their pixels."""
    if len(images) == 0:
        return images
    found = {hashlib.sha256(f"{seed}\0".encode() + image.tobytes()).digest(): i for i, image in enumerate(images)}
    digests = list(found)
    return images[[found[digest] for digest in sorted(digests[i] for i in spread(len(digests)))]]


def _box(roi: Roi, size: Sequence[int]) -> tuple[slice, slice]:
    """The rectangle around the region of interest."""
    rows, columns = np.nonzero(np.ones(size, bool) if roi is None else roi)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def _with_defects(images: Images, *, seed: int, box: tuple[slice, slice]) -> Images:
    """The images, then the same with a defect of each family: (1 + families) n."""
    every = np.tile(images, (1 + len(FAMILIES), 1, 1, 1))
    for index, family in enumerate(FAMILIES, 1):
        part = every[index * len(images) : (index + 1) * len(images)]
        part[:, *box] = pseudo_defects(images[:, *box], family, seed).images
    return every


def _held_out(
    backbone: Backbone,
    images: Images,
    config: PadimConfig,
    drawn: Callable[[Images], Images],
    roi: Roi,
    size: int,
    advance: Callable[[int], None],
) -> tuple[MapSample, list[MapSample]]:
    """Distances of good images, and of the same with each family's defects, by models that don't know the images."""

    def batches(of: Images) -> Iterator[tuple[Images, Bool[np.ndarray, " size"]]]:
        for start in range(0, len(of), size):
            batch = of[start : start + size]
            filled = np.zeros((size, *of.shape[1:]), np.uint8)
            filled[: len(batch)] = batch
            yield filled, np.arange(size) < len(batch)
            advance(len(batch))

    start = fitting.begin("choose", backbone, [images[i : i + size] for i in range(0, len(images), size)], config)
    advance((config.passes - 1) * len(images))
    parts = [images[part::_PARTS] for part in range(_PARTS)]
    moments = list[PadimMoments]()
    for part in parts:
        state = jax.tree.map(jnp.copy, start)
        for batch, valid in batches(part):
            state = fitting.update_in_place(backbone, state, batch, valid)
        moments.append(state)
    if config.chooses:
        whole = functools.reduce(fitting.merge, moments)
        config = regularise(backbone, whole, (batch[valid] for batch, valid in batches(images))).config
        del whole
    good, *defects = (MapSample(config, roi) for _ in range(1 + len(FAMILIES)))
    for index, part in enumerate(parts):
        others = functools.reduce(fitting.merge, moments[:index] + moments[index + 1 :])
        model = with_roi(fitting.finalize(backbone, replace(others, config=config), donate=True), roi)
        del others
        grids = np.concatenate(
            [np.asarray(scoring.score_with_grid(model, batch)[1])[valid] for batch, valid in batches(drawn(part))]
        )
        for sample, own in zip((good, *defects), np.split(grids, 1 + len(FAMILIES)), strict=True):
            sample.add(own)
    return good, defects


def _stand_out(
    config: PadimConfig, good: MapSample, defects: Sequence[MapSample], roi: Roi
) -> Float[np.ndarray, "f n"]:
    """a_fi; standardised maps are standardised without the share of their own good image."""
    good_maps = good.good_maps() if config.is_standardised else None

    def scores(sample: MapSample) -> Float[np.ndarray, " n"]:
        own = None if sample is good else good
        maps = sample.by(None) if good_maps is None else sample.left_out(good_maps, own)
        return np.concatenate([np.asarray(image_score(some, config.top_share, roi), np.float64) for some in maps])

    known = scores(good)
    scale = 2 * max(known.std(ddof=1), np.finfo(np.float32).eps * np.abs(known).max(), np.finfo(np.float32).tiny)
    return np.stack([np.tanh((scores(sample) - known.mean()) / scale) for sample in defects])
