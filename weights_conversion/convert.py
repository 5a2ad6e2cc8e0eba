"""Pure conversion: a source state dict to the parameter tree of the Flax module."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from weights_conversion.architectures import ARCHITECTURES
from weights_conversion.names import ConvRow, Table, table


class ConversionError(ValueError):
    """The entries do not make up the weights of the wanted backbone.

    The first line of the message sums up, and the lines after it name every faulty entry.
    """

    def __init__(self, backbone_name: str, faults: Mapping[str, list[str]]) -> None:
        self.backbone_name = backbone_name
        self.faults = {kind: entries for kind, entries in faults.items() if entries}
        counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in self.faults.items())
        lines = [f"  {kind}: {entry}" for kind, entries in self.faults.items() for entry in entries]
        first = f"convert({backbone_name!r}): the state dict does not fit this backbone: {counts} entries"
        super().__init__("\n".join([first, *lines]))


def convert(backbone_name: str, state_dict: Mapping[str, np.ndarray]) -> dict[Any, Any]:
    """Convert ``state_dict`` to the parameter tree of backbone ``backbone_name``.

    Each batch norm is folded into the convolution before it, in float64:
    ``kernel = weight · γ / sqrt(σ² + ε)`` and ``bias = β - μ · γ / sqrt(σ² + ε)``.
    Layers past the last tap, the classifier and ``num_batches_tracked`` are dropped;
    every other entry is used, or it is an error. A state dict that already carries our
    own names (as ``python -m weights_conversion`` writes them) passes through checked.

    Args:
      backbone_name: one of ``weights_conversion.ARCHITECTURES``.
      state_dict: source entries by name; kernels (out, in / groups, kh, kw), any float dtype.

    Returns:
      Nested dict of float32 arrays; list positions are int keys, leaves are
      ``kernel`` (kh, kw, in / groups, out) and ``bias`` (out,).

    Raises:
      ConversionError: naming every missing, left-over, wrong-shaped and non-finite entry.
      ValueError: for an unknown backbone.
    """
    rules = table(backbone_name)
    converted = any(name.endswith(".kernel") for name in state_dict)
    expected: dict[str, tuple[int, ...]] = {}
    for row in rules.rows:
        expected |= row.target_shapes() if converted else row.source_shapes()
    _check(backbone_name, rules, expected, state_dict)
    flat: dict[str, np.ndarray] = {}
    for row in rules.rows:
        if converted:
            flat |= {path: np.asarray(state_dict[path], np.float32) for path in row.target_shapes()}
        else:
            flat |= _fold(row, state_dict, rules.norm_epsilon)
    broken = [path for path, array in flat.items() if not np.isfinite(array).all()]
    if broken:
        raise ConversionError(backbone_name, {"not finite in float32 once batch norm is folded in": broken})
    return unflatten(flat)


def identify(state_dict: Mapping[str, np.ndarray]) -> str:
    """Name of the one backbone whose every entry is in ``state_dict`` with the right shape.

    Raises:
      ValueError: when none fits.
    """
    shapes = {name: np.shape(array) for name, array in state_dict.items()}
    for backbone_name in ARCHITECTURES:
        rows = table(backbone_name).rows
        for shapes_of in (ConvRow.source_shapes, ConvRow.target_shapes):
            if all(shapes.get(name) == shape for row in rows for name, shape in shapes_of(row).items()):
                return backbone_name
    raise ValueError(
        f"identify: these {len(shapes)} entries are the weights of none of {', '.join(ARCHITECTURES)}; "
        "name the backbone to see what differs"
    )


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict to ``{"layer1.0.conv1.kernel": leaf}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[Any, Any]:
    """Inverse of :func:`flatten`; numeric parts of a path become int keys."""
    tree: dict[Any, Any] = {}
    for path, leaf in flat.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def _check(
    backbone_name: str, rules: Table, expected: Mapping[str, tuple[int, ...]], state_dict: Mapping[str, np.ndarray]
) -> None:
    present = [name for name in expected if name in state_dict]
    faults = {
        "missing": [name for name in expected if name not in state_dict],
        "left-over": [name for name in state_dict if name not in expected and not rules.drops(name)],
        "wrong-shaped": [
            f"{name} is {np.shape(state_dict[name])}, wanted {expected[name]}"
            for name in present
            if np.shape(state_dict[name]) != expected[name]
        ],
        "not floating-point": [
            f"{name} is {np.asarray(state_dict[name]).dtype}"
            for name in present
            if not np.issubdtype(np.asarray(state_dict[name]).dtype, np.floating)
        ],
        "non-finite": [name for name in present if not np.isfinite(np.asarray(state_dict[name], np.float64)).all()],
    }
    if any(faults.values()):
        raise ConversionError(backbone_name, faults)


def _fold(row: ConvRow, source: Mapping[str, np.ndarray], epsilon: float) -> dict[str, np.ndarray]:
    weight = np.asarray(source[f"{row.source}.weight"], np.float64)
    if row.norm is None:
        bias = np.asarray(source[f"{row.source}.bias"], np.float64)
    else:
        gamma, beta, mean, variance = (
            np.asarray(source[f"{row.norm}.{field}"], np.float64)
            for field in ("weight", "bias", "running_mean", "running_var")
        )
        with np.errstate(invalid="ignore", divide="ignore"):  # a negative variance is reported by path afterwards
            scale = gamma / np.sqrt(variance + epsilon)
        weight, bias = weight * scale[:, None, None, None], beta - mean * scale
    return {
        f"{row.path}.kernel": np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float32),
        f"{row.path}.bias": bias.astype(np.float32),
    }
