"""Convolutions by whatever program the platform takes, against sums written out in float64."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.backbones import Backbone, winograd
from padim_jax.backbones.layers import Conv, pad


def direct(x: np.ndarray, conv: Conv) -> np.ndarray:
    """The sum of products of each output."""
    kernel, size, stride = np.asarray(conv.kernel[...], np.float64), conv.kernel.shape[0], conv.stride
    sides = [pad(length, size, stride, conv.tf_same) for length in x.shape[1:3]]
    padded = np.pad(x.astype(np.float64), [(0, 0), *sides, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    if conv.groups > 1:
        return np.einsum("nhwcij,ijc->nhwc", windows, kernel[:, :, 0]) + np.asarray(conv.bias[...])
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel) + np.asarray(conv.bias[...])


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 7, 8, 14])
@pytest.mark.parametrize("width", [9, 10])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "rows": 2},
        {"kernel_size": 3, "rows": 4},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 3, "stride": 2, "tf_same": True},
        {"kernel_size": 5, "groups": 6},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 7, "stride": 2},
        {"kernel_size": 7, "stride": 2, "channels_in": 3},
        {"kernel_size": 3, "stride": 2, "channels_in": 3, "tf_same": True},
        {"kernel_size": 3, "stride": 1, "channels_in": 3},
    ],
    ids=str,
)
def test_every_convolution_is_the_sum_it_stands_for(height: int, width: int, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(height)
    sizes: dict[str, Any] = {"channels_in": 6, "channels_out": 6}
    conv = Conv(**(sizes | settings))
    conv.kernel[...] = jnp.asarray(rng.standard_normal(conv.kernel.shape), jnp.float32)
    conv.bias[...] = jnp.asarray(rng.standard_normal(6), jnp.float32)
    x = rng.standard_normal((2, height, width, settings.get("channels_in", 6))).astype(np.float32)
    wanted = direct(x, conv)
    # the transforms of F(4, 3) multiply by up to 8, so their sums are rounded at a larger scale, by machines differently
    atol = 4e-5 if settings.get("rows") == 4 else 2e-5
    np.testing.assert_allclose(conv(jnp.asarray(x)), wanted, atol=atol)
    if conv.groups == 1:
        chosen = np.array([5, 0, 2])
        np.testing.assert_allclose(conv(jnp.asarray(x), chosen), wanted[..., chosen], atol=atol)


@pytest.mark.parametrize("rows", [2, 4])
def test_a_kernel_is_prepared_alike_on_host_and_device(rows: winograd.Rows) -> None:
    kernel = np.random.default_rng(0).standard_normal((3, 3, 5, 7)).astype(np.float32)
    here, there = winograd.prepare(kernel, rows), winograd.prepare(jnp.asarray(kernel), rows)
    assert len(here) == len(there) == rows + 2
    for one, other in zip(here, there, strict=True):
        assert isinstance(one, np.ndarray)
        assert one.shape == (5, 3, 7)
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2", "efficientnet_lite0"])
@pytest.mark.slow
def test_chosen_channels_are_those_of_the_whole(name: str) -> None:
    backbone = padim.load_backbone(name, weights="random")
    x = np.random.default_rng(0).standard_normal((1, 48, 32, 3)).astype(np.float32)
    whole = padim.extract(backbone, x)
    chosen = {tap: np.array([0, 3, values.shape[-1] - 1]) for tap, values in whole.items()}
    found = backbone(jnp.asarray(x), chosen)
    assert found.keys() == whole.keys()
    for tap, channels in chosen.items():
        wanted = np.asarray(whole[tap])[..., channels]
        np.testing.assert_allclose(found[tap], wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
def test_backbone_without_prepared_kernels_is_the_same() -> None:
    backbone = padim.load_backbone("resnet18", weights="random")
    assert backbone.prepared  # here; another platform wants none
    plain = Backbone(backbone.parameters, {}, backbone.spec, backbone.weights_digest)
    x = np.random.default_rng(0).standard_normal((1, 32, 48, 3)).astype(np.float32)
    one, other = padim.extract(backbone, x), padim.extract(plain, x)
    for tap, values in one.items():
        np.testing.assert_allclose(values, other[tap], atol=1e-5 * np.abs(np.asarray(values)).max())
