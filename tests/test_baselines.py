"""What holds for every method that PaDiM is compared with and that uses a frozen network."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax import baselines
from padim_jax.baselines import METHODS, Method, PatchCoreSettings, SpadeSettings
from padim_jax.baselines.records import named_arrays
from tests.baseline_models import BACKBONE, CONFIG, GOOD, TEST

FROZEN = [method for method in METHODS.values() if method.uses_backbone]
EVERY = pytest.mark.parametrize("method", FROZEN, ids=lambda method: method.name)


def settings_of(method: Method, **own: Any) -> Any:
    return method.settings(config=CONFIG, **own)


def fitted(method: Method, *batches: np.ndarray) -> Any:
    return method.fit(BACKBONE, list(batches or [GOOD]), settings_of(method))


def assert_close(scores: Any, others: Any, rtol: float = 1e-4) -> None:
    # rounding is of features of some units, of which DFM's distances to components leave a ten-thousandth
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), scores, others)


@EVERY
def test_scores_are_as_the_method_says(method: Method) -> None:
    model = fitted(method)
    scores: Any = method.score(model, TEST)
    assert scores.image_score.shape == (3,)
    assert (np.asarray(scores.image_score) > 0).all()
    assert type(scores).__name__ == ("Scores" if method.has_map else "ImageScores")
    if method.has_map:
        assert scores.anomaly_map.shape == (3, *CONFIG.crop)
    empty = method.score(model, TEST[:0])
    assert empty.image_score.shape == (0,)
    assert not method.has_map or empty.anomaly_map.shape == (0, *CONFIG.crop)
    assert model.config is model.settings.config
    assert "tiny, taps" in repr(model)


@EVERY
def test_batches_and_order_of_images_change_nothing(method: Method) -> None:
    wanted = method.score(fitted(method), TEST)
    shuffled = GOOD[np.random.default_rng(0).permutation(len(GOOD))]
    assert_close(method.score(fitted(method, shuffled[:4], shuffled[4:8], shuffled[:0], shuffled[8:]), TEST), wanted)
    one_by_one = [method.score(fitted(method), image[None]) for image in TEST]
    assert_close(jax.tree.map(lambda *parts: np.concatenate(parts), *one_by_one), wanted)


@EVERY
def test_ragged_batches_and_further_images_compile_nothing(method: Method, compilations: list[str]) -> None:
    model = fitted(method, GOOD[:4], GOOD[4:8], GOOD[8:])
    method.score(model, TEST)
    del compilations[:]
    again = fitted(method, GOOD[:4], GOOD[4:6], GOOD[6:])
    method.score(again, TEST[::-1])
    assert not compilations


@EVERY
def test_the_same_seed_gives_the_same_model_and_another_one_only_where_something_is_drawn(method: Method) -> None:
    first, again = fitted(method), fitted(method)
    jax.tree.map(np.testing.assert_array_equal, named_arrays(first), named_arrays(again))
    other = method.fit(BACKBONE, [GOOD], method.settings(config=replace(CONFIG, seed=1)))
    pairs = zip(named_arrays(first).values(), named_arrays(other).values(), strict=True)
    assert method.draws != all(np.array_equal(a, b) for a, b in pairs)


@EVERY
def test_a_model_is_a_pytree(method: Method) -> None:
    model = fitted(method)
    leaves, structure = jax.tree.flatten(model)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.tree.unflatten(structure, leaves)
    assert_close(jax.jit(method.score)(again, TEST), method.score(model, TEST))
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree))(model)
    assert doubled.settings == model.settings


@pytest.mark.parametrize("name", ["spade", "dn2", "patchcore"])
def test_chunks_of_the_search_change_nothing(name: str) -> None:
    method = METHODS[name]
    model = fitted(method)
    assert_close(method.score(model, TEST, chunk_bytes=4000), method.score(model, TEST))


@EVERY
def test_images_as_numbers_from_0_to_1_score_the_same(method: Method) -> None:
    model = fitted(method)
    floats = TEST.astype(np.float32) / 255
    assert_close(method.score(model, floats), method.score(model, TEST))
    floats[1, 3, 4, 0] = np.nan
    with pytest.raises(ValueError, match=r"score: float images have values from nan to nan, wanted RGB from 0"):
        method.score(model, floats)


@EVERY
def test_wrong_images_are_refused_in_words(method: Method) -> None:
    module = method.name.replace("-", "_")
    model = fitted(method)
    with pytest.raises(
        TypeError, match=rf"{module}\.fit: images must be a uint8 array of RGB \(0 to 255\), got float32"
    ):
        fitted(method, GOOD.astype(np.float32))
    with pytest.raises(TypeError, match=rf"{module}\.score: images must be a uint8 array .* got int64"):
        method.score(model, TEST.astype(np.int64))
    for call in (lambda images: fitted(method, images), lambda images: method.score(model, images)):
        with pytest.raises(ValueError, match=rf"{module}\.(fit|score): images are smaller than the crop: "):
            call(GOOD[:, :30])
        with pytest.raises(ValueError, match=rf"{module}\.(fit|score): this is one image"):
            call(GOOD[0])
    with pytest.raises(ValueError, match=rf"{module}\.fit: 1 image, wanted [23] or more good ones; give more images"):
        fitted(method, GOOD[:1])
    with pytest.raises(ValueError, match=rf"{module}\.fit: 0 images, wanted"):
        fitted(method, GOOD[:0])
    with pytest.raises(ValueError, match="unknown tap 'nothing'; backbone 'tiny' has fine, middle, coarse"):
        method.fit(BACKBONE, [GOOD], method.settings(config=replace(CONFIG, taps=("nothing",))))


@EVERY
def test_features_that_are_not_finite_name_the_image(method: Method) -> None:
    broken = replace(BACKBONE, parameters=jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), BACKBONE.parameters))
    message = rf"{method.name.replace('-', '_')}\.fit: the features of the image at index 0 are not finite"
    with pytest.raises(FloatingPointError, match=message):
        method.fit(broken, [GOOD], settings_of(method))


def test_an_image_of_a_later_batch_is_named_by_its_place_among_all() -> None:
    def network(parameters: Any, x: jax.Array) -> dict[str, jax.Array]:
        return {"tap": jnp.where(x[:, :1, :1] == 0, jnp.nan, x[:, ::8, ::8]) * parameters["scale"][None, None, None]}

    backbone = padim.own_backbone("picky", network, {"scale": np.ones(3, np.float32)}, image_size=CONFIG.crop)
    images = np.maximum(GOOD, 1)
    images[7] = 0
    with pytest.raises(FloatingPointError, match=r"dn2\.fit: the features of the image at index 7 are not finite"):
        METHODS["dn2"].fit(backbone, [images[:4], images[4:6], images[6:]], settings_of(METHODS["dn2"]))


@EVERY
def test_what_a_method_cannot_do_has_a_reason_in_words(method: Method) -> None:
    assert {*method.refusals} == {"update", "merge", "forget", "compact"}
    assert all(reason.startswith("it keeps ") for reason in method.refusals.values())


def test_of_a_preset_s_settings_those_that_are_shared_are_taken() -> None:
    config = replace(padim.preset("wr50-rd550").members[0], taps=("fine",), seed=4, sigma=2.0)
    with pytest.raises(ValueError, match=r"config\.n_channels=550 is a setting of PaDiM"):
        SpadeSettings(config)
    assert SpadeSettings(baselines.shared_settings(config)).config == replace(config, n_channels=None)


def test_no_taps_are_refused_and_not_taken_for_the_defaults() -> None:
    for method in FROZEN:
        with pytest.raises(ValueError, match=r"taps=\(\) must be one or more, each once"):
            method.fit(BACKBONE, [GOOD], method.settings(config=replace(CONFIG, taps=())))


def test_methods_are_found_by_name() -> None:
    assert baselines.method("dn2") is METHODS["dn2"]
    assert {method.settings.method: name for name, method in METHODS.items()} == {name: name for name in METHODS}
    with pytest.raises(
        ValueError, match="unknown method 'nothing'; choose one of spade, dn2, mahalanobis-ad, patchcore"
    ):
        baselines.method("nothing")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpadeSettings(n_images=0), "SpadeSettings: n_images=0, wanted a positive integer or None"),
        (lambda: SpadeSettings(n_patches=None), "SpadeSettings: n_patches=None, wanted a positive integer"),  # type: ignore[arg-type]
        (lambda: PatchCoreSettings(share=0), "PatchCoreSettings: share=0.0, wanted a share above 0 and at most 1"),
        (lambda: PatchCoreSettings(patch_size=2), "PatchCoreSettings: patch_size=2, wanted an odd number of cells"),
        (
            lambda: SpadeSettings(replace(CONFIG, ridge=0.1)),
            "SpadeSettings: config.ridge=0.1 is a setting of PaDiM that spade does not have; leave it out",
        ),
        (
            lambda: PatchCoreSettings(replace(CONFIG, image_score="top-1%")),
            "config.image_score='top-1%' is a setting of PaDiM that patchcore does not have",
        ),
    ],
)
def test_settings_are_checked_when_made(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@EVERY
def test_what_a_training_takes_is_refused_where_none_is_trained(method: Method) -> None:
    host = baselines.TrainingHost(note=lambda text: pytest.fail(text))
    with pytest.raises(ValueError, match=rf"{method.name}: host=.*, but the method trains no network; leave it out"):
        method.fit(BACKBONE, [GOOD], settings_of(method), host=host)


def test_names_and_settings_need_no_jax() -> None:
    code = "import sys; from padim_jax.baselines import METHODS; print([METHODS[n].settings() for n in METHODS] and 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
