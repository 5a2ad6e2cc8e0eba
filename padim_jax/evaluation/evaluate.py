"""Evaluate a preset on a category: fit, score, metrics, pictures; one folder a run, written whole or not at all."""

import dataclasses
import functools
import hashlib
import json
import operator
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from padim_jax.artifact import ownership
from padim_jax.backbones import Backbone, backbone_spec
from padim_jax.config import PadimConfig, Size
from padim_jax.data.catalogue import Category, Part, assign_roles
from padim_jax.data.examples import Examples, load_examples
from padim_jax.data.libraries import tfds
from padim_jax.data.protocol import Protocol
from padim_jax.data.shanghaitech_campus import ShanghaiTechCampus
from padim_jax.evaluation.gallery import Entry, Gallery, encode
from padim_jax.evaluation.metrics import PixelScores, image_metrics
from padim_jax.evaluation.operating_points import OperatingPoints, leave_out
from padim_jax.evaluation.published import published
from padim_jax.evaluation.report import FORMAT, RUN_FILE, SCHEMA
from padim_jax.presets import Preset
from padim_jax.runs.engines import Engine, OneDevice
from padim_jax.runs.fold import fit_batches
from padim_jax.runs.score import fill_up
from padim_jax.runs.watch import Advance
from weights_conversion.atomic import write_atomically

_VERSIONS = ("padim-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn", "pillow", "grain")


@dataclass(frozen=True)
class Run:
    """What is to be evaluated; equal plans on equal files give equal results, to rounding.

    Attributes:
      category: the data.
      preset: backbone and settings.
      seed: of the channels and, under the rotated protocol, of rotations and crops.
      protocol: how images are placed.
      image_size: in place of the preset's.
      crop_size: in place of the preset's.
      weights: in place of the backbone's own, as :func:`padim_jax.load_backbone` takes them.
    """

    category: Category
    preset: Preset
    seed: int
    protocol: Protocol
    image_size: Size | None = None
    crop_size: Size | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        for member in self.members:  # sizes and taps are checked when the plan is made
            backbone_spec(self.preset.backbone).select(member.taps)

    @property
    def members(self) -> tuple[PadimConfig, ...]:
        """Settings of each model, sizes as asked for; ShanghaiTech Campus is not cropped (section IV-B)."""
        whole = {"image_size": 256, "crop_size": 256}
        sizes: dict[str, Any] = whole if self.category.data == ShanghaiTechCampus.name else {}
        if self.image_size is not None:
            sizes["image_size"] = self.image_size
        if self.crop_size is not None:
            sizes["crop_size"] = self.crop_size
        return tuple(replace(member, **sizes) for member in self.preset.seeded(self.seed))

    @property
    def as_published(self) -> bool:
        """Whether the preset is as it is described, so that what is published of it compares."""
        return self.image_size is None and self.crop_size is None and self.weights is None


@dataclass
class Scored:
    """Results of the test images so far: rows as ``run.json`` has them, pixels, pictures."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    pixels: PixelScores = field(default_factory=PixelScores)
    gallery: Gallery = field(default_factory=Gallery)

    def add(self, batch: Examples, maps: Float[np.ndarray, "n height width"]) -> None:
        """Take a batch in."""
        # the largest distance anywhere, as Scores.image_score has it, also of a sum of maps
        for index, (name, anomaly_map) in enumerate(zip(batch.file_names, maps, strict=True)):
            value = float(anomaly_map.max())
            if not np.isfinite(value):
                raise FloatingPointError(f"evaluate: {name} got {value}; the model or the image is broken")
            label, has_mask, placement = bool(batch.labels[index]), bool(batch.has_mask[index]), batch.placements[index]
            mask = batch.masks[index]
            if has_mask:
                self.pixels.add(anomaly_map, mask)
            shown = mask if has_mask and label else None
            self.gallery.add(Entry(len(self.rows), label, value, batch.images[index], anomaly_map, shown))
            self.medians.append(float(np.median(anomaly_map)))
            row = {"file": name, "label": int(label), "defect_type": batch.defect_types[index], "has_mask": has_mask}
            row |= {"score": value} | ({} if placement is None else {"placement": dataclasses.asdict(placement)})
            self.rows.append(row)


def evaluate(
    run: Run,
    backbone: Backbone,
    builder: tfds.core.DatasetBuilder,
    out: Path,
    *,
    batch_size: int = 16,
    progress: Callable[[str, int], Advance] = lambda stage, total: lambda count: None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Fit on the good training images, find thresholds from them alone, score the test images, write the run's folder.

    Args:
      run: what to evaluate.
      backbone: the preset's.
      builder: of ``run.category``, prepared.
      out: folder of the evaluation.
      batch_size: images computed at once; changes nothing but the speed.
      progress: told of each stage ("fit", "calibrate", "score") and its number of images; gives what is told of those
        done.
      engine: where to compute. Default: the default device.

    Returns:
      What ``run.json`` holds.

    Raises:
      ValueError: too few images, unreadable ones, settings that don't fit the backbone.
      FloatingPointError: a covariance that can't be factored, a score that is not finite.
      FileExistsError: a folder in the run's place that is not ours.
    """
    folder = out / place(run, backbone, builder)
    for path in (folder, *_beside(folder)):
        if path.exists():
            ownership.mark(path)
    roles, start = assign_roles(builder), time.perf_counter()
    reads = sum(member.passes for member in run.members)
    advance = progress("fit", reads * _count(builder, roles.fit))
    fitted: dict[str, None] = {}  # names in order, each once however often it is read

    def good(config: PadimConfig) -> Iterator[np.ndarray]:
        part = roles.fit
        for batch in load_examples(
            builder, part.split, config, batch_size, run.protocol, part.indices, with_masks=False
        ):
            yield batch.images
            fitted.update(dict.fromkeys(batch.file_names))
            advance(len(batch.images))

    engine = engine or OneDevice(backbone)
    size = engine.step_size(batch_size, _count(builder, roles.fit))
    models = [fit_batches(engine, partial(good, member), member, size) for member in run.members]
    fit_seconds, start = time.perf_counter() - start, time.perf_counter()
    member = run.members[0]  # members differ in taps, not in what becomes of images
    advance = progress("calibrate", _count(builder, roles.fit))
    points = leave_out(engine, models, good(member), size)
    calibrate_seconds, start = time.perf_counter() - start, time.perf_counter()
    advance = progress("score", sum(_count(builder, part) for part in roles.test))
    tested = (load_examples(builder, part.split, member, batch_size, run.protocol, part.indices) for part in roles.test)
    scored = score_batches(engine, models, chain.from_iterable(tested), batch_size, advance)
    record = _record(run, backbone, builder, list(fitted), points, scored)
    seconds = {"fit": fit_seconds, "calibrate": calibrate_seconds}
    record["seconds"] = seconds | {"score": time.perf_counter() - start}
    _write(folder, record, scored.gallery)
    return record


def place(run: Run, backbone: Backbone, builder: tfds.core.DatasetBuilder) -> Path:
    """Folder of a run's results, relative to that of the evaluation; a digest keeps settings and files apart."""
    return _place(run, backbone, builder, ("prepared", "settings", "schema"))


def earlier(run: Run, backbone: Backbone, builder: tfds.core.DatasetBuilder, out: Path) -> Path | None:
    """Folder of this run below ``out`` as a version wrote it that did not calibrate; None where there is none.

    It is not :func:`finished`, and stays where it is: its successor has another place.
    """
    folder = out / _place(run, backbone, builder, ("prepared", "settings"))
    return folder if (folder / RUN_FILE).is_file() else None


def _place(run: Run, backbone: Backbone, builder: tfds.core.DatasetBuilder, keys: Sequence[str]) -> Path:
    identity = _identity(replace(run, seed=0), backbone, builder)
    parts = {key: identity[key] for key in keys}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
    data = run.category.data, run.protocol.name
    return Path("runs", *data, run.preset.name, f"{run.category.name}-{digest}", f"seed-{run.seed}")


def finished(run: Run, backbone: Backbone, builder: tfds.core.DatasetBuilder, out: Path) -> dict[str, Any] | None:
    """What ``run.json`` holds, if this very run (settings, weights, files, versions) has been written below ``out``."""
    try:
        record = json.loads((out / place(run, backbone, builder) / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # through JSON and back, as the stored one went
    wanted = json.loads(json.dumps(_identity(run, backbone, builder)))
    return record if isinstance(record, dict) and wanted.items() <= record.items() else None


def _identity(run: Run, backbone: Backbone, builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "preset": run.preset.name,
        "category": run.category.name,
        "data": run.category.data,
        "prepared": os.path.relpath(builder.data_dir, run.category.prepared),
        "seed": run.seed,
        "protocol": dataclasses.asdict(run.protocol),
        "settings": {
            "backbone": backbone.spec.name,
            "weights_digest": backbone.weights_digest,
            "members": [dataclasses.asdict(member) for member in run.members],
        },
        "versions": {name: version(name) for name in _VERSIONS}
        | {"python": platform.python_version(), "device": jax.devices()[0].device_kind},
    }


def _record(
    run: Run,
    backbone: Backbone,
    builder: tfds.core.DatasetBuilder,
    fitted: list[str],
    points: OperatingPoints,
    scored: Scored,
) -> dict[str, Any]:
    rows = scored.rows
    pixels = scored.pixels.metrics()
    labels, scores = [row["label"] for row in rows], [row["score"] for row in rows]
    images, calibrated = image_metrics(labels, scores), points.measure(labels, scores)
    for row, p_value in zip(rows, points.p_values(scores), strict=True):
        row["p_value"] = p_value
    names = run.preset.name, run.category.data, run.protocol.name, run.category.name
    references = published(*names) if run.as_published else {}
    # without a single mask of a defect there is nothing to say of pixels
    known = any(row["label"] and row["has_mask"] for row in rows)
    return _identity(run, backbone, builder) | {
        "metrics": {
            "image": dataclasses.asdict(images),
            "pixel": dataclasses.asdict(pixels) if known else None,
            "calibrated": calibrated,
        },
        "calibration": points.record(),
        "as_published": run.as_published,
        "published": {name: dataclasses.asdict(reference) for name, reference in references.items()},
        "colour_scale": list(points.colour_scale or (float(np.median(scored.medians)), max(scores))),
        "files": {"fit": fitted, "test": rows},
    }


def score_batches(
    engine: Engine,
    models: Sequence[Any],
    batches: Iterable[Examples],
    batch_size: int,
    advance: Advance = lambda count: None,
) -> Scored:
    """Results of examples in batches of at most ``batch_size``, by the sum of the maps of models that ``engine`` holds.

    Raises:
      FloatingPointError: a score that is not finite, naming the image.
    """
    scored = Scored()
    under_way: deque[tuple[Examples, Array]] = deque()
    size = engine.step_size(batch_size, batch_size)

    def finish() -> None:
        batch, maps = under_way.popleft()
        scored.add(batch, np.asarray(maps)[: len(batch.images)])
        advance(len(batch.images))

    for batch in batches:
        padded = fill_up(batch.images, size)  # so that one program serves all
        maps = functools.reduce(operator.add, (engine.scores(model, padded).anomaly_map for model in models))
        under_way.append((batch, maps))
        if len(under_way) > 1:  # the host's share of one batch is done while the device computes the next
            finish()
    while under_way:
        finish()
    return scored


def _count(builder: tfds.core.DatasetBuilder, part: Part) -> int:
    return builder.info.splits[part.split].num_examples if part.indices is None else len(part.indices)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where a run is written before it takes its place, and where an earlier one goes meanwhile."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _write(folder: Path, record: dict[str, Any], gallery: Gallery) -> None:
    """Write a run beside its place, whole, and only then put it there, in place of an earlier one of ours."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = _beside(folder)
    for leftover in (fresh, old):  # of a process that was killed
        ownership.remove(leftover)
    ownership.mark(fresh)
    (fresh / "pictures").mkdir(parents=True)
    record["pictures"] = []
    for entry in gallery:
        shown: dict[str, Any] = {"test": entry.index, "mask": None}
        for name, content in encode(entry, tuple(record["colour_scale"])).items():
            path = f"pictures/{entry.index:06}-{name}"
            (fresh / path).write_bytes(content)
            shown[name.split(".")[0]] = path
        record["pictures"].append(shown)
    write_atomically(fresh / RUN_FILE, json.dumps(record, indent=1).encode())
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    ownership.remove(old)
