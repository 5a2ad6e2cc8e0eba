"""The frozen network as PaDiM uses it: a pytree that maps images to named activations."""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from padim_jax.backbones.efficientnet import EfficientNet
from padim_jax.backbones.layers import Images
from padim_jax.backbones.resnet import ResNet
from padim_jax.backbones.spec import BackboneSpec, backbone_spec
from weights_conversion import ARCHITECTURES, ConversionError, flatten
from weights_conversion.architectures import ResNetShape


class Backbone(nnx.Module):
    """A truncated network with its facts.

    Attributes:
      network: the Flax module; its parameters are the leaves of this pytree.
      spec: static facts (taps, pixel statistics).
      weights_digest: SHA-256 over all parameters by path, in hex; tells equal weights from others.
    """

    def __init__(self, network: ResNet | EfficientNet, spec: BackboneSpec, weights_digest: str) -> None:
        self.network = network
        self.spec = spec
        self.weights_digest = weights_digest

    def __call__(self, images: Float[Array, "n h w 3"], taps: tuple[str, ...]) -> dict[str, Images]:
        """Activations of ``taps`` by name; :func:`extract` is the checked, compiled way."""
        return self.network(images, taps)


def extract(
    backbone: Backbone, images: Float[Array | np.ndarray, "n h w 3"], taps: tuple[str, ...] | None = None
) -> dict[str, Images]:
    """Activations of the tapped layers.

    Args:
      backbone: from :func:`load_backbone`.
      images: normalised float32 RGB, ``(pixel / 255 - spec.mean) / spec.std``; any height and width.
      taps: names from ``backbone.spec.taps``; None takes ``backbone.spec.default_taps`` (PaDiM section IV-B).

    Returns:
      ``{tap name: (n, ceil(h / stride), ceil(w / stride), channels)}``, in network order.

    Raises:
      TypeError: images that are not floating point.
      ValueError: unknown tap, or images of another shape.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"extract: images must be (n, height, width, 3), got {tuple(images.shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"extract: images must be normalised float32, got {images.dtype}")
    names = tuple(tap.name for tap in backbone.spec.select(taps))
    found = _extract(backbone, jnp.asarray(images, jnp.float32), names)
    return {name: found[name] for name in names}  # jit sorts dictionaries by name


@functools.partial(jax.jit, static_argnames="taps")
def _extract(backbone: Backbone, images: Float[Array, "n h w 3"], taps: tuple[str, ...]) -> dict[str, Images]:
    return backbone(images, taps)


def build_backbone(name: str, parameters: Mapping[Any, Any]) -> Backbone:
    """The Flax module of backbone ``name`` holding ``parameters``.

    Args:
      name: one of ``BACKBONES``.
      parameters: nested dict as :func:`weights_conversion.convert` gives it.

    Raises:
      ConversionError: naming every path that is missing, left over or has another shape.
    """
    given = flatten(parameters)
    wanted = {path: leaf.shape for path, leaf in flatten(nnx.to_pure_dict(_abstract(name)[1])).items()}
    faults = {
        "missing": [path for path in wanted if path not in given],
        "left-over": [path for path in given if path not in wanted],
        "wrong-shaped": [
            f"{path} is {given[path].shape}, wanted {shape}"
            for path, shape in wanted.items()
            if path in given and given[path].shape != shape
        ],
    }
    if any(faults.values()):
        raise ConversionError(name, faults)
    graph, state = _abstract(name)
    nnx.replace_by_pure_dict(state, _to_device(parameters))
    return Backbone(nnx.merge(graph, state), backbone_spec(name), parameters_digest(given))


def backbone_parameters(backbone: Backbone) -> dict[str, np.ndarray]:
    """Parameters of ``backbone`` on the host by path, the inverse of :func:`build_backbone`."""
    return {path: np.asarray(leaf) for path, leaf in flatten(nnx.to_pure_dict(nnx.state(backbone.network))).items()}


def parameters_digest(flat: Mapping[str, Any]) -> str:
    """SHA-256 in hex over paths, shapes and little-endian float32 values, in sorted order of paths."""
    digest = hashlib.sha256()
    for path in sorted(flat):
        array = np.ascontiguousarray(flat[path], "<f4")
        digest.update(f"{path}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _abstract(name: str) -> tuple[Any, Any]:
    """Structure and shapes of the network, with nothing allocated; the state is a fresh copy."""
    graph, state = _abstract_once(name)
    return graph, nnx.clone(state)


@functools.cache
def _abstract_once(name: str) -> tuple[Any, Any]:
    shape = ARCHITECTURES[backbone_spec(name).name]
    network = nnx.eval_shape(lambda: ResNet(shape) if isinstance(shape, ResNetShape) else EfficientNet(shape))
    return nnx.split(network)


def _to_device(tree: Mapping[Any, Any]) -> dict[Any, Any]:
    """All at once: one by one each shape would compile a program to copy it."""
    return jax.device_put(_plain(tree))


def _plain(tree: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: _plain(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
