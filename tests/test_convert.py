"""Conversion: batch norm folded exactly, every entry accounted for."""

import numpy as np
import pytest

from padim_jax.backbones import BACKBONES, build_backbone
from tests.test_checkpoint import random_state_dict
from weights_conversion import ARCHITECTURES, ConversionError, convert, flatten, identify, unflatten


@pytest.mark.parametrize("name", BACKBONES)
def test_tree_fits_the_module_and_every_entry_is_used(name: str) -> None:
    tree = convert(name, random_state_dict(name))
    build_backbone(name, tree)  # raises unless paths and shapes agree both ways
    without_extras = convert(name, random_state_dict(name, extra=False))
    for path, array in flatten(tree).items():
        np.testing.assert_array_equal(array, flatten(without_extras)[path])
        assert array.dtype == np.float32


def test_fold_is_convolution_then_batch_norm() -> None:
    state = random_state_dict("resnet18")
    tree = convert("resnet18", state)
    x = np.random.default_rng(0).normal(size=(3, 7, 7))  # one output pixel's window, channels first
    raw = np.einsum("ihw,oihw->o", x, state["conv1.weight"].astype(np.float64))
    scale = state["bn1.weight"] / np.sqrt(state["bn1.running_var"] + 1e-5)
    wanted = (raw - state["bn1.running_mean"]) * scale + state["bn1.bias"]
    folded = np.einsum("ihw,hwio->o", x, tree["conv1"]["kernel"]) + tree["conv1"]["bias"]
    np.testing.assert_allclose(folded, wanted, rtol=1e-5, atol=1e-5)


def test_all_faults_come_in_one_error() -> None:
    state = random_state_dict("resnet18")
    del state["layer1.0.conv1.weight"], state["bn1.bias"]
    state["stranger.weight"] = np.zeros(2, np.float32)
    state["layer2.0.bn1.bias"] = np.zeros(5, np.float32)
    state["layer3.0.conv1.weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(ConversionError) as caught:
        convert("resnet18", state)
    assert caught.value.faults == {
        "missing": ["bn1.bias", "layer1.0.conv1.weight"],
        "left-over": ["stranger.weight"],
        "wrong-shaped": ["layer2.0.bn1.bias is (5,), wanted (128,)"],
        "non-finite": ["layer3.0.conv1.weight"],
    }
    assert "2 missing, 1 left-over, 1 wrong-shaped, 1 non-finite" in str(caught.value)
    assert "stranger.weight" in str(caught.value)


def test_integers_and_stray_counters_are_refused() -> None:
    state = random_state_dict("resnet18")
    state["conv1.weight"] = state["conv1.weight"].astype(np.int8)
    state["stray.num_batches_tracked"] = np.array(1)
    with pytest.raises(ConversionError) as caught:
        convert("resnet18", state)
    assert caught.value.faults["not floating-point"] == ["conv1.weight is int8"]
    assert caught.value.faults["left-over"] == ["stray.num_batches_tracked"]


def test_negative_variance_is_an_error() -> None:
    state = random_state_dict("resnet18")
    state["bn1.running_var"][0] = -1
    with pytest.raises(ConversionError, match=r"conv1\.kernel"):
        convert("resnet18", state)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ConversionError, match="resnet50"):
        convert("resnet50", random_state_dict("resnet18"))
    with pytest.raises(ConversionError, match="wrong-shaped"):
        convert("resnet50", random_state_dict("wide_resnet50_2"))


def test_module_refuses_another_tree() -> None:
    tree = convert("resnet18", random_state_dict("resnet18"))
    tree["conv1"]["kernel"] = tree["conv1"]["kernel"][:3]
    del tree["layer1"][0]["conv1"]["bias"]
    with pytest.raises(ConversionError) as caught:
        build_backbone("resnet18", tree)
    assert caught.value.faults["missing"] == ["layer1.0.conv1.bias"]
    assert caught.value.faults["wrong-shaped"] == ["conv1.kernel is (3, 7, 3, 64), wanted (7, 7, 3, 64)"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_identify(name: str) -> None:
    state = random_state_dict(name)
    assert identify(state) == name
    assert identify(flatten(convert(name, state))) == name


def test_identify_says_when_none_fits() -> None:
    with pytest.raises(ValueError, match="weights of none of resnet18"):
        identify({"a": np.zeros(3)})


def test_unknown_backbone() -> None:
    with pytest.raises(ValueError, match="unknown backbone 'vgg'; choose one of efficientnet_b5"):
        convert("vgg", {})


def test_flatten_round_trip() -> None:
    tree = {"a": {0: {"kernel": 1}, 1: {"kernel": 2}}, "b": {"bias": 3}}
    assert flatten(tree) == {"a.0.kernel": 1, "a.1.kernel": 2, "b.bias": 3}
    assert unflatten(flatten(tree)) == tree
