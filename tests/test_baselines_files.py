"""Models of the baselines on disk: the same after saving and loading, and refused in words where they are not."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import padim_jax as padim
from padim_jax import baselines
from padim_jax.artifact import arrays as written
from padim_jax.baselines import METHODS, storing
from padim_jax.baselines.records import named_arrays
from tests import baseline_models, trained_models
from tests.conftest import SMALL, images, rewrite_manifest

CONFIG = replace(padim.PadimConfig(), taps=("block2",), image_size=SMALL.image_size, crop_size=SMALL.crop_size)


@pytest.fixture(scope="module")
def backbone() -> padim.Backbone:
    return padim.load_backbone("efficientnet_lite0", weights="random")


@pytest.fixture(scope="module")
def models(backbone: padim.Backbone) -> dict[str, Any]:
    """One of each method, on the shallowest tap, whose part of the network compiles quickly; none learns anything."""
    own: dict[str, dict[str, Any]] = {"patchcore": {"share": 0.05}, "dfm": {"variance": 0.5}}
    return {name: _untrained(name) for name in trained_models.TRAINED} | {
        name: method.fit(backbone, [images(4, CONFIG)], method.settings(config=CONFIG, **own.get(name, {})))
        for name, method in METHODS.items()
        if method.uses_backbone
    }


def _untrained(name: str) -> Any:
    """A model with the first weights of its network."""
    method = METHODS[name]
    settings = trained_models.settings_of(method)
    parameters = method._module._Recipe(settings).network.draw(jax.random.key(0))
    others = {"deep-svdd": ("centre",), "patch-svdd": ("large", "small")}.get(name, ())
    shape = (8,) if name == "deep-svdd" else (20, 8)
    own = {other: jax.numpy.ones(shape) for other in others}
    return method.model(parameters=parameters, history=jax.numpy.ones((1, 2)), settings=settings, **own)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.uses_backbone])
def test_a_model_comes_back_as_it_was(name: str, models: dict[str, Any], tmp_path: Path) -> None:
    baselines.save(models[name], tmp_path / "model")
    again = baselines.load(tmp_path / "model")
    assert jax.tree.structure(again) == jax.tree.structure(models[name])
    jax.tree.map(np.testing.assert_array_equal, named_arrays(again), named_arrays(models[name]))
    if name == "dn2":
        scores = METHODS[name].score(again, images(2, CONFIG, seed=5))
        np.testing.assert_array_equal(
            scores.image_score, METHODS[name].score(models[name], images(2, CONFIG, seed=5)).image_score
        )


def test_another_model_is_replaced_and_other_things_are_not(
    models: dict[str, Any], small_model: padim.Padim, tmp_path: Path
) -> None:
    baselines.save(models["dn2"], tmp_path / "model")
    baselines.save(models["dfm"], tmp_path / "model")
    assert baselines.load(tmp_path / "model").settings.method == "dfm"
    with pytest.raises(padim.ArtifactError, match=r"save: .* holds other things \(model\.json\); choose a new folder"):
        padim.save(small_model, tmp_path / "model")
    with pytest.raises(padim.ArtifactError, match="does not describe a padim_jax model, but a padim_jax baseline"):
        padim.load(tmp_path / "model")
    padim.save(small_model, tmp_path / "padim")
    with pytest.raises(padim.ArtifactError, match=r"save: .* holds other things \(model\.json\); choose a new folder"):
        baselines.save(models["dn2"], tmp_path / "padim")
    with pytest.raises(padim.ArtifactError, match="does not describe a padim_jax baseline, but a padim_jax model"):
        baselines.load(tmp_path / "padim")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "nothing"}, "unknown method 'nothing'"),
        ({"method": None}, "unknown method None"),
        ({"method": "patchcore"}, "DfmSettings|unexpected keyword"),
        ({"settings": {"config": {"ridge": -1}}}, "PadimConfig: ridge=-1.0, wanted a positive number"),
        ({"settings": []}, "is damaged"),
        ({"embedding": {}}, "is damaged"),
        ({"embedding.channels": [0, 1]}, "is not that of its settings"),
        ({"embedding.grid": [1, 1]}, "is not that of its settings"),
        ({"embedding.weights_digest": "0"}, "holds other backbone weights than it was fitted with"),
    ],
    ids=str,
)
def test_a_manifest_that_says_something_else_is_refused(
    changes: dict[str, Any], message: str, models: dict[str, Any], tmp_path: Path
) -> None:
    baselines.save(models["dfm"], tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "model.json").read_text())
    nested = {
        name.split(".")[0]: manifest[name.split(".")[0]] | {name.split(".")[1]: value} if "." in name else value
        for name, value in changes.items()
    }
    rewrite_manifest(tmp_path / "model", **nested)
    with pytest.raises(padim.ArtifactError, match=message):
        baselines.load(tmp_path / "model")


def test_a_damaged_file_is_refused(models: dict[str, Any], tmp_path: Path) -> None:
    baselines.save(models["dfm"], tmp_path / "model")
    largest = max((tmp_path / "model").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    with pytest.raises(padim.ArtifactError, match=r"is damaged \(its checksum differs\)"):
        baselines.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("bank", (4, 25), "is damaged"),
        ("bank", (24,), "is damaged"),
        ("other", (4, 24), "unknown array model.other"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    name: str,
    shape: tuple[int, ...],
    message: str,
    models: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(
        storing, "named_arrays", lambda model: named_arrays(model) | {name: np.zeros(shape, np.float32)}
    )
    baselines.save(models["dn2"], tmp_path / "model")
    with pytest.raises(padim.ArtifactError, match=message):
        baselines.load(tmp_path / "model")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (lambda array: {"": np.zeros((1,) * array.ndim, np.float32)}, "is damaged"),  # which may broadcast
        (lambda array: {"": np.zeros((), np.float32)}, "is damaged"),
        (lambda array: {"": np.zeros((*array.shape, 1), np.float32)}, "is damaged"),
        (lambda array: {"": np.full_like(array, np.nan)}, r"is damaged: model\.\S+ is not finite"),
        (lambda array: {"": array.astype(np.int16)}, r"is damaged: model\.\S+ is int16, wanted float32"),
        (lambda array: {".a": array, ".b": array}, "is damaged"),
        (lambda array: {".0": array, ".a": array}, "is damaged"),
        (lambda array: {}, "is damaged"),
    ],
    ids=["ones", "number", "axis", "nan", "int16", "paths", "numbers and paths", "missing"],
)
def test_no_field_of_any_model_is_taken_as_something_else(
    name: str, lie: Any, message: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrays = {key: np.asarray(array) for key, array in named_arrays(models[name]).items()}
    monkeypatch.setattr(written, "_check_finite", lambda name, array: np.asarray(array))
    for key in {key.split(".")[0]: key for key in arrays}.values():  # one of each field
        others = {other: array for other, array in arrays.items() if other != key}
        told = {f"{key}{end}": array for end, array in lie(arrays[key]).items()}
        monkeypatch.setattr(storing, "named_arrays", lambda model, told=told, others=others: others | told)
        baselines.save(models[name], tmp_path / "model")
        with pytest.raises(padim.ArtifactError, match=message):
            baselines.load(tmp_path / "model")


@pytest.mark.parametrize("name", METHODS)
def test_no_setting_of_any_model_takes_memory_that_its_folder_does_not_hold(
    name: str, models: dict[str, Any], tmp_path: Path
) -> None:
    baselines.save(models[name], tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "model.json").read_text())["settings"]
    wide = {"image_size": [32, 10**6], "crop_size": [32, 10**6]}
    blurred = {"image_size": 4000, "crop_size": 4000, "sigma": 4000}
    for config in (wide, blurred):
        rewrite_manifest(tmp_path / "model", settings=settings | {"config": settings["config"] | config})
        with pytest.raises(
            padim.ArtifactError, match=r"with sigma=.*, wanted side · \(side \+ 8 sigma\) of at most 1e\+08"
        ):
            baselines.load(tmp_path / "model")
    for own in [own for own, value in settings.items() if isinstance(value, int)]:
        for many in (10**7, 10**30):
            rewrite_manifest(tmp_path / "model", settings=settings | {own: many})
            with suppress(padim.ArtifactError):
                METHODS[name].score(baselines.load(tmp_path / "model"), images(1, models[name].config))


def test_a_network_of_the_user_s_own_is_refused(tmp_path: Path) -> None:
    settings = baselines.Dn2Settings(baseline_models.CONFIG)
    model = METHODS["dn2"].fit(baseline_models.BACKBONE, [baseline_models.GOOD], settings)
    with pytest.raises(padim.ArtifactError, match="save: backbone 'tiny' is your own, and its code can't be stored"):
        baselines.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
