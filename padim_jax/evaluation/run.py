"""What is evaluated: a preset of PaDiM or another method on a category, and where its results lie."""

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from padim_jax.backbones import Backbone, backbone_spec
from padim_jax.baselines import BaselineSettings, Method
from padim_jax.config import PadimConfig
from padim_jax.data.catalogue import Category
from padim_jax.data.libraries import tfds
from padim_jax.data.protocol import Protocol
from padim_jax.data.shanghaitech_campus import ShanghaiTechCampus
from padim_jax.evaluation.published import Published, published
from padim_jax.evaluation.report import FORMAT, RUN_FILE, SCHEMA
from padim_jax.method.choosing import with_settings
from padim_jax.method.embedding import check_channels
from padim_jax.presets import Preset
from padim_jax.runs.folds import FOLDS

PADIM = "padim"  # the method of a run of presets
_VERSIONS = ("padim-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn", "pillow", "grain")


@dataclass(frozen=True)
class Run:
    """A preset of PaDiM to evaluate; equal runs on equal files give equal results, up to rounding.

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

    method = PADIM
    has_network = True

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.preset.name

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
        return _uncropped(self.category)

    @property
    def as_published(self) -> bool:
        """Whether the preset is evaluated as it is described, so that its published figures stand for comparison."""
        return self.weights is None and self.members == replace(self, settings={}).members

    def record(self) -> dict[str, Any]:
        """The settings that, with seed, protocol, weights and images, say what the results are."""
        record: dict[str, Any] = {"members": [dataclasses.asdict(member) for member in self.members]}
        return record | (
            {"candidates": [dataclasses.asdict(one) for one in self.candidates]} if self.candidates else {}
        )


@dataclass(frozen=True)
class MethodRun:
    """A method that PaDiM is compared with, to evaluate on the same images; equal runs give equal results.

    Attributes:
      category: the images.
      baseline: the method, from :data:`padim_jax.baselines.METHODS`.
      preset: whose network it takes, and whose way to read images.
      seed: the seed of what the method draws, and of the draw of folds.
      protocol: how images are placed.
      own: values of the method's own settings by name, which replace the defaults.
      settings: values of settings that it shares with PaDiM, which replace the preset's.
      weights: weights that replace the network's own, as :func:`padim_jax.load_backbone` takes them.
      folds: parts that the good images are dealt into; each is scored by a model fitted on the others.

    Raises:
      ValueError: the settings are invalid, or are not the method's.
    """

    category: Category
    baseline: Method
    preset: Preset
    seed: int
    protocol: Protocol
    own: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    folds: int = FOLDS

    def __post_init__(self) -> None:
        taps = self.members[0].taps  # all settings are checked before any run starts
        backbone_spec(self.preset.backbone).select(taps)

    @property
    def method(self) -> str:
        """The method's name."""
        return self.baseline.name

    @property
    def has_network(self) -> bool:
        """Whether the preset's network is used; methods that train one of their own leave it alone."""
        return self.baseline.uses_backbone

    @property
    def name(self) -> str:
        """What it is called in tables: the method, with the settings that are not the defaults."""
        return self.baseline.title(self.own)

    @property
    def method_settings(self) -> BaselineSettings:
        """All settings of the method."""
        given = {**(_uncropped(self.category) if self.baseline.uses_backbone else {}), **self.settings}
        config = self.baseline.shared(replace(self.preset.members[0], seed=self.seed), given)
        return self.baseline.settings(config=config, **self.own)

    @property
    def members(self) -> tuple[PadimConfig, ...]:
        """How images are read and seen by the network, as of PaDiM's models: one record."""
        return (self.method_settings.config,)

    @property
    def draws(self) -> bool:
        """Whether a seed changes the model; it changes which images share a fold, and so the thresholds, anyway."""
        return self.baseline.draws

    @property
    def as_published(self) -> bool:
        """Whether the method has its published settings; its figures are of one network (:func:`published_of`)."""
        return self.weights is None and not self.settings and self.own == self.baseline.published

    def record(self) -> dict[str, Any]:
        """The settings that, with seed, protocol, weights and images, say what the results are."""
        own = dataclasses.asdict(self.method_settings)
        return {"members": [own.pop("config")], "own": own, "folds": self.folds}


AnyRun = Run | MethodRun


def published_of(run: AnyRun) -> dict[str, Published]:
    """Published figures of a run's category that its own stand beside, by metric."""
    if not run.as_published:
        return {}
    name = run.name if isinstance(run, Run) else run.method
    return published(name, run.category.data, run.protocol.name, run.category.name, run.preset.backbone)


def _uncropped(category: Category) -> dict[str, Any]:
    return {"image_size": 256, "crop_size": 256} if category.data == ShanghaiTechCampus.name else {}


def place(run: AnyRun, backbone: Backbone, builder: tfds.core.DatasetBuilder) -> Path:
    """Folder of a run's results, relative to the evaluation's; a digest keeps different settings and files apart."""
    return _place(run, backbone, builder, ("prepared", "settings", "schema"))


def earlier(run: AnyRun, backbone: Backbone, builder: tfds.core.DatasetBuilder, out: Path) -> Path | None:
    """Folder below ``out`` of this run from a version that did not calibrate; None where there is none.

    :func:`finished` doesn't count it, and it stays where it is: the new run has a folder of its own.
    """
    folder = out / _place(run, backbone, builder, ("prepared", "settings"))
    return folder if (folder / RUN_FILE).is_file() else None


def _place(run: AnyRun, backbone: Backbone, builder: tfds.core.DatasetBuilder, keys: Sequence[str]) -> Path:
    content = identity(replace(run, seed=0), backbone, builder)
    parts = {key: content[key] for key in keys}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
    data = run.category.data, run.protocol.name
    name = run.preset.name if isinstance(run, Run) else run.method
    return Path("runs", *data, name, f"{run.category.name}-{digest}", f"seed-{run.seed}")


def finished(run: AnyRun, backbone: Backbone, builder: tfds.core.DatasetBuilder, out: Path) -> dict[str, Any] | None:
    """What ``run.json`` holds, if this very run (settings, weights, files, versions) lies below ``out``; else None."""
    try:
        record = json.loads((out / place(run, backbone, builder) / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # through JSON and back, as the stored record went
    wanted = json.loads(json.dumps(identity(run, backbone, builder)))
    return record if isinstance(record, dict) and wanted.items() <= record.items() else None


def identity(run: AnyRun, backbone: Backbone, builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """What a run's results follow from, as ``run.json`` begins with."""
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "preset": run.name,
        "category": run.category.name,
        "data": run.category.data,
        "prepared": os.path.relpath(builder.data_dir, run.category.prepared),
        "seed": run.seed,
        "protocol": dataclasses.asdict(run.protocol),
        "settings": {
            "backbone": backbone.spec.name if run.has_network else None,
            "weights_digest": backbone.weights_digest if run.has_network else None,
        }
        | run.record(),
        "versions": {name: version(name) for name in (*_VERSIONS, *([] if run.has_network else ["optax"]))}
        | {"python": platform.python_version(), "device": jax.devices()[0].device_kind},
    }
