"""Symmetric and triangular matrices, one per position, in panels of columns: little more than half of the squares.

A panel holds columns k … k + w of the upper triangle, down to row k + w: products with it are dense and as fast as
those with the square, and only what lies below the diagonal in its last w rows is stored needlessly.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

# Of n panels (n + 1) / 2n of the square is stored: 60 % at d = 550, 62.5 % at d = 100. Narrower ones save little more
# and slow down products with 16 images, fewer cost bandwidth with one: both measured on CPU.
PANELS = 5  # at most
NARROWEST = 25
_HIGHEST = lax.Precision.HIGHEST
Matrix = TypeVar("Matrix", bound="Panels")


@no_type_check
@dataclass(frozen=True)
class Panels:
    """What symmetric and triangular matrices (p, d, d) have in common: how they lie in memory.

    Attributes:
      panels: float32 (p, stop, stop - start) each, rows 0 to stop of columns start to stop; together all d columns.
        NumPy arrays while they are on the host.
    """

    panels: tuple[Float[Any, "p stop width"], ...]

    @classmethod
    def from_square(cls: type[Matrix], square: Float[Array | np.ndarray, "p d d"]) -> Matrix:
        """Take whole matrices, which must be symmetric or triangular."""
        return cls(tuple(jnp.asarray(square[:, :stop, start:stop]) for start, stop in spans(square.shape[-1])))

    @property
    def side(self) -> int:
        """The matrices' d."""
        return sum(panel.shape[-1] for panel in self.panels)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Columns of each panel: start, stop."""
        return [(panel.shape[-2] - panel.shape[-1], panel.shape[-2]) for panel in self.panels]

    def __len__(self) -> int:
        return len(self.panels[0])

    def __getitem__(self: Matrix, positions: slice | Int[Array | np.ndarray, " k"]) -> Matrix:
        return type(self)(tuple(panel[positions] for panel in self.panels))

    def diagonal(self) -> Float[Array, "p d"]:
        """The diagonals."""
        blocks = [panel[:, start:] for panel, (start, _) in zip(self.panels, self.spans, strict=True)]
        return jnp.concatenate([jnp.diagonal(block, axis1=1, axis2=2) for block in blocks], axis=-1)


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SymmetricMatrix(Panels):
    """Symmetric matrices (p, d, d): below the diagonal, in the last rows of each panel, lies the mirror image."""

    @staticmethod
    def zeros(p: int, d: int) -> "SymmetricMatrix":
        """Matrices of zeros."""
        return SymmetricMatrix(tuple(jnp.zeros((p, stop, stop - start), jnp.float32) for start, stop in spans(d)))

    def square(self) -> Float[Array, "p d d"]:
        """The whole matrices."""
        upper = upper_square(self)
        return upper + jnp.triu(upper, 1).mT

    def times(self, x: Float[Array, "p d"]) -> Float[Array, "p d"]:
        """``S x``."""
        total = jnp.zeros_like(x)
        for panel, (start, stop) in zip(self.panels, self.spans, strict=True):
            above = jnp.einsum("pji,pi->pj", panel[:, :start], x[:, start:stop], precision=_HIGHEST)
            upper = jnp.einsum("pji,pj->pi", panel, x[:, :stop], precision=_HIGHEST)
            total = total.at[:, :start].add(above).at[:, start:stop].add(upper)
        return total

    def add_products(self, rows: Float[Array, "p n d"]) -> "SymmetricMatrix":
        """``S + Σ r rᵀ`` over rows r."""
        columns = rows.mT  # a third faster on CPU than contracting the rows as they lie

        def by_columns(panel: Array, columns: Array, rows: Array, start: int) -> Array:
            stop = panel.shape[1]
            return panel + jnp.einsum("pin,pnj->pij", columns[:, :stop], rows[:, :, start:stop], precision=_HIGHEST)

        def by_rows(panel: Array, columns: Array, rows: Array, start: int) -> Array:
            stop = panel.shape[1]
            product = jnp.einsum("pjn,pni->pji", columns[:, start:stop], rows[:, :, :stop], precision=_HIGHEST)
            return panel + lax.optimization_barrier(product).mT  # or XLA would transpose the operands, not the result

        def add(panel: Array, start: int) -> Array:
            default = partial(by_columns, start=start)
            if panel.shape[2] > NARROWEST:
                return default(panel, columns, rows)
            # a narrow product fills few vectors: on CPU its transpose takes half the time, 18 instead of 30 ms in all
            return lax.platform_dependent(panel, columns, rows, cpu=partial(by_rows, start=start), default=default)

        return SymmetricMatrix(
            tuple(add(panel, start) for panel, (start, _) in zip(self.panels, self.spans, strict=True))
        )


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TriangularMatrix(Panels):
    """Upper triangular matrices (p, d, d): below the diagonal, in the last rows of each panel, lie zeros."""

    def square(self) -> Float[Array, "p d d"]:
        """The whole matrices, zero below the diagonal."""
        return upper_square(self)

    def rows_times(self, x: Float[Array, "p n d"]) -> Float[Array, "p n d"]:
        """``x U`` of rows x."""
        return jnp.concatenate(self._by_panel(x), axis=-1)

    def rows_times_transposed(self, x: Float[Array, "p n d"]) -> Float[Array, "p n d"]:
        """``x Uᵀ`` of rows x."""
        total = jnp.zeros_like(x)
        for panel, (start, stop) in zip(self.panels, self.spans, strict=True):
            part = jnp.einsum("pni,pji->pnj", x[:, :, start:stop], panel, precision=_HIGHEST)
            total = total.at[:, :, :stop].add(part)
        return total

    def squared_norms(self, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
        """``‖x U‖²`` of rows x; the products are not put together, which on CPU would take longer than they do."""

        def norms(parts: Sequence[Array]) -> Array:
            return functools.reduce(jnp.add, [jnp.sum(part**2, axis=-1) for part in parts])

        def by_products(x: Array, upper: TriangularMatrix) -> Array:
            return norms(upper._by_panel(x))

        def by_sums(x: Array, upper: TriangularMatrix) -> Array:
            row = x[:, 0, :, None]
            return norms([jnp.sum(row[:, : panel.shape[1]] * panel, axis=1) for panel in upper.panels])[:, None]

        if x.shape[1] != 1:
            return by_products(x, self)
        # of one image each number is used once, which on CPU a sum reads faster: 26 instead of 20 GB/s at d = 550
        return lax.platform_dependent(x, self, cpu=by_sums, default=by_products)

    def _by_panel(self, x: Float[Array, "p n d"]) -> list[Float[Array, "p n w"]]:
        return [
            jnp.einsum("pnj,pji->pni", x[:, :, :stop], panel, precision=_HIGHEST)
            for panel, (_, stop) in zip(self.panels, self.spans, strict=True)
        ]


def spans(d: int) -> list[tuple[int, int]]:
    """Columns of the panels of matrices d × d: start, stop."""
    width = -(-d // min(PANELS, max(1, d // NARROWEST)))
    return [(start, min(start + width, d)) for start in range(0, d, width)]


def upper_square(matrix: Panels) -> Float[Array, "p d d"]:
    """The upper triangles in squares, zero below the diagonal."""
    d = matrix.side
    padded = [jnp.pad(panel, [(0, 0), (0, d - panel.shape[-2]), (0, 0)]) for panel in matrix.panels]
    return jnp.triu(jnp.concatenate(padded, axis=-1))
