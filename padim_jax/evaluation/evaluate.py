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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from padim_jax.config import PadimConfig
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
from padim_jax.method.anomaly_map import image_score
from padim_jax.method.choosing import with_settings
from padim_jax.method.embedding import check_channels
from padim_jax.method.scoring import NoLeaveOneOut
from padim_jax.presets import Preset
from padim_jax.runs.choosing import choose
from padim_jax.runs.engines import Engine, OneDevice
from padim_jax.runs.fold import fit_batches
from padim_jax.runs.score import fill_up
from padim_jax.runs.watch import Advance
from weights_conversion.atomic import write_atomically

_VERSIONS = ("padim-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn", "pillow", "grain")


@dataclass(frozen=True)
class Run:
    """What to evaluate; equal runs on equal files give equal results, up to rounding.

    Attributes:
      category: the images.
      preset: the backbone and the settings.
      seed: the seed of the channels.
      protocol: how images are placed, with the seed of the rotations and crops.
      settings: values of settings by name, which replace the preset's.
      weights: weights that replace the backbone's own, as :func:`padim_jax.load_backbone` takes them.

    Raises:
      ValueError: the settings are invalid or don't fit the backbone.
    """

    category: Category
    preset: Preset
    seed: int
    protocol: Protocol
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def __post_init__(self) -> None:
        if "taps" in self.settings and len(self.preset.members) > 1:
            raise ValueError(f"the preset {self.preset.name} sums the maps of its own taps, and takes no others")
        for member in (*self.members, *self.candidates):  # settings are checked before any run starts
            check_channels(backbone_spec(self.preset.backbone), member)

    @property
    def members(self) -> tuple[PadimConfig, ...]:
        """Settings of each model; by default, ShanghaiTech Campus is not cropped (section IV-B)."""
        return tuple(map(self._adapted, self.preset.with_seed(self.seed)))

    @property
    def candidates(self) -> tuple[PadimConfig, ...]:
        """Settings of which the good images choose one, the first of them the only member; nothing for other presets.

        Candidates that the run's settings make equal are one, and leave nothing to choose.
        """
        return with_settings(self.preset.candidates, {**self._uncropped, **self.settings, "seed": self.seed})

    @property
    def draws(self) -> bool:
        """Whether a seed changes anything: some member keeps a part of its channels, or projects them at random."""
        return replace(self.preset, members=self.members).draws

    def _adapted(self, member: PadimConfig) -> PadimConfig:
        return replace(member, **{**self._uncropped, **self.settings})

    @property
    def _uncropped(self) -> dict[str, Any]:
        return {"image_size": 256, "crop_size": 256} if self.category.data == ShanghaiTechCampus.name else {}

    @property
    def as_published(self) -> bool:
        """Whether the preset is evaluated as it is described, so that its published figures stand for comparison."""
        return self.weights is None and self.members == replace(self, settings={}).members


@dataclass
class Scored:
    """Results of the test images so far: rows as in ``run.json``, scores of pixels, pictures.

    Attributes:
      share: of a map's pixels, whose mean an image scores; None for the maximum.
    """

    share: float | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    pixels: PixelScores = field(default_factory=PixelScores)
    gallery: Gallery = field(default_factory=Gallery)

    def add(self, batch: Examples, maps: Float[np.ndarray, "n height width"]) -> None:
        """Add a batch and its maps."""
        values = np.asarray(image_score(maps, self.share))  # as in Scores.image_score, for a sum of maps too
        for index, (name, anomaly_map) in enumerate(zip(batch.file_names, maps, strict=True)):
            value = float(values[index])
            if not np.isfinite(value):
                raise FloatingPointError(f"evaluate: {name} got {value}; the model or the image is broken")
            label, has_mask, placement = bool(batch.labels[index]), bool(batch.has_mask[index]), batch.placements[index]
            mask = batch.masks[index]
            if has_mask:
                self.pixels.add(anomaly_map, mask)
            defect_mask = mask if has_mask and label else None
            self.gallery.add(Entry(len(self.rows), label, value, batch.images[index], anomaly_map, defect_mask))
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
    roles, start = assign_roles(builder), time.perf_counter()
    stage = "choose" if run.candidates else "fit"
    advance = progress(stage, sum(member.passes for member in run.members) * _count(builder, roles.fit))
    fit_names: dict[str, None] = {}  # in order, each once however often its image is read

    def read_good(config: PadimConfig) -> Iterator[np.ndarray]:
        part = roles.fit
        for batch in load_examples(
            builder, part.split, config, batch_size, run.protocol, part.indices, with_masks=False
        ):
            yield batch.images
            fit_names.update(dict.fromkeys(batch.file_names))
            advance(len(batch.images))

    engine = engine or OneDevice(backbone)
    size = engine.step_size(batch_size, _count(builder, roles.fit))
    members, choice = run.members, None
    if run.candidates:
        choice = choose(backbone, read_good(members[0]), run.candidates, batch_size=batch_size)
        members, advance = (choice.config,), progress("fit", choice.config.passes * _count(builder, roles.fit))
    models = [fit_batches(engine, partial(read_good, member), member, size) for member in members]
    fit_seconds, start = time.perf_counter() - start, time.perf_counter()
    member = members[0]  # members differ in taps, not in how images are read
    advance = progress("calibrate", _count(builder, roles.fit))
    try:
        points = leave_out(engine, models, read_good(member), size)
    except NoLeaveOneOut as error:  # maps are standardised, and nothing is known to do it by
        raise ValueError(
            f"evaluate: {run.category.name} with the preset {run.preset.name} and seed {run.seed} can't be scored by "
            f"standardised maps: {str(error).removeprefix('leave_out: ')}; leave it out, or take maps of distances"
        ) from error
    if points.calibrations:
        models = [engine.with_standard(*pair) for pair in zip(models, points.standards, strict=True)]
    calibrate_seconds, start = time.perf_counter() - start, time.perf_counter()
    advance = progress("score", sum(_count(builder, part) for part in roles.test))
    test_batches = (
        load_examples(builder, part.split, member, batch_size, run.protocol, part.indices) for part in roles.test
    )
    scored = score_batches(engine, models, chain.from_iterable(test_batches), batch_size, advance)
    record = _record(run, backbone, builder, list(fit_names), points, scored)
    if choice is not None:
        record["chosen"] = {"members": [dataclasses.asdict(member) for member in members], "why": choice.describe()}
    seconds = {"fit": fit_seconds, "calibrate": calibrate_seconds}
    record["seconds"] = seconds | {"score": time.perf_counter() - start}
    _write(folder, record, scored.gallery)
    return record


def place(run: Run, backbone: Backbone, builder: tfds.core.DatasetBuilder) -> Path:
    """Folder of a run's results, relative to the evaluation's; a digest keeps different settings and files apart."""
    return _place(run, backbone, builder, ("prepared", "settings", "schema"))


def earlier(run: Run, backbone: Backbone, builder: tfds.core.DatasetBuilder, out: Path) -> Path | None:
    """Folder below ``out`` of this run from a version that did not calibrate; None where there is none.

    :func:`finished` doesn't count it, and it stays where it is: the new run has a folder of its own.
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
    """What ``run.json`` holds, if this very run (settings, weights, files, versions) lies below ``out``; else None."""
    try:
        record = json.loads((out / place(run, backbone, builder) / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # through JSON and back, as the stored record went
    identity = json.loads(json.dumps(_identity(run, backbone, builder)))
    return record if isinstance(record, dict) and identity.items() <= record.items() else None


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
        }
        | ({"candidates": [dataclasses.asdict(one) for one in run.candidates]} if run.candidates else {}),
        "versions": {name: version(name) for name in _VERSIONS}
        | {"python": platform.python_version(), "device": jax.devices()[0].device_kind},
    }


def _record(
    run: Run,
    backbone: Backbone,
    builder: tfds.core.DatasetBuilder,
    fit_names: list[str],
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
    # without the mask of any defect, nothing can be said of pixels
    has_defect_masks = any(row["label"] and row["has_mask"] for row in rows)
    return _identity(run, backbone, builder) | {
        "metrics": {
            "image": dataclasses.asdict(images),
            "pixel": dataclasses.asdict(pixels) if has_defect_masks else None,
            "calibrated": calibrated,
        },
        "calibration": points.record(),
        "as_published": run.as_published,
        "published": {name: dataclasses.asdict(reference) for name, reference in references.items()},
        "colour_scale": list(points.colour_scale or (float(np.median(scored.medians)), max(scores))),
        "files": {"fit": fit_names, "test": rows},
    }


def score_batches(
    engine: Engine,
    models: Sequence[Any],
    batches: Iterable[Examples],
    batch_size: int,
    advance: Advance = lambda count: None,
) -> Scored:
    """Score batches of at most ``batch_size`` examples by the sum of the maps of models that ``engine`` holds.

    Raises:
      FloatingPointError: a score is not finite; names the image.
    """
    scored = Scored(engine.model(models[0]).config.top_share)
    pending: deque[tuple[Examples, Array]] = deque()
    size = engine.step_size(batch_size, batch_size)

    def finish() -> None:
        batch, maps = pending.popleft()
        scored.add(batch, np.asarray(maps)[: len(batch.images)])
        advance(len(batch.images))

    for batch in batches:
        padded = fill_up(batch.images, size)  # so that one program serves all
        maps = functools.reduce(operator.add, (engine.scores(model, padded).anomaly_map for model in models))
        pending.append((batch, maps))
        if len(pending) > 1:  # the host's share of one batch is done while the device computes the next
            finish()
    while pending:
        finish()
    return scored


def _count(builder: tfds.core.DatasetBuilder, part: Part) -> int:
    return builder.info.splits[part.split].num_examples if part.indices is None else len(part.indices)


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
