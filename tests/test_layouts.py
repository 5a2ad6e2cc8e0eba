"""The table of layouts: what every form stores, and that it comes back."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from padim_jax.artifact.arrays import LazyArray
from padim_jax.artifact.layouts import LAYOUTS, SQUARE, Sizes, form_bytes
from padim_jax.gaussians.quantised import Quantised

SIZES = Sizes(positions=5, dimension=4, rank=2)


def stored(layout, sizes: Sizes) -> dict[str, np.ndarray]:
    """Arrays as the table says that they are stored, of random numbers."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.normal(size=array.shape) * 100).astype(array.dtype) for name, array in layout.shapes(sizes).items()
    }


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize("parts", [[5], [2, 3]])
@pytest.mark.parametrize("form", LAYOUTS, ids=" ".join)
def test_what_is_packed_is_unpacked(form: tuple[str, str], parts: list[int], shrunk: bool) -> None:
    layout, sizes = LAYOUTS[form], Sizes(5, 4, 2, shrunk)
    arrays = stored(layout, sizes)
    if form == (SQUARE, "inverse-factor"):
        arrays[layout.array] = np.triu(arrays[layout.array])
    given, spans = dict(arrays), np.split(arrays[layout.array], np.cumsum(parts)[:-1])
    del given[layout.array]
    count = jnp.float32(7)
    record = layout.restore(sizes, spans, given, {"count": count})
    assert given == {}
    assert jax.tree.structure(record) == jax.tree.structure(layout.example(sizes))
    scale, quantised = arrays.get("gaussian.scale"), None
    if scale is not None:
        quantised = Quantised(arrays[layout.array], scale)
        assert layout.dequantise is not None
        arrays[layout.array] = layout.dequantise(quantised)
        del arrays["gaussian.scale"]
    packed = layout.arrays(record)
    assert packed.keys() == arrays.keys()
    for name, array in packed.items():
        np.testing.assert_array_equal(array[:] if isinstance(array, LazyArray) else array, arrays[name])
    if quantised is not None:
        again = layout.arrays(record, quantised)
        assert again[layout.array] is quantised.values
        assert again["gaussian.scale"] is scale
    assert getattr(record, "count", count) == 7


@pytest.mark.parametrize(
    ("form", "each"),
    [
        ("updatable", 4 * 10),
        ("triangle", 4 * 10),
        ("triangle-16bit", 2 * 10 + 4 * 4),
        ("low-rank", 4 * (2 * 4 + 2 + 1)),
        ("low-rank-16bit", 2 * 2 * 4 + 4 * (2 * 2 + 1)),
    ],
)
def test_bytes_are_those_of_the_formula(form: str, each: int) -> None:
    assert form_bytes(form, SIZES.positions, SIZES.dimension, SIZES.rank) == 5 * (4 * 4 + each)


def test_shrinkage_adds_its_own_arrays() -> None:
    def added(form: str) -> dict[str, tuple[int, ...]]:
        layout = LAYOUTS[form, "inverse-factor"]
        plain, shrunk = layout.shapes(SIZES), layout.shapes(Sizes(5, 4, 2, shrunk=True))
        return {name: shrunk[name].shape for name in shrunk.keys() - plain.keys()}

    assert added("updatable") == {"moments.second": (5,), "moments.third": (5, 4), "moments.fourth": (5,)}
    for form in ("triangle", "triangle-16bit", "low-rank", "low-rank-16bit"):
        assert added(form) == {"gaussian.strength": (5,)}


def test_a_state_that_lies_elsewhere_is_asked_for_some_positions_at_a_time() -> None:
    layout = LAYOUTS["updatable", "inverse-factor"]
    arrays = stored(layout, SIZES)
    given = {name: array for name, array in arrays.items() if name != layout.array}
    moments = layout.restore(SIZES, [arrays[layout.array]], given, {"count": jnp.float32(7)})

    class Elsewhere:
        def __getitem__(self, positions: slice):
            return moments.scatter[positions]

    packed = layout.arrays(replace(moments, scatter=Elsewhere()))[layout.array]
    assert packed.shape == arrays[layout.array].shape
    np.testing.assert_array_equal(packed[1:3], arrays[layout.array][1:3])
