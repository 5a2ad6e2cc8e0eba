"""What a manifest says of a model, checked before anything of its size is read or written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.layouts import LAYOUTS, SQUARE, Layout, Sizes
from padim_jax.artifact.manifest import manifest_error
from padim_jax.config import PadimConfig
from padim_jax.method.calibration import BINS, RECIPE
from padim_jax.method.embedding import Embedding, check_embedding
from padim_jax.method.positions import n_gaussians

SQUARES = 2  # up to this schema, factors are stored as whole squares, without the strength of shrinkage


@dataclass(frozen=True)
class Settings:
    """What a manifest says of a model, checked.

    Attributes:
      config, embedding: as in ``Padim``.
      rates: what a calibration follows from besides its scores; None where there is none.
      shapes: shapes of all arrays by name, as in the manifest.
      image_sizes: (width, height) of the files it was fitted on, each once.
    """

    config: PadimConfig
    embedding: Embedding
    rates: dict[str, Any] | None
    shapes: dict[str, Any]
    image_sizes: tuple[tuple[int, int], ...]

    def common_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the arrays that all forms store, without the network's."""
        shapes: dict[str, tuple[int, ...]] = {"count": ()}
        if self.embedding.projected is not None:
            shapes["projection"] = (len(self.embedding.channels), self.embedding.dimension)
        if self.config.align != "none":
            shapes |= {"alignment.image": (*self.config.crop, 3), "alignment.max_angle": ()}
            shapes["coverage"] = (self.embedding.n_positions,)
        if "roi" in self.shapes:
            shapes["roi"] = self.config.crop
        if self.rates is not None:  # any number of scores
            scores = self.shapes.get("calibration.scores")
            shapes["calibration.scores"] = tuple(scores[:1]) if isinstance(scores, list) else ()
            shapes["calibration.pixels"] = (BINS,)
            if self.config.align != "none":
                shapes["calibration.least_match"] = ()
            if self.config.is_standardised:
                shapes |= {f"calibration.map_{name}": self.config.crop for name in ("mean", "spread")}
                shapes["calibration.map_count"] = ()
            if self.config.anomaly_map == "combined":
                shapes |= {f"calibration.map_{name}": (2,) for name in ("levels", "scales")}
        return {
            name: jax.ShapeDtypeStruct(shape, np.int16 if name == "roi" else np.float32)
            for name, shape in shapes.items()
        }


def check_settings(folder: Path, manifest: Mapping[str, Any], call: str = "load") -> Settings:
    """What a manifest says of a model of any form.

    Raises:
      ArtifactError: something is missing, of another type, out of bounds, or contradicts the rest.
    """
    try:
        config = PadimConfig(**_tuples(manifest["config"]))
        embedding = Embedding(**_tuples(manifest["embedding"]))
        check_embedding(embedding, config)
        recipe = manifest.get("calibration")
        rates = None if recipe is None else {name: recipe[name] for name in (*RECIPE, *({"threshold"} & {*recipe}))}
        sizes = tuple((int(width), int(height)) for width, height in manifest.get("image_sizes", ()))
        return Settings(config, embedding, rates, dict(manifest["arrays"]), sizes)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if call == "save":
            raise ArtifactError(f"save: {folder} could not be loaded again ({error}); nothing was written") from error
        raise manifest_error(folder, error) from error


def layout_of(folder: Path, manifest: Mapping[str, Any], settings: Settings) -> tuple[Layout, Sizes]:
    """How a stored model lies on disk, and the sizes that its settings imply.

    Raises:
      ArtifactError: an unknown form or solver.
    """
    squares = manifest["schema"] <= SQUARES
    form = SQUARE if squares else manifest.get("form")
    inverse = form == "updatable" or "gaussian.whitening" in settings.shapes
    solver = manifest.get("solver", "inverse-factor" if inverse else "triangular-solve")
    layout = LAYOUTS.get((form, solver)) if isinstance(form, str) and isinstance(solver, str) else None
    if layout is None:
        raise ArtifactError(f"load: {folder} is damaged (form {form!r}, solver {solver!r})")
    d = settings.embedding.dimension
    match settings.shapes.get("gaussian.spread"):
        case [_, int(rank)] if 1 <= rank <= d:
            pass
        case _:
            rank = 1
    shrunk = settings.config.covariance == "ledoit-wolf" and not squares
    covered, components = settings.config.align != "none", settings.config.n_components > 1
    return layout, Sizes(n_gaussians(settings.config, settings.embedding), d, rank, shrunk, covered, components)


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with tuples for JSON's lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
