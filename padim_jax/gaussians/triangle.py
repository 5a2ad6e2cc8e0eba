"""Triangles of square matrices, one matrix per position, in panels of columns: little more than half of the squares.

A panel holds columns k … k + w of the upper triangle, down to row k + w: products with it are dense and as fast as
those with the square, and what lies below the diagonal of its last w rows is all that is stored too much.
"""

import functools
from dataclasses import dataclass
from functools import partial
from typing import Any, no_type_check

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


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Triangle:
    """Of matrices (p, d, d), upper triangular ones or symmetric ones.

    Attributes:
      panels: float32 (p, stop, stop - start) each, rows 0 to stop of columns start to stop; together all d columns.
        In NumPy's arrays while on the host.
        Below the diagonal, in the last rows of each: zeros of a triangular matrix, the mirror image of a symmetric one.
    """

    panels: tuple[Float[Any, "p stop width"], ...]

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

    def __getitem__(self, positions: slice | Int[np.ndarray, " k"]) -> "Triangle":
        return Triangle(tuple(panel[positions] for panel in self.panels))

    def square(self) -> Float[Array, "p d d"]:
        """The upper triangular matrices, zero below the diagonal."""
        d = self.side
        padded = [jnp.pad(panel, [(0, 0), (0, d - panel.shape[-2]), (0, 0)]) for panel in self.panels]
        return jnp.triu(jnp.concatenate(padded, axis=-1))

    def symmetric(self) -> Float[Array, "p d d"]:
        """The symmetric matrices."""
        upper = self.square()
        return upper + jnp.triu(upper, 1).mT


def spans(d: int) -> list[tuple[int, int]]:
    """Columns of the panels of matrices d × d: start, stop."""
    width = -(-d // min(PANELS, max(1, d // NARROWEST)))
    return [(start, min(start + width, d)) for start in range(0, d, width)]


def zeros(p: int, d: int) -> Triangle:
    """Nothing but zeros."""
    return Triangle(tuple(jnp.zeros((p, stop, stop - start), jnp.float32) for start, stop in spans(d)))


def of_square(square: Float[Array | np.ndarray, "p d d"]) -> Triangle:
    """Upper triangles of matrices (triangular ones, or symmetric ones)."""
    return Triangle(tuple(jnp.asarray(square[:, :stop, start:stop]) for start, stop in spans(square.shape[-1])))


def diagonal(triangle: Triangle) -> Float[Array, "p d"]:
    """Diagonals."""
    blocks = [panel[:, start:] for panel, (start, _) in zip(triangle.panels, triangle.spans, strict=True)]
    return jnp.concatenate([jnp.diagonal(block, axis1=1, axis2=2) for block in blocks], axis=-1)


def rows_times(x: Float[Array, "p n d"], upper: Triangle) -> Float[Array, "p n d"]:
    """``x U`` of rows x."""
    return jnp.concatenate(_by_panel(x, upper), axis=-1)


def squared_norms(x: Float[Array, "p n d"], upper: Triangle) -> Float[Array, "p n"]:
    """``‖x U‖²`` of rows x; the products are not put together, which on CPU would take longer than they do."""

    def norms(parts: list[Array]) -> Array:
        return functools.reduce(jnp.add, [jnp.sum(part**2, axis=-1) for part in parts])

    def by_products(x: Array, upper: Triangle) -> Array:
        return norms(_by_panel(x, upper))

    def by_sums(x: Array, upper: Triangle) -> Array:
        row = x[:, 0, :, None]
        return norms([jnp.sum(row[:, : panel.shape[1]] * panel, axis=1) for panel in upper.panels])[:, None]

    if x.shape[1] != 1:
        return by_products(x, upper)
    # of one image each number is used once, which on CPU a sum reads faster: 26 instead of 20 GB/s at d = 550
    return lax.platform_dependent(x, upper, cpu=by_sums, default=by_products)


def _by_panel(x: Float[Array, "p n d"], upper: Triangle) -> list[Float[Array, "p n w"]]:
    return [
        jnp.einsum("pnj,pji->pni", x[:, :, :stop], panel, precision=_HIGHEST)
        for panel, (_, stop) in zip(upper.panels, upper.spans, strict=True)
    ]


def rows_times_transposed(x: Float[Array, "p n d"], upper: Triangle) -> Float[Array, "p n d"]:
    """``x Uᵀ`` of rows x."""
    total = jnp.zeros_like(x)
    for panel, (start, stop) in zip(upper.panels, upper.spans, strict=True):
        part = jnp.einsum("pni,pji->pnj", x[:, :, start:stop], panel, precision=_HIGHEST)
        total = total.at[:, :, :stop].add(part)
    return total


def symmetric_times(symmetric: Triangle, x: Float[Array, "p d"]) -> Float[Array, "p d"]:
    """``S x``."""
    total = jnp.zeros_like(x)
    for panel, (start, stop) in zip(symmetric.panels, symmetric.spans, strict=True):
        above = jnp.einsum("pji,pi->pj", panel[:, :start], x[:, start:stop], precision=_HIGHEST)
        own = jnp.einsum("pji,pj->pi", panel, x[:, :stop], precision=_HIGHEST)
        total = total.at[:, :start].add(above).at[:, start:stop].add(own)
    return total


def added_products(symmetric: Triangle, rows: Float[Array, "p n d"]) -> Triangle:
    """``S + Σ r rᵀ`` over rows r."""
    columns = rows.mT  # a third faster on CPU than contracting the rows as they lie

    def upright(panel: Array, columns: Array, rows: Array, start: int) -> Array:
        stop = panel.shape[1]
        return panel + jnp.einsum("pin,pnj->pij", columns[:, :stop], rows[:, :, start:stop], precision=_HIGHEST)

    def on_its_side(panel: Array, columns: Array, rows: Array, start: int) -> Array:
        stop = panel.shape[1]
        found = jnp.einsum("pjn,pni->pji", columns[:, start:stop], rows[:, :, :stop], precision=_HIGHEST)
        return panel + lax.optimization_barrier(found).mT  # or XLA would turn the product, not its result

    def added(panel: Array, start: int) -> Array:
        here = partial(upright, start=start)
        if panel.shape[2] > NARROWEST:
            return here(panel, columns, rows)
        # a narrow product fills few vectors: on CPU its transpose takes half the time, 18 instead of 30 ms in all
        return lax.platform_dependent(panel, columns, rows, cpu=partial(on_its_side, start=start), default=here)

    return Triangle(
        tuple(added(panel, start) for panel, (start, _) in zip(symmetric.panels, symmetric.spans, strict=True))
    )
