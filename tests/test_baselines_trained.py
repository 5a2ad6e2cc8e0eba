"""What holds for every method that trains a network of its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import padim_jax as padim
from padim_jax import baselines
from padim_jax.baselines import Method, storing
from padim_jax.baselines.records import named_arrays
from tests.conftest import rewrite_manifest
from tests.trained_models import BAD, CONFIG, GOOD, LEARNS, TEST, TRAINED, settings_of

EVERY = pytest.mark.parametrize("method", TRAINED.values(), ids=lambda method: method.name)
_FITTED: dict[str, Any] = {}


def fitted(method: Method, *batches: np.ndarray, **own: Any) -> Any:
    return method.fit(None, list(batches or [GOOD]), settings_of(method, **own))


def model_of(method: Method) -> Any:
    """One that is not changed, for all tests."""
    if method.name not in _FITTED:
        _FITTED[method.name] = fitted(method)
    return _FITTED[method.name]


def assert_equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, named_arrays(a), named_arrays(b))


@pytest.mark.slow
@EVERY
def test_it_learns_and_tells_defects_from_good_parts(method: Method) -> None:
    model = fitted(method, **LEARNS[method.name])
    history = np.asarray(model.history)
    assert history[:, 2].min() < 0.7 * history[0, 2]  # of images that it does not learn from
    good, bad = method.score(model, TEST), method.score(model, BAD)
    assert np.min(bad.image_score) > np.max(good.image_score)
    if method.has_map:
        maps = np.asarray(bad.anomaly_map)
        assert maps[:, 12:18, 20:26].mean() > 2 * maps[:, :6].mean()


@EVERY
def test_scores_are_as_the_method_says(method: Method) -> None:
    model = model_of(method)
    scores: Any = method.score(model, TEST)
    assert scores.image_score.shape == (6,)
    assert (np.asarray(scores.image_score) > 0).all()
    assert type(scores).__name__ == ("Scores" if method.has_map else "ImageScores")
    if method.has_map:
        assert scores.anomaly_map.shape == (6, *CONFIG.crop)
        assert (np.asarray(scores.anomaly_map) >= 0).all()
    assert method.score(model, TEST[:0]).image_score.shape == (0,)
    assert model.config is model.settings.config
    assert "million parameters, 6 steps, " in repr(model)
    np.testing.assert_array_equal(model.history[:, 0], [3, 6])
    one_by_one = np.concatenate([method.score(model, image[None]).image_score for image in TEST])
    np.testing.assert_allclose(one_by_one, scores.image_score, rtol=1e-4)


@EVERY
def test_batches_order_and_a_backbone_change_nothing(method: Method) -> None:
    shuffled = GOOD[np.random.default_rng(0).permutation(len(GOOD))]
    batches = [shuffled[:10], shuffled[:0], shuffled[10:11], shuffled[11:]]
    assert_equal(method.fit(Any, iter(batches), settings_of(method)), model_of(method))


@EVERY
def test_the_seed_alone_draws(method: Method, compilations: list[str]) -> None:
    model_of(method)
    del compilations[:]
    again = fitted(method)
    assert_equal(again, model_of(method))
    other = fitted(method, config=replace(CONFIG, seed=1))
    assert not compilations
    assert method.draws
    first, second = named_arrays(again), named_arrays(other)
    assert not any(np.array_equal(first[name], second[name]) for name in first if "kernel" in name)


@EVERY
def test_a_model_is_a_pytree(method: Method) -> None:
    model = model_of(method)
    leaves, structure = jax.tree.flatten(model)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.jit(method.score)(jax.tree.unflatten(structure, leaves), TEST)
    np.testing.assert_allclose(again.image_score, method.score(model, TEST).image_score, rtol=1e-4)


@EVERY
def test_images_as_numbers_from_0_to_1_score_the_same(method: Method) -> None:
    model = model_of(method)
    floats = TEST.astype(np.float32) / 255
    found, wanted = method.score(model, floats), method.score(model, TEST)
    np.testing.assert_allclose(found.image_score, wanted.image_score, rtol=1e-4)
    floats[1, 3, 4, 0] = np.nan
    with pytest.raises(ValueError, match=r"score: float images have values from nan to nan, wanted RGB from 0"):
        method.score(model, floats)


@EVERY
def test_wrong_images_are_refused_in_words(method: Method) -> None:
    module = method.name.replace("-", "_")
    with pytest.raises(
        TypeError, match=rf"{module}\.fit: images must be a uint8 array of RGB \(0 to 255\), got float32"
    ):
        fitted(method, GOOD.astype(np.float32))
    with pytest.raises(TypeError, match=rf"{module}\.score: images must be a uint8 array .* got int64"):
        method.score(model_of(method), TEST.astype(np.int64))
    for call in (lambda images: fitted(method, images), lambda images: method.score(model_of(method), images)):
        with pytest.raises(ValueError, match=rf"{module}\.(fit|score): images are smaller than the crop: "):
            call(GOOD[:, :30])
        with pytest.raises(ValueError, match=rf"{module}\.(fit|score): this is one image"):
            call(GOOD[0])
    with pytest.raises(ValueError, match=rf"{module}\.fit: 2 images, wanted 3 or more good ones; give more images"):
        fitted(method, GOOD[:2])
    with pytest.raises(ValueError, match=rf"{module}\.fit: 1 image, wanted 2 or more good ones; give more images"):
        fitted(method, GOOD[:1], held_out=0)


@EVERY
def test_what_a_method_cannot_do_has_a_reason_in_words(method: Method) -> None:
    assert {*method.refusals} == {"update", "merge", "forget", "compact"}
    assert all(reason.startswith("it keeps a network's weights") for reason in method.refusals.values())


@EVERY
def test_a_model_comes_back_as_it_was(method: Method, tmp_path: Path) -> None:
    model = model_of(method)
    baselines.save(model, tmp_path / "model")
    again = baselines.load(tmp_path / "model")
    assert jax.tree.structure(again) == jax.tree.structure(model)
    assert_equal(again, model)
    found, wanted = method.score(again, TEST), method.score(model, TEST)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@EVERY
def test_arrays_that_do_not_fit_the_settings_are_refused(
    method: Method, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrays = named_arrays(model_of(method))
    name = next(name for name in arrays if name.endswith("kernel"))
    for changed, message in [
        (arrays | {name: np.zeros((1, 1), np.float32)}, r"parameter \S+ is \(1, 1\), wanted"),
        ({key: array for key, array in arrays.items() if key != name}, r"parameter \S+ is missing"),
        (arrays | {f"{name}2": arrays[name]}, r"parameter \S+2 is not of this network"),
        (arrays | {"other": arrays[name]}, "unknown array model.other"),
        (arrays | {"history": np.zeros(3, np.float32)}, r"the history is \(3,\)"),
    ]:
        monkeypatch.setattr(storing, "named_arrays", lambda model, changed=changed: changed)
        baselines.save(model_of(method), tmp_path / "model")
        with pytest.raises(padim.ArtifactError, match=message):
            baselines.load(tmp_path / "model")


@EVERY
def test_a_manifest_of_other_settings_is_refused(method: Method, tmp_path: Path) -> None:
    baselines.save(model_of(method), tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "model.json").read_text())["settings"]
    rewrite_manifest(tmp_path / "model", settings=settings | {"steps": None})
    with pytest.raises(padim.ArtifactError, match="steps=None and epochs=None, wanted one of them"):
        baselines.load(tmp_path / "model")


@EVERY
def test_settings_are_checked_when_made_and_the_published_ones_are_valid(method: Method) -> None:
    record = method.settings.__name__
    for own, message in [
        ({"epochs": 2}, rf"{record}: steps=\d+ and epochs=2, wanted one of them"),
        ({"learning_rate": 0}, rf"{record}: learning_rate=0.0, wanted a number above 0"),
        ({"held_out": 0.6}, rf"{record}: held_out=0.6, wanted a number, 0 or more, at most 0.5"),
        ({"config": replace(CONFIG, taps=("block2",))}, r"config.taps=\('block2',\) is a setting of PaDiM that"),
    ]:
        with pytest.raises(ValueError, match=message):
            method.settings(**own)
    large = replace(CONFIG, crop_size=128, image_size=128)
    published = method.settings.published(config=large, batch_size=2)  # type: ignore[attr-defined]
    assert published.config is large
    assert published.batch_size == 2
    tapped = replace(CONFIG, taps=("block2",))
    assert settings_of(method, config=baselines.shared_settings(tapped, method.settings)).config == CONFIG
