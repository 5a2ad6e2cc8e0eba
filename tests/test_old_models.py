"""Models that every earlier version wrote load for ever, and score as they did.

``models-schema-N.tar.xz`` holds models that the last version of schema N wrote, of a few images with a sparse network,
and what each scored then. ``python -m tests.test_old_models`` writes those of today's schema; do so before it changes.
"""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import folder as model_folder
from padim_jax.artifact import save_compacted, save_updatable
from padim_jax.artifact.compaction import compact
from padim_jax.artifact.manifest import SCHEMA, read_manifest
from padim_jax.backbones import backbone_parameters, build_backbone
from padim_jax.method.fitting import begin
from tests.conftest import images
from weights_conversion import unflatten

FORMS = ("updatable", "triangle", "triangle-16bit", "low-rank", "low-rank-16bit")
# shrunk: Ledoit-Wolf, semi-orthogonal projection, neighbourhood, region of interest. parts: as large arrays are stored
MODELS = {
    1: ("inverse-factor", "triangular-solve"),
    2: ("inverse-factor", "triangular-solve", "shrunk"),
    3: (*FORMS, "triangular-solve", "updatable-shrunk", "low-rank-shrunk"),
    4: FORMS,
    5: (*FORMS, "triangular-solve", "low-rank-shrunk", "updatable-parts"),
    6: (*FORMS, "low-rank-shrunk", "triangle-pooled", "updatable-pooled", "updatable-parts"),
    7: (
        *FORMS,
        "low-rank-shrunk",
        "triangle-pooled",
        "updatable-parts",
        *("updatable-aligned", "triangle-aligned", "updatable-shared", "triangle-components", "updatable-components"),
    ),
}
CASES = [(schema, name) for schema, names in MODELS.items() for name in names]


def archive(schema: int) -> Path:
    return Path(__file__).parent / f"models-schema-{schema}.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folder of the models of a schema, and of ``scores.json``."""
    folder = tmp_path_factory.mktemp("models")

    def unpacked(schema: int) -> Path:
        target = folder / str(schema)
        if not target.exists():
            with tarfile.open(archive(schema)) as stored:
                stored.extractall(target, filter="data")
        return target

    return unpacked


def test_there_are_models_of_every_schema() -> None:
    assert set(MODELS) == set(range(1, SCHEMA + 1))


def assert_scores_are_those_of_then(old: Callable[[int], Path], schema: int, name: str) -> None:
    folder = old(schema) / f"schema-{schema}-{name}"
    manifest = read_manifest(folder)
    assert manifest["schema"] == schema
    model = padim.load(folder)
    wanted = json.loads((old(schema) / "scores.json").read_text())[folder.name]
    np.testing.assert_allclose(padim.score(model, images(3, model.config, seed=9)).image_score, wanted, rtol=1e-5)
    assert (model.calibration is not None) == (schema > 2)
    shrunk = name.endswith(("shrunk", "parts"))
    assert (model.roi is not None) == (shrunk and schema > 2)
    pooled = name.endswith("pooled")
    assert model.config.covariance == ("ledoit-wolf" if shrunk else "pooled" if pooled else "ridge")
    assert model.config.prior_images == (20 if pooled else "auto")
    assert model.config.image_score == "max"
    assert (model.alignment is not None) == name.endswith("aligned")
    assert (model.config.positions == "shared") == name.endswith(("shared", "components"))
    # strengths are kept from schema 3 on
    assert (model.gaussian.strength is not None) == (shrunk and schema > 2)
    assert ("parts" in manifest and bool(manifest["parts"])) == (name == "updatable-parts")


@pytest.mark.parametrize(("schema", "name"), [case for case in CASES if "updatable" not in case[1]], ids=str)
def test_scores_are_those_of_then(old: Callable[[int], Path], schema: int, name: str) -> None:
    assert_scores_are_those_of_then(old, schema, name)


@pytest.mark.slow
@pytest.mark.optimised  # they are factored anew, which magnifies the rounding of its program
def test_scores_of_updatable_models_are_those_of_then(old: Callable[[int], Path]) -> None:
    cases = [case for case in CASES if "updatable" in case[1]]
    assert len(cases) == 13
    for schema, name in cases:
        assert_scores_are_those_of_then(old, schema, name)


@pytest.mark.parametrize("schema", [3, 4, 5, 6, 7])
def test_an_old_model_goes_on_in_the_new_schema(old: Callable[[int], Path], schema: int, tmp_path: Path) -> None:
    before = old(schema) / f"schema-{schema}-updatable"
    stored = padim.load_updatable(before)
    assert len(stored.images) == float(stored.moments.count)
    save_updatable(stored, tmp_path / "new")
    assert read_manifest(tmp_path / "new")["schema"] == SCHEMA
    new = images(3, stored.moments.config, seed=9)
    then, now = (padim.score(padim.load(path), new) for path in (before, tmp_path / "new"))
    np.testing.assert_array_equal(then.image_score, now.image_score)


def test_what_an_updatable_model_remembers_comes_back(old: Callable[[int], Path]) -> None:
    stored = padim.load_updatable(old(6) / "schema-6-updatable-parts")
    assert stored.images == {f"{index:032x}": 1.0 for index in range(4)}
    assert stored.image_sizes == ((16, 16),)
    assert stored.progress == {"since": ["updated"]}
    assert stored.roi is not None
    assert stored.roi.sum() == 12 * 12
    assert stored.moments.moments.higher is not None


def sparse_network() -> padim.Backbone:
    """Lite0 with few weights that are not 0, and none beyond its block 2: it takes little space in an archive."""
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}
    for path, array in sorted(backbone_parameters(padim.load_backbone("efficientnet_lite0")).items()):
        weights[path] = np.zeros(array.shape, np.float32)
        if path.startswith(("stem", "blocks.0.", "blocks.1.", "blocks.2.")):
            kept = rng.random(array.shape) < max(0.1, 1 - array.size / 400)
            step = 4 / np.sqrt(max(1, array[..., 0].size))
            weights[path][kept] = (rng.choice([-1.0, 1.0], array.shape) * step)[kept]
    return build_backbone("efficientnet_lite0", unflatten(weights))


def write_models(folder: Path) -> None:
    """Write the models of today's schema into ``folder``."""
    network = sparse_network()
    plain = padim.PadimConfig(n_channels=8, image_size=16, crop_size=16, taps=("block2",), sigma=1.0)
    shrunk = replace(plain, covariance="ledoit-wolf", projection="semi-orthogonal", neighbourhood=3, ridge=0.1)
    roi = np.zeros(plain.crop, bool)
    roi[2:14, 3:15] = True
    pooled = replace(plain, covariance="pooled", ridge=0.1, prior_images=20)
    aligned = replace(plain, image_size=32, crop_size=32, align="shift")  # by whole pixels, on any machine
    one, two = (replace(plain, positions="shared", n_components=number, ridge=0.1) for number in (1, 2))
    kinds = {"": plain, "-pooled": pooled, "-aligned": aligned, "-shared": one, "-components": two, "-shrunk": shrunk}
    updatable: dict[str, padim.Updatable] = {}
    for kind, config in kinds.items():
        good = images(4, config)
        moments = padim.update(network, begin("fit", network, [good], config), good)
        fitted = padim.finalize(network, moments)
        model = padim.calibrate(padim.with_roi(fitted, roi) if config is shrunk else fitted, [good])
        digests = {f"{index:032x}": 1.0 for index in range(len(good))}
        known = model.calibration, model.roi, {"since": ["updated"]}, ((16, 16),)
        updatable[kind] = padim.Updatable(network, moments, digests, *known)
        save_updatable(updatable[kind], folder / f"updatable{kind}")
        padim.save(model, folder / f"triangle{kind}")
        padim.save(padim.with_solver(model, "triangular-solve"), folder / f"triangular-solve{kind}")
        for max_error in 10.0 ** np.arange(-7, 0):
            for rank in (3, None):
                found = compact(model, max_error, moments=moments.moments, rank=rank)
                if found.form != "triangle":
                    save_compacted(found, folder / f"{found.form}{kind}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_folder, "part_rows", lambda arrays: {"moments.scatter": [10, 6]})
        save_updatable(updatable["-shrunk"], folder / "updatable-parts")


def write_archive(folder: Path) -> None:
    """Write the archive of today's schema, by way of ``folder``."""
    write_models(folder)
    scores = {}
    with tarfile.open(archive(SCHEMA), "w:xz", preset=9) as stored:
        for name in MODELS[SCHEMA]:
            model = padim.load(folder / name)
            scored = padim.score(model, images(3, model.config, seed=9)).image_score
            scores[f"schema-{SCHEMA}-{name}"] = np.asarray(scored).tolist()
            stored.add(folder / name, f"schema-{SCHEMA}-{name}")
        content = json.dumps(scores, indent=1).encode()
        entry = tarfile.TarInfo("scores.json")
        entry.size = len(content)
        stored.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        write_archive(Path(scratch))
