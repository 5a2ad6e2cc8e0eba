"""The frozen network as PaDiM uses it: a pytree that maps images to named activations."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from padim_jax.backbones import brief
from padim_jax.backbones.efficientnet import EfficientNet
from padim_jax.backbones.layers import Conv, Images, Taps
from padim_jax.backbones.resnet import ResNet
from padim_jax.backbones.spec import BackboneSpec, Tap, backbone_spec
from weights_conversion import ARCHITECTURES, ConversionError, flatten
from weights_conversion.architectures import ResNetShape


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("parameters", "prepared"),
    meta_fields=("spec", "weights_digest"),
)
@dataclass(frozen=True, eq=False)
class Backbone:
    """A truncated network with its facts.

    A pytree of plain dictionaries around the Flax module: a call flattens it in a tenth of the time of the module.

    Attributes:
      parameters: nested dictionaries of float32 arrays, as :func:`build_backbone` takes them.
      prepared: kernels by path, in the parts that a CPU multiplies by; empty elsewhere (:meth:`Conv.prepare`).
      spec: static facts (taps, pixel statistics).
      weights_digest: SHA-256 over all parameters by path, in hex; tells equal weights from others.

    >>> backbone = padim.load_backbone("efficientnet_lite0")
    >>> backbone.spec.select(("block2",))
    (Tap(name='block2', channels=24, stride=4),)
    """

    parameters: Mapping[Any, Any]
    prepared: Mapping[str, tuple[Array, ...]]
    spec: BackboneSpec
    weights_digest: str

    def __repr__(self) -> str:
        return brief.line(
            self,
            lambda: self.spec.name,
            lambda: f"weights {self.weights_digest[:8]}",
            lambda: f"{sum(leaf.size for leaf in jax.tree.leaves(self.parameters)) / 1e6:.2f} million parameters",
            lambda: f"default taps {', '.join(self.spec.default_taps)}",
        )

    @property
    def network(self) -> ResNet | EfficientNet:
        """The Flax module, holding these parameters."""
        graph, state = _abstract(self.spec.name)
        nnx.replace_by_pure_dict(state, dict(self.parameters))
        network = nnx.merge(graph, state)
        for path, conv in _convolutions(network).items():
            if path in self.prepared:
                conv.prepared = nnx.data(self.prepared[path])
        return network

    def __call__(self, images: Float[Array, "n h w 3"], taps: Taps) -> dict[str, Images]:
        """Activations of ``taps`` by name; :func:`extract` is the checked, compiled way."""
        return self.network(images, taps)

    def grid(self, taps: tuple[Tap, ...], size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in cells of the finest of ``taps``, for images of ``size``."""
        return self.spec.grid(taps, size)


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

    >>> normalised = (test_images / 255 - backbone.spec.mean) / backbone.spec.std
    >>> padim.extract(backbone, normalised, ("block2",))["block2"].shape
    (2, 8, 12, 24)
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"extract: images must be (n, height, width, 3), got {tuple(images.shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"extract: images must be normalised float32, got {images.dtype}")
    names = tuple(tap.name for tap in backbone.spec.select(taps))
    activations = _extract(backbone, jnp.asarray(images, jnp.float32), names)
    return {name: activations[name] for name in names}  # jit sorts dictionaries by name


@functools.partial(jax.jit, static_argnames="taps")
def _extract(backbone: Backbone, images: Float[Array, "n h w 3"], taps: tuple[str, ...]) -> dict[str, Images]:
    return backbone(images, dict.fromkeys(taps))


def build_backbone(name: str, parameters: Mapping[Any, Any]) -> Backbone:
    """Backbone ``name`` with ``parameters``; where one with the same weights exists, that one.

    Args:
      name: one of ``BACKBONES``.
      parameters: nested dict as :func:`weights_conversion.convert` gives it.

    Raises:
      ConversionError: naming every path that is missing, left over, has another shape or is not finite.
    """
    flat = flatten(parameters)
    expected = {path: leaf.shape for path, leaf in flatten(nnx.to_pure_dict(_abstract(name)[1])).items()}
    faults = {
        "missing": [path for path in expected if path not in flat],
        "left-over": [path for path in flat if path not in expected],
        "wrong-shaped": [
            f"{path} is {flat[path].shape}, wanted {shape}"
            for path, shape in expected.items()
            if path in flat and flat[path].shape != shape
        ],
    }
    if any(faults.values()):
        raise ConversionError(name, faults)
    # a hundred models with the same weights share one network in memory; one a device, as threads may use one each
    key = name, parameters_digest(flat), str(jax.device_put(np.zeros(())).device)
    built = _BUILT.get(key)
    if built is not None:
        return built
    if broken := [path for path, array in flat.items() if not np.isfinite(array).all()]:
        raise ConversionError(name, {"not finite": broken})
    # all to the device at once: one by one, each shape would compile a program to copy it
    on_device, kernels = jax.device_put((_to_dict(parameters), _prepare_kernels(name, flat)))
    return _BUILT.setdefault(key, Backbone(on_device, kernels, backbone_spec(name), key[1]))


_BUILT: WeakValueDictionary[tuple[str, str, str], Backbone] = WeakValueDictionary()


def backbone_parameters(backbone: Backbone) -> dict[str, np.ndarray]:
    """Parameters of ``backbone`` on the host by path, the inverse of :func:`build_backbone`."""
    return {path: np.asarray(leaf) for path, leaf in flatten(backbone.parameters).items()}


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


def _to_dict(tree: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: _to_dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _prepare_kernels(name: str, parameters: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, ...]]:
    """Prepared kernels by path, where the default platform is a CPU."""
    if jax.default_backend() != "cpu":
        return {}
    graph, state = _abstract(name)
    convolutions = _convolutions(nnx.merge(graph, state)).items()
    kernels = {path: conv.prepare(np.asarray(parameters[f"{path}.kernel"])) for path, conv in convolutions}
    return {path: parts for path, parts in kernels.items() if parts}


def _convolutions(network: ResNet | EfficientNet) -> dict[str, Conv]:
    """Convolutions by path."""
    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(network) if isinstance(module, Conv)}
