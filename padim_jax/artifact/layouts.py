"""How a model of each form lies on disk: one table, read by all that save, load, or count bytes.

A form stores a record (moments, or Gaussians of some kind), each of its arrays under its own name. The one that takes
nearly all of the space is stored packed, is written and read in parts, and in the 16-bit forms is quantised. What the
arrays' shapes must be follows from the record, evaluated for its shapes alone.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from padim_jax.artifact.arrays import LazyArray
from padim_jax.config import Form
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians import packing
from padim_jax.gaussians.factors import Gaussian, Solver, WhitenedGaussian
from padim_jax.gaussians.low_rank import AnyGaussian, LowRankGaussian
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.quantised import Quantised, dequantise, dequantise_basis
from padim_jax.gaussians.triangle import Panels, TriangularMatrix

_COMMON = ("count", "coverage")  # fields that all forms store under one name


@dataclass(frozen=True)
class Sizes:
    """The numbers from which the shapes of a model's arrays follow.

    Attributes:
      positions: p.
      dimension: d, numbers a position.
      rank: r of a low rank; the other forms ignore it.
      shrunk: whether Ledoit-Wolf shrinkage adds arrays of its own.
      covered: whether images need not cover all positions, so that each has a count of its own.
      components: whether the positions are components, whose centres and shares are arrays of their own.
    """

    positions: int
    dimension: int
    rank: int = 1
    shrunk: bool = False
    covered: bool = False
    components: bool = False


@dataclass(frozen=True)
class Layout:
    """How one form is stored.

    Attributes:
      prefix: prefix of the arrays' names.
      record: makes a record with the shapes of the stored one from moments and a rank; its numbers mean nothing.
      field: name of the record's largest field.
      array: name of the array that holds that field.
      pack: makes that array from the field, of which only some positions are asked for at a time, and from (p, d).
      unpack: makes the field on the device from the array's parts, from first rows to last, and the field's shapes.
      dequantise: turns the packed array into float32; None for a form of 32 bits.
      scaled_as: field with as many numbers as there are scales of 16 bits.
    """

    prefix: str
    record: Callable[[Moments, int], Any]
    field: str
    array: str
    pack: Callable[[Any, tuple[int, int]], Any]
    unpack: Callable[[Iterable[np.ndarray], Any], Any]
    dequantise: Callable[[Quantised], np.ndarray] | None = None
    scaled_as: str = "mean"

    def example(self, sizes: Sizes) -> Any:
        """A record of these sizes, with shapes in place of its arrays."""
        return _example(self.record, sizes)

    def arrays(self, record: Any, quantised: Quantised | None = None) -> dict[str, Any]:
        """The arrays of ``record`` by name; for a 16-bit form, ``quantised`` takes the place of its largest field."""
        fields = _fields(record, self.field)
        packed = self.pack(fields.pop(self.field), record.mean.shape)
        arrays = {f"{self.prefix}.{name}": array for name, array in fields.items() if name not in _COMMON}
        if quantised is None:
            return {**arrays, self.array: packed}
        return {**arrays, self.array: quantised.values, f"{self.prefix}.scale": quantised.scale}

    def shapes(self, sizes: Sizes) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every array of a record of these sizes."""
        example, quantised = self.example(sizes), None
        if self.dequantise is not None:
            packed = self.pack(getattr(example, self.field), example.mean.shape)
            values = jax.ShapeDtypeStruct(packed.shape, np.int16)
            scale = jax.ShapeDtypeStruct(getattr(example, self.scaled_as).shape, np.float32)
            quantised = Quantised(values, scale)  # pyright: ignore[reportArgumentType] - shapes alone
        arrays = self.arrays(example, quantised)
        return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}

    def restore(
        self, sizes: Sizes, parts: Iterable[np.ndarray], arrays: dict[str, np.ndarray], common: Mapping[str, Any]
    ) -> Any:
        """The record on the device.

        Args:
          sizes: sizes of the record.
          parts: parts of its largest array, from first rows to last.
          arrays: its other arrays, each taken out as it is moved, so that the host's copy is freed at once.
          common: fields that all forms store.
        """
        example = self.example(sizes)
        scale = arrays.pop(f"{self.prefix}.scale", None)

        def restore_field(name: str, shapes: Any) -> Any:
            if name in _COMMON:
                return common[name]
            if name == self.field:
                return self.unpack(parts if scale is None else self._dequantise_parts(parts, scale), shapes)
            return jax.device_put(arrays.pop(f"{self.prefix}.{name}"))

        values = [restore_field(name, shapes) for name, shapes in _fields(example, self.field).items()]
        return jax.tree.unflatten(jax.tree.structure(example, is_leaf=_is_field(example, self.field)), values)

    def _dequantise_parts(self, parts: Iterable[np.ndarray], scale: np.ndarray) -> Iterator[np.ndarray]:
        assert self.dequantise is not None
        start = 0
        for part in parts:
            yield self.dequantise(Quantised(part, scale[start : start + len(part)]))
            start += len(part)


def _is_field(record: Any, field: str) -> Callable[[Any], bool]:
    largest = getattr(record, field)  # itself a tree where it is kept in panels
    return lambda node: node is largest


def _fields(record: Any, field: str) -> dict[str, Any]:
    """Arrays of a record by the names of their fields, those of nested records too; ``field`` in one piece."""
    paths = jax.tree_util.tree_leaves_with_path(record, is_leaf=_is_field(record, field))
    return {path[-1].name: leaf for path, leaf in paths}


@cache
def _example(record: Callable[[Moments, int], Any], sizes: Sizes) -> Any:
    shape = (sizes.positions, sizes.dimension)
    centres = jax.ShapeDtypeStruct(shape, np.float32) if sizes.components else None
    flags = {"higher": sizes.shrunk, "covered": sizes.covered}
    moments = jax.eval_shape(lambda c: gaussian_moments.init(*shape, **flags, centres=c), centres)
    return jax.eval_shape(lambda moments: record(moments, sizes.rank), moments)


def _pack_triangle(square: Any, shape: tuple[int, int], *, lower: bool) -> LazyArray:
    """Triangles of matrices (p, d, d), packed as they are written."""
    p, d = shape
    return LazyArray(
        (p, d * (d + 1) // 2), np.dtype(np.float32), lambda rows: packing.pack_triangle(square[rows], lower=lower)
    )


def _unpack_panels(parts: Iterable[np.ndarray], shapes: Panels, *, lower: bool) -> Panels:
    return packing.unpack_panels(parts, len(shapes), lower=lower)


def _unpack_lower(parts: Iterable[np.ndarray], shapes: Any) -> jax.Array:
    return _join((packing.unpack_triangle(part, lower=True) for part in parts), shapes.shape)


def _pack_square(upper: TriangularMatrix, shape: tuple[int, int]) -> LazyArray:
    p, d = shape
    return LazyArray((p, d, d), np.dtype(np.float32), lambda rows: np.asarray(upper[rows].square()))


def _unpack_square(parts: Iterable[np.ndarray], shapes: TriangularMatrix) -> TriangularMatrix:
    return TriangularMatrix.from_square(_join(parts, (len(shapes), shapes.side, shapes.side)))


def _join(parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> jax.Array:
    """Parts put together and moved to the device; no more than one of them is held twice."""
    whole, start = None, 0
    for part in parts:
        if part.shape == shape:
            return jax.device_put(part)
        whole = np.empty(shape, np.float32) if whole is None else whole
        whole[start : start + len(part)] = part
        start += len(part)
    return jax.device_put(whole)


def _strength(moments: Moments) -> jax.Array | None:
    """An array of the shape of the shrinkage, one number a position; None without the higher moments."""
    return None if moments.higher is None else moments.higher.fourth


def _low_rank(moments: Moments, rank: int) -> LowRankGaussian:
    basis = moments.scatter.square()[:, :rank]
    return LowRankGaussian(moments.mean, basis, basis[:, :, 0], basis[:, 0, 0], _strength(moments))


_WHITENED = Layout(
    prefix="gaussian",
    record=lambda moments, rank: WhitenedGaussian(
        moments.mean, TriangularMatrix(moments.scatter.panels), _strength(moments), moments.components
    ),
    field="whitening",
    array="gaussian.triangle",
    pack=partial(_pack_triangle, lower=False),
    unpack=partial(_unpack_panels, lower=False),
)
_FACTORED = Layout(
    prefix="gaussian",
    record=lambda moments, rank: Gaussian(
        moments.mean, moments.scatter.square(), _strength(moments), moments.components
    ),
    field="factor",
    array="gaussian.triangle",
    pack=partial(_pack_triangle, lower=True),
    unpack=_unpack_lower,
)
_LOW_RANK = Layout(
    prefix="gaussian",
    record=_low_rank,
    field="basis",
    array="gaussian.basis",
    pack=lambda basis, shape: basis,
    unpack=lambda parts, shapes: _join(parts, shapes.shape),
)
SQUARE = "square"  # the only form before schema 3, when manifests named none
LAYOUTS: Mapping[tuple[str, str], Layout] = {
    ("updatable", "inverse-factor"): Layout(
        prefix="moments",
        record=lambda moments, rank: moments,
        field="scatter",
        array="moments.scatter",
        pack=partial(_pack_triangle, lower=True),
        unpack=partial(_unpack_panels, lower=True),
    ),
    ("triangle", "inverse-factor"): _WHITENED,
    ("triangle", "triangular-solve"): _FACTORED,
    ("triangle-16bit", "inverse-factor"): replace(_WHITENED, dequantise=partial(dequantise, lower=False)),
    ("low-rank", "inverse-factor"): _LOW_RANK,
    ("low-rank-16bit", "inverse-factor"): replace(_LOW_RANK, dequantise=dequantise_basis, scaled_as="spread"),
    (SQUARE, "inverse-factor"): replace(
        _WHITENED, array="gaussian.whitening", pack=_pack_square, unpack=_unpack_square
    ),
    (SQUARE, "triangular-solve"): replace(
        _FACTORED, array="gaussian.factor", pack=_LOW_RANK.pack, unpack=_LOW_RANK.unpack
    ),
}


def form_of(fitted: AnyGaussian) -> tuple[Form, Solver]:
    """Form and solver in which Gaussians are stored without loss."""
    if isinstance(fitted, LowRankGaussian):
        return "low-rank", "inverse-factor"
    return "triangle", "triangular-solve" if isinstance(fitted, Gaussian) else "inverse-factor"


def form_bytes(form: str, positions: int, dimension: int, rank: int) -> int:
    """Bytes on disk of the means and Gaussians, or moments, of a model in a form; ``rank`` is that of a low rank."""
    return tree_bytes(LAYOUTS[form, "inverse-factor"].shapes(Sizes(positions, dimension, rank)))


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays, or shapes of arrays, in a tree."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
