"""Every form of a model scores within its stated bound, and is as large on disk as the table says."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import save_compacted
from padim_jax.artifact.arrays import disk_bytes
from padim_jax.artifact.compaction import compact
from padim_jax.artifact.layouts import form_bytes
from padim_jax.artifact.manifest import read_manifest
from padim_jax.backbones import backbone_parameters
from padim_jax.gaussians.low_rank import LowRankGaussian
from tests.conftest import images, rewrite_manifest
from tests.test_structure import ROOT

OVERHEAD = 100_000  # bytes of a manifest and Orbax's own files, for models of any size


def updatable(backbone: padim.Backbone, n: int, **settings) -> padim.Updatable:
    config = padim.PadimConfig(n_channels=24, image_size=(40, 56), crop_size=(32, 48), **settings)
    moments = padim.update(backbone, padim.init(backbone, config), images(n, config))
    return padim.Updatable(backbone, moments, {f"{k:032x}": 1.0 for k in range(n)})


def loudest(model: padim.Padim, other: padim.Padim) -> float:
    """Largest relative difference of scores on images of many kinds."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (6, *model.config.crop, 3), np.uint8)
    tests = np.concatenate([images(6, model.config), images(6, model.config, seed=7), noise, noise // 100 + 100])
    a, b = (np.asarray(padim.score(one, tests).anomaly_map) for one in (model, other))
    return float(np.abs(a / b - 1).max())


@pytest.mark.parametrize("covariance", ["ridge", "ledoit-wolf"])
@pytest.mark.parametrize(
    ("n", "max_error", "forms"),
    [
        (8, 0.1, {"low-rank-16bit"}),
        (8, 5e-3, {"low-rank", "low-rank-16bit", "triangle-16bit"}),
        (60, 5e-3, {"triangle-16bit"}),
        (60, 1e-9, {"triangle"}),
        (60, 0, {"triangle"}),
    ],
)
@pytest.mark.slow
def test_forms_score_within_their_bound_and_load(
    lite0: padim.Backbone, tmp_path: Path, n: int, max_error: float, forms: set[str], covariance
) -> None:
    stored = updatable(lite0, n, covariance=covariance, ridge=0.1)
    model = padim.calibrate(stored.model(), [images(n, stored.moments.config)])
    found = compact(model, max_error, moments=stored.moments.moments, rank=n - 1)
    assert found.form in forms
    assert found.max_error <= max_error
    sizes = [size for _, size, _ in found.tried]
    assert sizes == sorted(sizes)
    assert all(error > max_error for _, _, error in found.tried[:-1])
    rounding = 2e-4  # of the score's own float32 arithmetic
    assert loudest(found.model, model) <= found.max_error + rounding
    save_compacted(found, tmp_path / "small")
    loaded = padim.load(tmp_path / "small")
    assert loudest(loaded, found.model) <= 1e-6
    assert loaded.calibration is not None
    assert model.calibration is not None
    np.testing.assert_array_equal(loaded.calibration.scores, model.calibration.scores)
    assert read_manifest(tmp_path / "small")["max_error"] == found.max_error


@pytest.mark.parametrize("n", [8, 60])
def test_sizes_on_disk_are_as_stated(lite0: padim.Backbone, tmp_path: Path, n: int) -> None:
    stored = updatable(lite0, n)
    model, moments = stored.model(), stored.moments.moments
    weights = sum(array.nbytes for array in backbone_parameters(lite0).values())
    p, d = moments.mean.shape
    padim.save_updatable(stored, tmp_path / "updatable")
    folders = {"updatable": tmp_path / "updatable"}
    for max_error in (0, 5e-3, 0.1):
        found = compact(model, max_error, moments=moments, rank=n - 1)
        folders[found.form] = tmp_path / found.form
        save_compacted(found, folders[found.form])
    assert len(folders) >= 3
    for form, folder in folders.items():
        wanted = weights + form_bytes(form, p, d, n - 1)
        assert wanted <= disk_bytes(folder) <= wanted + OVERHEAD, form


def test_the_guides_table_of_sizes_is_computed() -> None:
    """Rows of the table of sizes: name, positions, d, and megabytes of each form; low rank at 60 images."""
    page = (ROOT / "padim_jax" / "guide" / "living-model.md").read_text()
    lines = page.partition("| model (MB) |")[2].partition("\n\n")[0].splitlines()[2:]
    shapes = {"Lite0, d = 100": (56 * 56, 100), "R18-Rd100": (56 * 56, 100), "WR50-Rd550": (56 * 56, 550)}
    assert len(lines) == len(shapes)
    for line in lines:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        p, d = shapes[name]
        forms = ("updatable", "triangle", "triangle-16bit", "low-rank", "low-rank-16bit")
        assert cells == [f"{form_bytes(form, p, d, 59) / 1e6:.1f}" for form in forms]


def test_what_cannot_be_done_with_a_compact_model_is_refused(lite0: padim.Backbone, tmp_path: Path) -> None:
    stored = updatable(lite0, 8)
    found = compact(stored.model(), 0.1, moments=stored.moments.moments, rank=7)
    assert isinstance(found.model.gaussian, LowRankGaussian)
    save_compacted(found, tmp_path / "small")
    for call, words in (
        (lambda: padim.load_updatable(tmp_path / "small"), "is a deployed model, without the moments"),
        (lambda: padim.with_solver(found.model, "triangular-solve"), "compacted to low rank"),
        (lambda: padim.calibrate(found.model, [images(8, found.model.config)]), "before it was compacted to low rank"),
        (lambda: compact(found.model, 0.1), "of low rank already"),
        (lambda: compact(stored.model(), -1), "wanted a relative error from 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    others = padim.calibrate(found.model, [images(5, found.model.config, seed=3)], held_out=True)
    assert others.calibration is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": "round"}, "form 'round'"),
        ({"form": None}, "form None"),
        ({"solver": "magic"}, "solver 'magic'"),
        ({"calibration": {"method": "held-out"}}, "is damaged"),
        ({"dtypes": {"gaussian.basis": "object"}}, "dtypes object"),
        (
            {"dtypes": {"gaussian.basis": "int16", "gaussian.noise": "int16"}},
            "gaussian.noise is int16, its form implies",
        ),
        ({"form": "low-rank"}, "unknown arrays gaussian.scale"),
        ({"arrays": {"gaussian.spread": 5}}, "count has shape None"),
    ],
)
def test_damage_is_told(lite0: padim.Backbone, tmp_path: Path, changes: dict[str, object], words: str) -> None:
    stored = updatable(lite0, 8)
    save_compacted(compact(stored.model(), 0.1, moments=stored.moments.moments, rank=7), tmp_path / "m")
    rewrite_manifest(tmp_path / "m", **changes)
    with pytest.raises(padim.ArtifactError, match=words):
        padim.load(tmp_path / "m")


@pytest.mark.slow
def test_updatable_models_come_back_whole(lite0: padim.Backbone, tmp_path: Path) -> None:
    stored = updatable(lite0, 20, covariance="ledoit-wolf", projection="semi-orthogonal")
    roi = np.zeros(stored.moments.config.crop, bool)
    roi[3:20, 5:30] = True
    model = padim.calibrate(padim.with_roi(stored.model(), roi), [images(20, stored.moments.config)])
    whole = padim.Updatable(lite0, stored.moments, stored.images, model.calibration, model.roi)
    padim.save_updatable(whole, tmp_path / "m")
    again = padim.load_updatable(tmp_path / "m")
    assert again.images == whole.images
    new = images(4, stored.moments.config, seed=3)
    a, b = padim.score(model, new), padim.score(padim.load(tmp_path / "m"), new)
    np.testing.assert_allclose(a.anomaly_map, b.anomaly_map, rtol=1e-4)
    np.testing.assert_array_equal(a.anomalous, b.anomalous)
    more = padim.update(again.backbone, again.moments, new)
    assert float(more.count) == 24
    for found, wanted in zip(
        [again.moments.moments.scatter.square(), again.moments.moments.mean],
        [stored.moments.moments.scatter.square(), stored.moments.moments.mean],
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=float(jnp.abs(wanted).max()) * 1e-6)
