"""Networks of the user's own: any callable, and Flax modules."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import padim_jax as padim
from padim_jax.artifact.arrays import ArtifactError
from tests import oracle
from tests.conftest import images

CONFIG = padim.PadimConfig(image_size=(21, 30), crop_size=(21, 30), sigma=1)  # 5 rows of cells of 4, and a rest
GOOD = images(12, padim.PadimConfig(image_size=(24, 32), crop_size=(24, 32)))[:, :21, :30]
TEST = GOOD[:3][:, ::-1]
MIX = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


def pooled(x: jax.Array, cell: int) -> jax.Array:
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, cell, cell, 1), (1, cell, cell, 1), "valid")


def network(parameters: Any, x: jax.Array) -> dict[str, jax.Array]:
    return {"second": pooled(x, 4) @ parameters["mix"], "first": pooled(x, 7)}


def own(parameters: Any = None, **settings: Any) -> padim.Backbone:
    chosen: dict[str, Any] = {"image_size": (21, 30)} | settings
    return padim.own_backbone("mine", network, parameters or {"mix": MIX}, **chosen)


def test_taps_are_found() -> None:
    backbone = own(default_taps=("first",))
    assert [(tap.name, tap.channels, tap.stride) for tap in backbone.spec.taps] == [("second", 6, 4), ("first", 3, 7)]
    assert backbone.spec.default_taps == ("first",)
    x = jnp.asarray(GOOD, jnp.float32) / 255
    assert list(padim.extract(backbone, x, ("first", "second"))) == ["second", "first"]
    np.testing.assert_allclose(padim.extract(backbone, x)["first"], pooled(x, 7), rtol=1e-6)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(backbone))


def test_fit_score_and_calibrate_are_the_oracles() -> None:
    backbone = own()
    model = padim.calibrate(padim.fit(backbone, [GOOD], CONFIG), GOOD, false_alarm_rate=0.2)
    assert model.embedding.grid == (5, 7)
    assert model.embedding.dimension == 9
    train, test = (oracle.embeddings(backbone, model.embedding, x) for x in (GOOD, TEST))
    wanted = oracle.anomaly_maps(oracle.distance_grid(train, test, 0.01), CONFIG.crop, 1)
    scores = padim.score(model, TEST)
    np.testing.assert_allclose(scores.anomaly_map, wanted, rtol=5e-3)
    assert scores.anomalous is not None
    detector = padim.PadimDetector(backbone, config=CONFIG).fit(GOOD)
    np.testing.assert_allclose(-detector.score_samples(TEST), scores.image_score, rtol=1e-4)
    again = pickle.loads(pickle.dumps(model))  # its function can be imported
    np.testing.assert_allclose(padim.score(again, TEST).image_score, scores.image_score, rtol=1e-6)


def test_other_weights_are_refused() -> None:
    moments = padim.update(own(), padim.init(own(), CONFIG), GOOD)
    assert own().weights_digest == own().weights_digest
    with pytest.raises(
        ValueError, match=r"update: backbone mine \(weights \w+\) is not the one the moments were begun"
    ):
        padim.update(own({"mix": MIX + 1}), moments, GOOD)


def test_a_flax_module_is_used_as_it_is_in_evaluation() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv = nnx.Conv(3, 4, (3, 3), strides=4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
            return {"conv": self.dropout(self.norm(self.conv(x)))}

    net = Net(nnx.Rngs(0))
    backbone = padim.own_backbone("net", net, image_size=32)
    assert not net.dropout.deterministic  # the user's own is left as it was
    x = jnp.asarray(images(2, padim.PadimConfig(image_size=32, crop_size=32)), jnp.float32)
    wanted = net.conv(x) / np.sqrt(1 + net.norm.epsilon)
    np.testing.assert_allclose(padim.extract(backbone, x)["conv"], wanted, rtol=1e-2, atol=1e-2)
    assert padim.own_backbone("net", Net(nnx.Rngs(1)), image_size=32).weights_digest != backbone.weights_digest


def test_a_linen_module_gives_its_apply() -> None:
    module = linen.Conv(5, (3, 3), strides=2)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    backbone = padim.own_backbone("linen", lambda v, x: {"conv": module.apply(v, x)}, variables, image_size=32)
    assert backbone.spec.taps[0].channels == 5


def test_saving_is_refused_in_words(tmp_path: Path) -> None:
    model = padim.fit(own(), [GOOD], CONFIG)
    with pytest.raises(ArtifactError, match=r"backbone 'mine' is your own, .* as the docstring of padim_jax.own_backb"):
        padim.save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: padim.own_backbone("resnet18", network, {"mix": MIX}), ValueError, "name='resnet18' is one of padim_jax"),
        (lambda: padim.own_backbone("a", lambda p, x: x, {}), TypeError, r"the network gives \w+, wanted {tap: \(n, h"),
        (lambda: padim.own_backbone("a", lambda p, x: {"t": x.mean((1, 2))}, {}), ValueError, r"tap 't' is float32 \(2, 3\)"),
        (lambda: padim.own_backbone("a", lambda p, x: {"t": x > 0}, {}), ValueError, "tap 't' is bool"),
        (lambda: padim.own_backbone("a", network, {"mix": MIX.astype(int)}), TypeError, r"parameters\['mix'\] is int64, wanted"),
        (lambda: padim.own_backbone("a", network, {"mix": "mix"}), TypeError, r"parameters\['mix'\] is str"),
        (lambda: own(default_taps=("third",)), ValueError, "unknown tap 'third'; backbone 'mine' has second, first"),
        (lambda: padim.own_backbone("a", nnx.Linear(3, 4, rngs=nnx.Rngs(0)), {}), TypeError, "holds its own parameters"),
        (lambda: padim.init(padim.own_backbone("a", lambda p, x: {"t": x.transpose(0, 3, 1, 2)}, {}), CONFIG), ValueError, "tap 't' had 224 channels when own_backbone looked"),
    ],
)  # fmt: skip
def test_what_is_no_backbone_is_refused_in_words(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
