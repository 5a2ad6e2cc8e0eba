"""Evaluate a run: fit, score, metrics, pictures; one folder a run, written whole or not at all."""

import dataclasses
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from padim_jax.artifact import ownership
from padim_jax.backbones import Backbone
from padim_jax.data.catalogue import assign_roles
from padim_jax.data.examples import Examples, load_examples
from padim_jax.data.libraries import tfds
from padim_jax.evaluation.detector import Detector, GoodImages, Progress, count, fit_detector
from padim_jax.evaluation.gallery import Entry, Gallery, encode
from padim_jax.evaluation.metrics import PixelScores, image_metrics
from padim_jax.evaluation.report import RUN_FILE
from padim_jax.evaluation.run import AnyRun, identity, place, published_of
from padim_jax.runs.engines import Engine
from padim_jax.runs.scorer import Scorer
from padim_jax.runs.watch import Advance, ignore_remark
from weights_conversion.atomic import write_atomically


@dataclass
class Scored:
    """Results of the test images so far: rows as in ``run.json``, scores of pixels, pictures.

    Attributes:
      rows: what is known of each image.
      medians: of each map.
      highest: of all maps' values.
      pixels: all maps' pixels with a mask.
      gallery: images worth looking at.
      seconds: of an image: reading, network, maps and metrics.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    highest: float = -np.inf
    pixels: PixelScores = field(default_factory=PixelScores)
    gallery: Gallery = field(default_factory=Gallery)
    seconds: float = 0.0

    def add(
        self, batch: Examples, values: Float[np.ndarray, " n"], maps: Float[np.ndarray, "n height width"] | None
    ) -> None:
        """Add a batch with its scores and, where the method gives any, maps."""
        for index, (name, value) in enumerate(zip(batch.file_names, map(float, values), strict=True)):
            if not np.isfinite(value):
                raise FloatingPointError(f"evaluate: {name} got {value}; the model or the image is broken")
            label, has_mask, placement = bool(batch.labels[index]), bool(batch.has_mask[index]), batch.placements[index]
            mask = batch.masks[index]
            anomaly_map = None if maps is None else maps[index]
            if anomaly_map is not None:
                self.medians.append(float(np.median(anomaly_map)))
                self.highest = max(self.highest, float(anomaly_map.max()))
                if has_mask:
                    self.pixels.add(anomaly_map, mask)
            defect_mask = mask if has_mask and label else None
            self.gallery.add(Entry(len(self.rows), label, value, batch.images[index], anomaly_map, defect_mask))
            row = {"file": name, "label": int(label), "defect_type": batch.defect_types[index], "has_mask": has_mask}
            row |= {"score": value} | ({} if placement is None else {"placement": dataclasses.asdict(placement)})
            self.rows.append(row)


def evaluate(
    run: AnyRun,
    backbone: Backbone,
    builder: tfds.core.DatasetBuilder,
    out: Path,
    *,
    batch_size: int = 16,
    progress: Progress = lambda stage, total: lambda count: None,
    engine: Engine | None = None,
    remark: Callable[[str], None] = ignore_remark,
) -> dict[str, Any]:
    """Fit on the good training images, find thresholds from them alone, score the test images and write the folder.

    Args:
      run: what to evaluate.
      backbone: the preset's backbone.
      builder: the prepared data set of ``run.category``.
      out: the folder of the evaluation.
      batch_size: images computed at once; changes nothing but the speed.
      progress: called at each stage ("choose" where the preset does so, "fit", "calibrate", "score") with its number of
        images; what it returns is called with the number of images just done.
      engine: where to compute. Default: the default device.
      remark: told in sentences how a training comes on.

    Returns:
      What ``run.json`` holds.

    Raises:
      ValueError: images are too few or unreadable, or the settings don't fit the backbone.
      FloatingPointError: a covariance can't be factored, or a score is not finite.
      FileExistsError: where the run's folder belongs, there is one that padim did not write.
    """
    folder = out / place(run, backbone, builder)
    for path in (folder, *_temporary_folders(folder)):
        if path.exists():
            ownership.mark(path)
    roles = assign_roles(builder)
    good = GoodImages(builder, roles.fit, run.protocol, batch_size)
    detector = fit_detector(run, backbone, good, progress, engine, remark)
    start = time.perf_counter()
    advance = progress("score", sum(count(builder, part) for part in roles.test))
    config = run.members[0]  # members differ in taps, not in how images are read
    test_batches = (
        load_examples(builder, part.split, config, batch_size, run.protocol, part.indices) for part in roles.test
    )
    detector.scorer.compile(*config.crop)  # before any image is read, so that the seconds of an image are its own
    scored = score_batches(detector.scorer, chain.from_iterable(test_batches), advance)
    record = _record(run, backbone, builder, list(good.names), detector, scored)
    record["seconds"] = detector.seconds | {"score": time.perf_counter() - start}
    _write(folder, record, scored.gallery)
    return record


def _record(
    run: AnyRun,
    backbone: Backbone,
    builder: tfds.core.DatasetBuilder,
    fit_names: list[str],
    detector: Detector,
    scored: Scored,
) -> dict[str, Any]:
    rows, points = scored.rows, detector.points
    labels, scores = [row["label"] for row in rows], [row["score"] for row in rows]
    images, calibrated = image_metrics(labels, scores), points.measure(labels, scores)
    for row, p_value in zip(rows, points.p_values(scores), strict=True):
        row["p_value"] = p_value
    # without maps, or the mask of any defect, nothing can be said of pixels
    has_defect_masks = bool(scored.medians) and any(row["label"] and row["has_mask"] for row in rows)
    low, high = (float(np.median(scored.medians)), scored.highest) if scored.medians else (min(scores), max(scores))
    record = identity(run, backbone, builder) | {
        "method": run.method,
        "metrics": {
            "image": dataclasses.asdict(images),
            "pixel": dataclasses.asdict(scored.pixels.metrics()) if has_defect_masks else None,
            "calibrated": calibrated,
        },
        "calibration": points.record(),
        "as_published": run.as_published,
        "published": {name: dataclasses.asdict(reference) for name, reference in published_of(run).items()},
        "colour_scale": list(points.colour_scale or (low, high)),
        "files": {"fit": fit_names, "test": rows},
        "score_seconds": scored.seconds,
        "model_bytes": detector.n_bytes,
        "network_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(backbone)) if run.has_network else 0,
    }
    return record if detector.chosen is None else record | {"chosen": detector.chosen}


def score_batches(scorer: Scorer, batches: Iterable[Examples], advance: Advance = lambda count: None) -> Scored:
    """Score batches of at most ``scorer.size`` examples, and time them from the first file to the last metric.

    The seconds include compiling unless the scorer has been compiled.

    Raises:
      FloatingPointError: a score is not finite; names the image.
    """
    scored = Scored()
    pending: deque[tuple[Examples, Any]] = deque()
    start = time.perf_counter()

    def finish() -> None:
        batch, started = pending.popleft()
        scored.add(batch, *scorer.finish(started, len(batch.images)))
        advance(len(batch.images))

    for batch in batches:
        pending.append((batch, scorer.start(batch.images)))
        if len(pending) > 1:  # the host's share of one batch is done while the device computes the next
            finish()
    while pending:
        finish()
    scored.seconds = (time.perf_counter() - start) / max(len(scored.rows), 1)
    return scored


def _temporary_folders(folder: Path) -> tuple[Path, Path]:
    """Where a run is written at first, and where the run that it replaces waits meanwhile."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _write(folder: Path, record: dict[str, Any], gallery: Gallery) -> None:
    """Write a whole run beside its folder, and only then rename it, in place of an earlier run that padim wrote."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = _temporary_folders(folder)
    for leftover in (new, old):  # of a process that was killed
        ownership.remove(leftover)
    ownership.mark(new)
    (new / "pictures").mkdir(parents=True)
    record["pictures"] = []
    for entry in gallery:
        entry_record: dict[str, Any] = {"test": entry.index, "mask": None}
        entry_record |= {} if entry.anomaly_map is not None else {"map": None, "overlay": None}
        for name, content in encode(entry, tuple(record["colour_scale"])).items():
            path = f"pictures/{entry.index:06}-{name}"
            (new / path).write_bytes(content)
            entry_record[name.split(".")[0]] = path
        record["pictures"].append(entry_record)
    write_atomically(new / RUN_FILE, json.dumps(record, indent=1).encode())
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    ownership.remove(old)
