"""What a method without maps says about images, and what all fitted models have in common."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import jax
from jaxtyping import Array, Float

from padim_jax.backbones import Backbone
from padim_jax.backbones.brief import line
from padim_jax.baselines.settings import BaselineSettings
from padim_jax.config import PadimConfig
from padim_jax.method.embedding import Embedding

S = TypeVar("S", bound=BaselineSettings)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageScores:
    """What a method that judges whole images says about n of them.

    It has no map: one that is the same everywhere would pass for a statement about pixels, and be measured as one.
    :attr:`padim_jax.baselines.Method.has_map` tells which record a method gives.

    Attributes:
      image_score: float32 (n,), in the units of the method, 0 or more: whether there is a defect.
    """

    image_score: Float[Array, " n"]

    def __repr__(self) -> str:
        return line(self, lambda: f"{len(self.image_score)} images", lambda: "no maps")


class FittedModel(Generic[S]):
    """What fitted models of all methods have in common: pytrees whose arrays are leaves, and the rest static.

    Attributes:
      settings: what it was fitted with; static.
    """

    settings: S

    @property
    def config(self) -> PadimConfig:
        """How images are read, as readers of files want it."""
        return self.settings.config


@dataclass(frozen=True, repr=False)
class BackboneModel(FittedModel[S]):
    """A model of features that a frozen network gives.

    Attributes:
      backbone: the frozen network.
      settings: what it was fitted with; static.
      embedding: which activations are used, and of which weights; static.
    """

    backbone: Backbone
    settings: S = field(metadata={"static": True})
    embedding: Embedding = field(metadata={"static": True})

    def __repr__(self) -> str:
        return line(
            self,
            lambda: self.embedding.backbone,
            lambda: f"taps {', '.join(self.embedding.taps)}",
            lambda: f"{_megabytes(self)} beside the network",
        )


@dataclass(frozen=True, repr=False)
class TrainedModel(FittedModel[S]):
    """A model whose own network was trained on the good images, and which needs no other.

    Attributes:
      parameters: float32 arrays of the network by path, such as ``"encoder.convolutions.0.kernel"``.
      history: float32 (t, 2), or (t, 3) where images were held out: how many steps had been made at each look, the mean
        loss of the steps since the one before, and the mean loss of the images held out.
      settings: what it was trained with; static.
    """

    parameters: Mapping[str, Array]
    history: Float[Array, "t c"]
    settings: S = field(metadata={"static": True})

    def __repr__(self) -> str:
        return line(
            self,
            lambda: f"{sum(leaf.size for leaf in self.parameters.values()) / 1e6:.2f} million parameters",
            lambda: f"{int(self.history[-1, 0])} steps",
            lambda: _megabytes(self),
        )


def check_shape(name: str, array: Array, wanted: tuple[int, ...]) -> None:
    """Raise ``ValueError`` where a model's array is not of the shape that its program needs, but might broadcast."""
    if array.shape != wanted:
        raise ValueError(f"{name} is {array.shape}, wanted {wanted}")


def _megabytes(model: FittedModel[Any]) -> str:
    return f"{sum(array.nbytes for array in named_arrays(model).values()) / 1e6:.3g} MB"


def named_arrays(model: FittedModel[Any]) -> dict[str, Array]:
    """The arrays of a fitted model by name, without those of its network."""
    parts = {entry.name: getattr(model, entry.name) for entry in dataclasses.fields(model)}  # type: ignore[arg-type]
    for name in ("backbone", "settings", "embedding"):
        parts.pop(name, None)
    leaves, _ = jax.tree.flatten_with_path(parts)
    return {".".join(_key(key) for key in path): leaf for path, leaf in leaves}


def _key(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))
