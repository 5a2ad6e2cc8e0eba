"""How Gaussians and embeddings lie on a mesh: at positions of their own, shared out, or one for all, everywhere.

Gaussians of positions are shared out along ``grid``, and embeddings change hands, so that each device has all of its
row's images at its own positions. A Gaussian that all cells share is small and lies on every device: images stay where
they are, and what a row's devices have found in theirs is merged.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Shaped

from padim_jax.config import PadimConfig
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.moments import Moments
from padim_jax.mesh.shardings import GRID, ROWS, SAME, SPREAD, padded_length, resize_positions
from padim_jax.method.embedding import Embedding
from padim_jax.method.positions import arrangement_of, n_gaussians

_OF_A_ROW = PartitionSpec("data")


class Spreading(ABC):
    """How a fit and a model lie on a mesh; what its methods compute, they compute under ``jax.shard_map``.

    Attributes:
      rows: specification of a row's moments, apart from their count: (rows, positions, ...).
      whole: of all rows' moments together, (positions, ...).
      fitted: of a model's Gaussians, (positions, ...).
    """

    rows: PartitionSpec
    whole: PartitionSpec
    fitted: PartitionSpec

    @property
    def of_rows(self) -> Moments:
        """Specifications of all of a row's moments."""
        specs: Any = (_OF_A_ROW, *5 * (self.rows,))
        return Moments(*specs)

    @property
    def of_all(self) -> Moments:
        """Specifications of all moments together."""
        specs: Any = (SAME, *5 * (self.whole,))
        return Moments(*specs)

    @abstractmethod
    def length(self, mesh: Mesh, config: PadimConfig, embedding: Embedding) -> int:
        """Positions of the Gaussians, filled up so that devices share them out evenly."""

    @abstractmethod
    def collect(self, mesh: Mesh, x: Shaped[Array, "p n *d"]) -> Shaped[Array, "q m *d"]:
        """The embeddings that this device computes with, of those of its own images."""

    @abstractmethod
    def own_positions(self, mesh: Mesh, array: Float[Array, " p"]) -> Float[Array, " q"]:
        """Of numbers at all positions, those of :meth:`collect`."""

    @abstractmethod
    def weights_of(self, local: Array) -> Array:
        """The weights of the images of :meth:`collect`, of those of this device's own images."""

    @abstractmethod
    def give_back(self, values: Array) -> Array:
        """What was computed for every image of :meth:`collect`, (q, m, ...): for this device's own, (p, n, ...)."""

    @abstractmethod
    def fold(
        self, config: PadimConfig, moments: Moments, x: Float[Array, "q m d"], weights: Array, inside: Array | None
    ) -> Moments:
        """Fold the embeddings of :meth:`collect` into the row's moments."""

    @abstractmethod
    def of_every_row(self, array: Array) -> Array:
        """A row's array (1, positions, ...) as (rows, positions, ...): at all, or at fewer, of the positions."""

    @abstractmethod
    def of_row(self, array: Array) -> Array:
        """An array of all rows together, as it lies on this device, at all positions of its row."""


@dataclass(frozen=True)
class SharedOut(Spreading):
    """Every cell has a Gaussian of its own: positions are shared out."""

    rows = ROWS
    whole = SPREAD
    fitted = GRID

    def length(self, mesh: Mesh, config: PadimConfig, embedding: Embedding) -> int:
        """As many as cells, and a few more."""
        return padded_length(mesh, n_gaussians(config, embedding))

    def collect(self, mesh: Mesh, x: Shaped[Array, "p n *d"]) -> Shaped[Array, "q m *d"]:
        """Of all images of the row, at this device's positions."""
        x = resize_positions(x, padded_length(mesh, len(x)))
        return lax.all_to_all(x, "grid", split_axis=0, concat_axis=1, tiled=True)

    def own_positions(self, mesh: Mesh, array: Float[Array, " p"]) -> Float[Array, " q"]:
        """Those of this device."""
        length = padded_length(mesh, len(array)) // mesh.shape["grid"]
        filled = resize_positions(array, length * mesh.shape["grid"])
        return lax.dynamic_slice_in_dim(filled, lax.axis_index("grid") * length, length)

    def weights_of(self, local: Array) -> Array:
        """Of all images of the row."""
        return lax.all_gather(local, "grid", tiled=True)

    def give_back(self, values: Array) -> Array:
        """At all positions, those that were filled up too."""
        return lax.all_to_all(values, "grid", split_axis=1, concat_axis=0, tiled=True)

    def fold(
        self, config: PadimConfig, moments: Moments, x: Float[Array, "q m d"], weights: Array, inside: Array | None
    ) -> Moments:
        """Nothing to exchange."""
        return arrangement_of(config).update(moments, x, weights, inside)

    def of_every_row(self, array: Array) -> Array:
        """At the fewer positions that this device has of all rows."""
        return lax.all_to_all(array, "data", split_axis=1, concat_axis=0, tiled=True)

    def of_row(self, array: Array) -> Array:
        """Those of the other rows' devices too."""
        return lax.all_gather(array, "data", tiled=True)


@dataclass(frozen=True)
class Everywhere(Spreading):
    """All cells share a Gaussian: it is everywhere, and images stay where they are."""

    rows = _OF_A_ROW
    whole = SAME
    fitted = SAME

    def length(self, mesh: Mesh, config: PadimConfig, embedding: Embedding) -> int:
        """No more than there are."""
        return n_gaussians(config, embedding)

    def collect(self, mesh: Mesh, x: Shaped[Array, "p n *d"]) -> Shaped[Array, "q m *d"]:
        """As they are."""
        return x

    def own_positions(self, mesh: Mesh, array: Float[Array, " p"]) -> Float[Array, " q"]:
        """All of them."""
        return array

    def weights_of(self, local: Array) -> Array:
        """As they are."""
        return local

    def give_back(self, values: Array) -> Array:
        """As they are."""
        return values

    def fold(
        self, config: PadimConfig, moments: Moments, x: Float[Array, "q m d"], weights: Array, inside: Array | None
    ) -> Moments:
        """Merge what each device of the row finds in its own images, in order, which is the same on all of them."""
        own = arrangement_of(config).update(jax.tree.map(jnp.zeros_like, moments), x, weights)
        of_row = jax.tree.map(lambda array: lax.all_gather(array, "grid"), own)
        parts = [jax.tree.map(lambda array, i=index: array[i], of_row) for index in range(len(of_row.count))]
        return functools.reduce(gaussian_moments.merge, parts, moments)

    def of_every_row(self, array: Array) -> Array:
        """At all positions."""
        return lax.all_gather(array, "data", tiled=True)

    def of_row(self, array: Array) -> Array:
        """As it is."""
        return array


def check_components(call: str, config: PadimConfig) -> None:
    """Raise ``ValueError`` naming ``call`` where there are several components: they are fitted on one device."""
    if config.n_components > 1:
        raise ValueError(
            f"{call}: n_components={config.n_components} is fitted on one device, and one network alone takes longer "
            "than all components; leave --devices and the like out, or take 1"
        )


def spreading_of(config: PadimConfig) -> Spreading:
    """How a fit with these settings lies on a mesh."""
    return Everywhere() if config.positions == "shared" else SharedOut()
