"""How embeddings in integers lie in a graph, and how a runtime multiplies them by matrices, one for each position."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int8

from padim_jax.export.graph import Graph


class Rows(ABC):
    """A layout of embeddings of three axes, the last of channels.

    Attributes:
      axis: which of the other two counts images.
    """

    axis: ClassVar[int]

    @abstractmethod
    def multiply(self, graph: Graph, x: str, values: Int8[np.ndarray, "p k w"]) -> str:
        """Products of rows x with the matrices, in the same layout: integers, as float32."""

    @abstractmethod
    def lay(self, values: Float[np.ndarray, "p k"]) -> np.ndarray:
        """Numbers of each position, as they lie beside embeddings."""

    @abstractmethod
    def sum_up(self, graph: Graph, products: str, width: int, digits: Sequence[float], parts: Sequence[float]) -> str:
        """The sum of products that belong together, weighted: of all images for each digit, ``width`` for each part."""

    @abstractmethod
    def by_position(self, graph: Graph, values: str) -> str:
        """Numbers of two axes as (p, n)."""

    def fill(self, values: Any) -> Any:
        """Matrices with as many columns as the product needs, of zeros."""
        return values


class PositionsFirst(Rows):
    """(p, n, d), a batch of matrices: the fastest way in ONNX Runtime."""

    axis = 1

    def multiply(self, graph: Graph, x: str, values: Int8[np.ndarray, "p k w"]) -> str:
        """As a product of matrices."""
        return graph.add("MatMul", x, _stored(graph, values))

    def lay(self, values: Float[np.ndarray, "p k"]) -> np.ndarray:
        """(p, 1, k)."""
        return values[:, None]

    def sum_up(self, graph: Graph, products: str, width: int, digits: Sequence[float], parts: Sequence[float]) -> str:
        """(p, digits · n, parts · w) to (p, n, w)."""
        each = graph.reshape(products, [0, len(digits), -1, len(parts), width])
        worth = np.outer(digits, parts)[None, :, None, :, None]
        return _weighted_sum(graph, each, worth, [1, 3])

    def by_position(self, graph: Graph, values: str) -> str:
        """As they are."""
        return values


class ImagesFirst(Rows):
    """(n, p, d), the channels of one convolution whose groups are the positions: the fastest way in OpenVINO.

    That takes half the time of a batch of matrices there, but only where the number of images is fixed: OpenVINO knows
    then that channels lie as the convolution needs them, and moves nothing. Where any number is taken it does, which
    takes longer than it saves.
    """

    axis = 0
    _ROWS, _COLUMNS = 4, 16  # of matrices: whole numbers of these are fast

    def __init__(self, n_positions: int) -> None:
        """Of so many positions, each with a matrix of its own."""
        self._p = n_positions

    def multiply(self, graph: Graph, x: str, values: Int8[np.ndarray, "p k w"]) -> str:
        """As a convolution; images lie along its width, so that a matrix is read once for all of them."""
        p, k, w = values.shape
        if missing := -k % self._ROWS:
            x = graph.add("Pad", x, graph.integers([0, 0, 0, 0, 0, missing]))
            values = np.pad(values, [(0, 0), (0, missing), (0, 0)])
        channels = p * values.shape[1]
        planes = graph.add("Transpose", graph.reshape(x, [1, 1, -1, channels]), perm=[0, 3, 1, 2])
        kernel = _stored(graph, values.swapaxes(1, 2).reshape(p * w, -1, 1, 1))
        found = graph.add("Conv", planes, kernel, group=p, kernel_shape=[1, 1])
        return graph.reshape(graph.add("Transpose", found, perm=[0, 2, 3, 1]), [-1, p, w])

    def lay(self, values: Float[np.ndarray, "p k"]) -> np.ndarray:
        """(1, p, k)."""
        return values[None]

    def sum_up(self, graph: Graph, products: str, width: int, digits: Sequence[float], parts: Sequence[float]) -> str:
        """(digits · n, p, parts · w) to (n, p, w)."""
        each = graph.reshape(products, [len(digits), -1, self._p, len(parts), width])
        worth = np.outer(digits, parts)[:, None, None, :, None]
        return _weighted_sum(graph, each, worth, [0, 3])

    def by_position(self, graph: Graph, values: str) -> str:
        """Of (n, p)."""
        return graph.swap(values, [1, 0], [self._p, -1])

    def fill(self, values: Any) -> Any:
        """Matrices of whole numbers of columns."""
        return np.pad(values, [(0, 0), (0, 0), (0, -values.shape[2] % self._COLUMNS)])


def _stored(graph: Graph, values: np.ndarray) -> str:
    zero = graph.constant(0, "zero", np.int8)
    return graph.add("DequantizeLinear", graph.constant(values, "panel", np.int8), graph.constant(1.0), zero)


def _weighted_sum(graph: Graph, values: str, worth: np.ndarray, axes: Sequence[int]) -> str:
    weighted = graph.add("Mul", values, graph.constant(worth, "worth"))
    return graph.add("ReduceSum", weighted, graph.integers(axes), keepdims=0)
