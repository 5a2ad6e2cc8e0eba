"""Networks that methods train: Flax NNX modules whose parameters are kept apart, as arrays by path."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from weights_conversion import flatten, unflatten

Parameters = Mapping[str, Array]
Layers = Sequence[tuple[int, int, int]]  # channels, side of the kernel, stride


@dataclass(frozen=True)
class Network:
    """How a network is made; static, so that programs which differ in nothing else are compiled once.

    Attributes:
      build: gives the module, from ``shape`` and the keys of its first weights.
      shape: what ``build`` has to know; hashable.
    """

    build: Callable[[Any, nnx.Rngs], nnx.Module]
    shape: Any

    def draw(self, key: Key[Array, ""]) -> dict[str, Array]:
        """First parameters by path: kernels from N(0, 2 / inputs) (arXiv 1502.01852), biases 0 and scales 1.

        All come from one draw: a program for each of many shapes would take a minute to compile.
        """
        shapes = {path: leaf.shape for path, leaf in flatten(nnx.to_pure_dict(_abstract(self)[1])).items()}
        total = sum(math.prod(shape) for shape in shapes.values())
        normal, first, parameters = np.asarray(jax.random.normal(key, (total,))), 0, dict[str, np.ndarray]()
        for path in sorted(shapes):
            shape = shapes[path]
            last = first + math.prod(shape)
            if path.endswith("kernel"):
                spread = np.float32(math.sqrt(2 / math.prod(shape[:-1])))
                parameters[path] = spread * normal[first:last].reshape(shape)
            else:
                parameters[path] = np.full(shape, path.endswith("scale"), np.float32)
            first = last
        return jax.device_put(parameters)

    def holding(self, parameters: Parameters) -> Any:
        """The module with these parameters; it is to be made and used within one function.

        Raises:
          ValueError: naming a parameter that is missing, left over, or of another shape.
        """
        graph, state = _abstract(self)
        wanted = {path: leaf.shape for path, leaf in flatten(nnx.to_pure_dict(state)).items()}
        if found := sorted(wanted.keys() ^ parameters.keys()):
            raise ValueError(f"parameter {found[0]} is {'missing' if found[0] in wanted else 'not of this network'}")
        for path, shape in wanted.items():
            if parameters[path].shape != shape:
                raise ValueError(f"parameter {path} is {parameters[path].shape}, wanted {shape}")
        state = nnx.clone(state)
        nnx.replace_by_pure_dict(state, unflatten(parameters))
        return nnx.merge(graph, state)


@functools.lru_cache(maxsize=64)
def _abstract(network: Network) -> tuple[Any, Any]:
    """Structure and shapes, with nothing allocated."""
    return nnx.split(nnx.eval_shape(lambda: network.build(network.shape, nnx.Rngs(0))))


def as_values(images: Array) -> Float[Array, "n h w 3"]:
    """Values from 0 to 1 of uint8 images; float32 ones are that already."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def leaky(x: Array) -> Array:
    """Leaky ReLU of slope 0.2."""
    return jax.nn.leaky_relu(x, 0.2)


def normalise(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Activations of each image less their mean, over their standard deviation, four channels or more at a time.

    Group normalisation (arXiv 1803.08494) without a scale or an offset to be learnt.
    """
    n, height, width, channels = x.shape
    groups = math.gcd(channels // 4 or 1, 8)
    groups = groups if channels % groups == 0 else 1
    parts = x.reshape(n, height * width, groups, channels // groups)
    centred = parts - jnp.mean(parts, axis=(1, 3), keepdims=True)
    spread = jnp.sqrt(jnp.mean(centred**2, axis=(1, 3), keepdims=True) + 1e-5)
    return (centred / spread).reshape(x.shape)


class Encoder(nnx.Module):
    """Convolutions with leaky ReLUs behind them; a stride of 2 halves the sides, rounded up.

    Where it is ``normalised``, all layers but the first one are, as in DCGAN.
    """

    def __init__(self, channels: int, layers: Layers, rngs: nnx.Rngs, *, normalised: bool = False) -> None:
        self.normalised = normalised
        convolutions = []
        for out, side, stride in layers:
            convolutions.append(nnx.Conv(channels, out, (side, side), stride, rngs=rngs))
            channels = out
        self.convolutions = nnx.List(convolutions)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n _h _w d"]:
        """Activations behind the last leaky ReLU."""
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = leaky(normalise(x) if self.normalised and index > 0 else x)
        return x


class Decoder(nnx.Module):
    """The mirror image of an :class:`Encoder`: transposed convolutions where that has strides; ends without a ReLU."""

    def __init__(
        self, channels: int, layers: Layers, size: tuple[int, int], rngs: nnx.Rngs, *, normalised: bool = False
    ) -> None:
        self.normalised = normalised
        outs = [channels, *(out for out, _, _ in layers)][:-1]
        self.sizes = grids(layers, size)[-2::-1]
        convolutions = []
        for (wide, side, stride), out in zip(reversed(layers), reversed(outs), strict=True):
            kind = nnx.Conv if stride == 1 else nnx.ConvTranspose
            convolutions.append(kind(wide, out, (side, side), (stride, stride), rngs=rngs))
        self.convolutions = nnx.List(convolutions)

    def __call__(self, x: Float[Array, "n _h _w d"]) -> Float[Array, "n h w c"]:
        """Of the encoder's input's size; sides that halving rounded up are cut off again."""
        for index, (convolution, size) in enumerate(zip(self.convolutions, self.sizes, strict=True)):
            x = convolution(x)[:, : size[0], : size[1]]
            if index + 1 < len(self.sizes):
                x = leaky(normalise(x) if self.normalised else x)
        return x


def grids(layers: Layers, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(height, width) of an encoder's input and behind each of its layers."""
    found = [size]
    for _, _, stride in layers:
        found.append((-(-found[-1][0] // stride), -(-found[-1][1] // stride)))
    return tuple(found)


def halving_layers(size: tuple[int, int], width: int) -> Layers:
    """Channels, kernel and stride of convolutions that halve an image until 4 cells are left, each twice as wide."""
    layers = [(width, 4, 2)]
    while min(grids(layers, size)[-1]) > 4:
        layers.append((2 * layers[-1][0], 4, 2))
    return tuple(layers)
