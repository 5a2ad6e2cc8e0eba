"""A network of the user's own as a backbone: any callable from images to named activations."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from padim_jax.backbones.backbone import Backbone, parameters_digest
from padim_jax.backbones.layers import Images, Taps, select_channels
from padim_jax.backbones.spec import BACKBONES, BackboneSpec, Tap

Function = Callable[[Any, Any], Mapping[str, Any]]  # parameters, images (n, h, w, 3): activations by tap


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("parameters", "prepared"),
    meta_fields=("spec", "weights_digest", "function"),
)
@dataclass(frozen=True, eq=False, repr=False)
class OwnBackbone(Backbone):
    """A backbone whose activations a function of the user's computes.

    Attributes:
      function: from parameters and images to activations by tap; static, compared by identity.
    """

    function: Function = dataclasses.field(kw_only=True)

    def __call__(self, images: Float[Array, "n h w 3"], taps: Taps) -> dict[str, Images]:
        """Activations of ``taps`` by name."""
        activations = self.function(self.parameters, images)
        return {name: select_channels(activations[name], channels) for name, channels in taps.items()}

    def grid(self, taps: tuple[Tap, ...], size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in cells of the finest of ``taps``, for images of ``size``."""
        shapes = _shapes(self.function, self.parameters, size)
        for tap in taps:
            if tap.name not in shapes or shapes[tap.name][-1] != tap.channels:
                raise ValueError(
                    f"backbone {self.spec.name!r}: tap {tap.name!r} had {tap.channels} channels when own_backbone "
                    f"looked at it, and has the shape {shapes.get(tap.name)} for images of {size}; activations must be "
                    "(n, h, w, channels), channels last"
                )
        return max(shapes[tap.name][1] for tap in taps), max(shapes[tap.name][2] for tap in taps)


def own_backbone(
    name: str,
    network: Function | nnx.Module,
    parameters: Any = None,
    *,
    image_size: int | tuple[int, int] = 224,
    default_taps: tuple[str, ...] | None = None,
    default_channels: int = 100,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Backbone:
    """Take a network of your own as a backbone: fit, score, calibrate, extract and :class:`PadimDetector` accept it.

    The network maps images (n, H, W, 3), float32 ``(pixel / 255 - mean) / std``, to ``{tap: (n, h, w, channels)}``, in
    pure JAX. It is asked for shapes here and at the first use of another image size; grids may differ between taps.

    A model is tied to ``name`` and to a digest of the parameters, so that moments of other weights are refused. The
    digest does not see the code, nor arrays that it closes over: give those as parameters. :func:`padim_jax.save`
    refuses such models, because code can't be stored; moments are arrays, which NumPy keeps:

    >>> def network(parameters, images):
    ...     cells = jax.lax.reduce_window(images, 0.0, jax.lax.add, (1, 4, 4, 1), (1, 4, 4, 1), "valid")
    ...     return {"colours": cells @ parameters["mix"]}
    >>> mix = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    >>> backbone = padim.own_backbone("colours-4", network, {"mix": mix}, image_size=(32, 48))
    >>> backbone.spec.taps
    (Tap(name='colours', channels=8, stride=4),)
    >>> settings = padim.PadimConfig(image_size=(32, 48), crop_size=(32, 48))
    >>> moments = padim.update(backbone, padim.init(backbone, settings), good_images)
    >>> np.savez(folder / "moments.npz", *jax.tree.leaves(moments))
    >>> stored = np.load(folder / "moments.npz")
    >>> structure = jax.tree.structure(padim.init(backbone, settings))
    >>> again = padim.finalize(backbone, jax.tree.unflatten(structure, [jnp.asarray(x) for x in stored.values()]))
    >>> padim.score(again, test_images).image_score.shape
    (2,)

    Args:
      name: what models call it; none of ``BACKBONES``.
      network: ``network(parameters, images)``, such as the ``apply`` of a Flax Linen module; or a Flax NNX module, of
        which a copy is taken and put into evaluation mode.
      parameters: a pytree of floating-point arrays; None for an NNX module, which holds its own.
      image_size: of the images with which taps, channels and strides are found, in pixels; best that of your models.
      default_taps: the taps that are embedded where the settings name none; None for all.
      default_channels: d of the embedding where the settings give none; all channels where there are fewer.
      mean: of pixels in [0, 1], RGB, by which images are normalised.
      std: standard deviation, likewise; without the two, images stay in [0, 1].

    Raises:
      TypeError: parameters that are not floating-point arrays; a network that gives something else than a mapping.
      ValueError: a name of ours, activations of another shape than (n, h, w, channels), an unknown default tap.
    """
    if name in BACKBONES:
        raise ValueError(f"own_backbone: name={name!r} is one of padim_jax.BACKBONES; choose another")
    function = network
    if isinstance(network, nnx.Module):
        if parameters is not None:
            raise TypeError("own_backbone: an NNX module holds its own parameters; leave parameters out")
        function, parameters = _split_module(network)
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(parameters)}
    for path, leaf in flat.items():
        if not jnp.issubdtype(getattr(leaf, "dtype", type(None)), jnp.floating):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(
                f"own_backbone: parameters{path} is {kind}, wanted floating-point arrays; let the network close over "
                "everything else"
            )
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    shapes = _shapes(function, parameters, size)
    taps = tuple(Tap(tap, shape[-1], round(size[0] / shape[1])) for tap, shape in shapes.items())
    defaults = tuple(shapes) if default_taps is None else default_taps
    spec = BackboneSpec(name, taps, defaults, default_channels, mean, std, None, "the user's own")
    spec.select(None)
    return OwnBackbone(jax.tree.map(jnp.asarray, parameters), {}, spec, parameters_digest(flat), function=function)


def _shapes(function: Any, parameters: Any, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the activations of two images by tap, in the network's order."""
    names = list[str]()

    def activations(parameters: Any, images: Array) -> dict[str, Images]:
        taps = function(parameters, images)
        if not isinstance(taps, Mapping) or not taps:
            raise TypeError(
                f"own_backbone: the network gives {type(taps).__name__}, wanted {{tap: (n, h, w, channels)}}"
            )
        names.extend(taps)  # a pytree would sort them
        return dict(taps)

    shapes = jax.eval_shape(activations, parameters, jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
    for name, leaf in shapes.items():
        shape = getattr(leaf, "shape", ())
        if len(shape) != 4 or shape[0] != 2 or 0 in shape or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"own_backbone: for 2 images of {size}, tap {name!r} is {getattr(leaf, 'dtype', '')} {shape}, wanted "
                "floating-point (2, h, w, channels)"
            )
    return {name: shapes[name].shape for name in names}


def _split_module(module: nnx.Module) -> tuple[Function, Any]:
    """A function of parameters and images, and the parameters, of a copy of ``module``."""
    copy = nnx.clone(module)
    copy.eval()  # dropout and batch statistics as in use, not as in training
    graph, random, state = nnx.split(copy, nnx.RngState, ...)

    def function(parameters: Any, images: Array) -> Any:
        filled_state = nnx.clone(state)
        nnx.replace_by_pure_dict(filled_state, parameters)
        return nnx.merge(graph, random, filled_state)(images)

    return function, nnx.to_pure_dict(state)
