"""Run an export on images in every runtime, and hold what it gives against the model."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from padim_jax.artifact.arrays import first_line
from padim_jax.export.certificate import GoodImage, Reference, RuntimeReport
from padim_jax.export.compare import (
    BOUND,
    Decision,
    Differences,
    Outputs,
    check_outputs,
    differences,
    hostile_images,
    map_scales,
    relative_differences,
    run_in_batches,
)
from padim_jax.export.describe import ExportError
from padim_jax.export.inputs import Images, ProgramInput
from padim_jax.export.runtimes import Runtime
from padim_jax.method.records import Padim
from padim_jax.method.scoring import score
from padim_jax.runs.copies import pixels_digest

BATCH = len(hostile_images((1, 1)))  # images compared at a time: one shape is one compilation


@dataclass
class Comparison:
    """One runtime beside the model, image by image.

    Attributes:
      runtime: with the export open in it.
      batch: how many images it takes; None for any number.
      decision: what verdicts follow from; None without a calibration.
      size: of its maps, height and width.
      are_photos: whether it takes photos, which are large: they are run one by one where any number is taken.
      differences: so far.
      given: how many images were compared so far that a user named.
      strayed: places among these of those whose map or score is off by more than the bound of 32 bits.
      others_strayed: whether any other image is.
      seconds: that the runtime took so far.
    """

    runtime: Runtime
    batch: int | None
    decision: Decision | None
    size: tuple[int, int]
    are_photos: bool = False
    differences: Differences = field(default_factory=Differences)
    seconds: float = 0.0
    given: int = 0
    strayed: list[int] = field(default_factory=list)
    others_strayed: bool = False

    def run(self, images: Images, *, together: bool = False) -> dict[str, np.ndarray]:
        """Outputs of images, which are checked by themselves; photos all ``together`` only where that is asked for.

        Raises:
          ExportError: it does not run; other outputs than those of such images; verdicts that do not follow from the
            scores.
        """
        batch = 1 if self.batch is None and self.are_photos and not together else self.batch
        start = time.perf_counter()
        try:
            found = run_in_batches(self.runtime.run, images, batch)
        except Exception as error:  # every runtime has errors of its own
            raise ExportError(
                f"{self.runtime.name} can't run the program ({first_line(error)}); export the model again"
            ) from error
        self.seconds += time.perf_counter() - start
        check_outputs(self.runtime.name, found, len(images), self.size, judged=self.decision is not None)
        if self.decision is not None:
            self.decision.check(self.runtime.name, found)
        return found

    def add(
        self,
        images: Images,
        wanted: Outputs,
        scale: Float[np.ndarray, " n"],
        *,
        together: bool = False,
        are_given: bool = False,
    ) -> None:
        """Compare images, of which ``wanted`` is what the model says; raises as :meth:`run` does.

        Verdicts and p-values that differ are refused too, except where rounding explains it. Of those that
        ``are_given`` by a user, which stray is kept in mind.
        """
        found = self.run(images, together=together)
        far = np.flatnonzero(relative_differences(wanted, found, scale) > BOUND)
        if are_given:
            self.strayed += [self.given + int(place) for place in far]
            self.given += len(images)
        else:
            self.others_strayed |= bool(len(far))
        self.hold(wanted, found, scale)

    def hold(self, wanted: Outputs, found: Outputs, scale: Float[np.ndarray, " n"]) -> None:
        """Compare what the runtime gave with what the model says, as :meth:`add` does."""
        if ("match" in wanted) > ("match" in found):
            raise ExportError(f"{self.runtime.name}: it gives no match; the export is not one of this model")
        self.differences += differences(wanted, found, scale)
        if self.decision is not None:
            self.decision.check_like(self.runtime.name, wanted, found, scale)

    @property
    def report(self) -> RuntimeReport:
        """What was found."""
        return RuntimeReport(self.runtime.name, self.runtime.version, self.differences, self.seconds)


def compare_with_model(
    comparisons: Sequence[Comparison],
    model: Padim,
    taken: ProgramInput,
    batches: Iterable[Images],
    usual: float = 0.0,
) -> tuple[Reference, tuple[GoodImage, ...]]:
    """Compare on hostile images, which are kept, and on others, of which digests and scores are.

    Args:
      comparisons: one for each runtime.
      model: what is right.
      taken: what the program takes.
      batches: of others.
      usual: as of :func:`padim_jax.export.compare.map_scales`.
    """
    reference = compare_hostile(comparisons, model, taken, usual)
    for comparison in comparisons:
        if comparison.batch is None:  # any number of images gives the same
            some = slice(2 if comparison.are_photos else 1)  # beside six images, or single photos
            first = {name: value[some] for name, value in reference.outputs.items()}
            comparison.add(reference.images[some], first, reference.scale[some], together=True)
    return reference, tuple(compare_good(comparisons, model, taken, batches, usual))


def compare_hostile(
    comparisons: Sequence[Comparison], model: Padim, taken: ProgramInput, usual: float = 0.0
) -> Reference:
    """Compare on hostile images, and give what the model says about them."""
    hostile = hostile_images(taken.size)
    wanted, scale = outputs_of(model, taken.seen(hostile), usual)
    for comparison in comparisons:
        comparison.add(hostile, wanted, scale)
    kept = {name: value for name, value in wanted.items() if name != "match"}
    return Reference(hostile, scale=scale, decision=Decision.of(model), **kept)


def compare_good(
    comparisons: Sequence[Comparison],
    model: Padim,
    taken: ProgramInput,
    batches: Iterable[Images],
    usual: float = 0.0,
) -> list[GoodImage]:
    """Compare on images that are not kept, and give what the model says about each."""
    good = list[GoodImage]()
    for batch in batches:
        for start in range(0, len(batch), BATCH):
            images = batch[start : start + BATCH]
            wanted, scale = outputs_of(model, taken.seen(images), usual)
            for comparison in comparisons:
                comparison.add(images, wanted, scale, are_given=True)
            good += [_good_image(images, wanted, scale, index) for index in range(len(images))]
    return good


def compare_with_reference(comparison: Comparison, reference: Reference) -> None:
    """Compare on the images that are stored with an export."""
    comparison.add(reference.images, reference.outputs, reference.scale)


def outputs_of(
    model: Padim, images: Images, usual: float = 0.0
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, " n"]]:
    """What the model says about at most a batch of images, and the scales of their maps."""
    filled = np.concatenate([images, np.zeros((BATCH - len(images), *images.shape[1:]), np.uint8)])
    scores = score(model, filled)
    fields = {name: getattr(scores, name) for name in ("image_score", "anomaly_map", "p_value", "anomalous", "match")}
    outputs = {name: np.asarray(value)[: len(images)] for name, value in fields.items() if value is not None}
    return outputs, map_scales(model, outputs["anomaly_map"], usual)


def recorded(
    good: Sequence[GoodImage], images: Images
) -> tuple[Bool[np.ndarray, " n"], dict[str, np.ndarray], Float[np.ndarray, " k"]]:
    """Which images are among those given before, and what the model said about these, and their scales."""
    by_pixels = {image.pixels: image for image in good}
    found = [by_pixels.get(pixels_digest(image)) for image in images]
    known = [image for image in found if image is not None]
    outputs = {"image_score": np.array([image.image_score for image in known], np.float64)}
    if known and known[0].p_value is not None:
        outputs["p_value"] = np.array([image.p_value for image in known], np.float64)
        outputs["anomalous"] = np.array([image.anomalous for image in known], bool)
    return np.array([image is not None for image in found], bool), outputs, np.array([image.scale for image in known])


def _good_image(images: Images, wanted: Outputs, scale: np.ndarray, index: int) -> GoodImage:
    judged = "p_value" in wanted
    return GoodImage(
        pixels_digest(images[index]),
        float(scale[index]),
        float(wanted["image_score"][index]),
        float(wanted["p_value"][index]) if judged else None,
        bool(wanted["anomalous"][index]) if judged else None,
    )
