"""What a program is made of: the model as it scores, and the numbers that the file stores of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from padim_jax.artifact import load, load_images, load_quantised, load_worst_case
from padim_jax.artifact.compaction import Compacted
from padim_jax.gaussians.integer_products import IntegerWhitening
from padim_jax.gaussians.quantised import Quantised
from padim_jax.gaussians.worst_case import WorstCase
from padim_jax.method.records import Padim
from padim_jax.runs.inputs import Place

_CALL = "export_model"


@dataclass(frozen=True)
class ProgramModel:
    """A model as its program holds it.

    Attributes:
      model: as it scores.
      quantised: the integers of 16 bits, or of parts of seven, that its factors were made from; None for factors of 32
        bits.
      worst_case: the bound of what compacting changes, and the embedding that it is the bound of; None for a model that
        was not compacted.
      notes: what the export changed or kept that nobody asked for, in words.
      usual: as of :func:`padim_jax.export.compare.map_scales`; 0 where nothing says it.
      weights: of the files that it was fitted on, by the digests of their content; None where they are not known.
    """

    model: Padim
    quantised: Quantised | IntegerWhitening | None = None
    worst_case: tuple[float, WorstCase] | None = None
    notes: tuple[str, ...] = ()
    usual: float = 0.0
    weights: Mapping[str, float] | None = None

    @property
    def factor_error(self) -> float | None:
        """How far rounding moves products of factors in parts of seven bits; None of others."""
        return self.quantised.mean_error if isinstance(self.quantised, IntegerWhitening) else None


def open_model(model: Padim | Compacted | Place) -> ProgramModel:
    """A model that was given, or that lies in a folder.

    Raises:
      TypeError: neither a model nor a folder.
      ArtifactError: as of :func:`padim_jax.load`.
    """
    if isinstance(model, Padim):
        return ProgramModel(model)
    if isinstance(model, Compacted):
        worst = None if model.worst is None else (model.max_error, model.worst)
        return ProgramModel(model.model, model.quantised, worst)
    if isinstance(model, str | os.PathLike):
        return ProgramModel(load(model), load_quantised(model), load_worst_case(model), weights=load_images(model))
    raise TypeError(f"{_CALL}: model is of type {type(model).__name__}, wanted a model or the folder of one")
