"""From the options of ``padim evaluate`` to its runs: a grid of categories, presets or methods, settings and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from padim_jax.baselines import Method
from padim_jax.commands.judging import ROTATED_DRAWS
from padim_jax.commands.terminal import say
from padim_jax.config import SETTINGS, ProtocolName
from padim_jax.data.protocol import Protocol
from padim_jax.presets import Preset

if TYPE_CHECKING:  # TFDS and Grain take seconds to import, which other commands need not wait for
    from padim_jax.data.catalogue import Category
    from padim_jax.evaluation.run import AnyRun


@dataclass(frozen=True)
class MethodChoice:
    """A method to evaluate.

    Attributes:
      method: which.
      own: values of its own settings.
      preset: whose network and way to read images it takes.
      folds: that good images are dealt into for thresholds.
    """

    method: Method
    own: dict[str, Any]
    preset: Preset
    folds: int

    @property
    def name(self) -> str:
        """What its runs are called in tables."""
        return self.method.title(self.own)


Subject = Preset | MethodChoice


@dataclass(frozen=True)
class Grid:
    """Settings to evaluate.

    Attributes:
      settings: every combination of the values given, by the settings' names.
      varying: the settings that have several values.
    """

    settings: tuple[dict[str, Any], ...]
    varying: tuple[str, ...]

    def label(self, run: AnyRun) -> str:
        """The preset or method of a run, with the values of the settings that vary."""
        return " ".join([run.name, *(f"{name}={run.settings[name]}" for name in self.varying)])


def expand_grid(options: Mapping[str, tuple[Any, ...]]) -> Grid:
    """The grid of the values that the options of settings were given; equal values count once."""
    values = {
        name: list(dict.fromkeys([given] if name == "taps" else map(SETTINGS[name].normalise, given)))
        for name, given in options.items()
        if given
    }
    combinations = (dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values()))
    return Grid(tuple(combinations), tuple(name for name in values if len(values[name]) > 1))


def plan_runs(
    categories: Iterable[Category],
    subjects: Sequence[Subject],
    grid: Grid,
    protocol: ProtocolName,
    seeds: Sequence[int],
    weights: str | None,
) -> list[AnyRun]:
    """All runs of an evaluation, category by category; no ``seeds`` are the protocol's default.

    A run in which a seed changes nothing has one seed: a spread of 0 would look like stability.

    Raises:
      ValueError: settings are invalid, or don't fit the backbone or the method.
    """
    from padim_jax.evaluation.run import AnyRun

    seeds = seeds or range(ROTATED_DRAWS if protocol == "rotated" else 1)
    runs, undrawn = list[AnyRun](), dict[str, None]()
    for category, subject, settings in itertools.product(categories, subjects, grid.settings):
        run = _first_run(category, subject, seeds[0], protocol, settings, weights)
        drawn = protocol == "rotated" or run.draws
        if not drawn and len(seeds) > 1:
            undrawn[grid.label(run)] = None
        for seed in seeds if drawn else seeds[:1]:
            placement = Protocol(protocol, seed) if protocol == "rotated" else Protocol(protocol)
            runs.append(replace(run, seed=seed, protocol=placement))
    for label in undrawn:
        say(f"{label} draws nothing at random, so one seed is enough")
    return runs


def _first_run(
    category: Category,
    subject: Subject,
    seed: int,
    protocol: ProtocolName,
    settings: dict[str, Any],
    weights: str | None,
) -> AnyRun:
    from padim_jax.evaluation.run import MethodRun, Run

    if isinstance(subject, Preset):
        return Run(category, subject, seed, Protocol(protocol), settings, weights)
    common = seed, Protocol(protocol), subject.own, settings, weights, subject.folds
    return MethodRun(category, subject.method, subject.preset, *common)
