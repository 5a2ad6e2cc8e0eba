"""Saving and loading: the same scores, and every damage told in words."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import Updatable, arrays, folder, loading, save_compacted, save_updatable
from padim_jax.artifact.compaction import compact
from padim_jax.artifact.manifest import SCHEMA, read_manifest
from padim_jax.artifact.ownership import LOCK
from padim_jax.artifact.stored import StoredArrays
from tests.conftest import SMALL, images, rewrite_manifest


@pytest.fixture
def saved(small_model: padim.Padim, tmp_path: Path) -> Path:
    padim.save(small_model, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("solver", ["triangular-solve", "inverse-factor"])
def test_round_trip(small_model: padim.Padim, tmp_path: Path, solver) -> None:
    model = padim.with_solver(small_model, solver)
    padim.save(model, tmp_path / "deep" / "model")
    loaded = padim.load(tmp_path / "deep" / "model")
    assert jax.tree.structure(loaded) == jax.tree.structure(model)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, model))
    test = images(2, SMALL, seed=1)
    np.testing.assert_array_equal(padim.score(loaded, test).anomaly_map, padim.score(model, test).anomaly_map)


def test_scores_in_a_new_process_without_the_weights_file(tmp_path: Path) -> None:
    import safetensors.numpy

    from tests.test_checkpoint import random_state_dict

    weights = tmp_path / "r18.safetensors"
    weights.write_bytes(safetensors.numpy.save(random_state_dict("resnet18")))
    model = padim.fit(padim.load_backbone("resnet18", weights), [images(3, SMALL)], replace(SMALL, taps=None))
    padim.save(model, tmp_path / "model")
    weights.unlink()
    np.save(tmp_path / "x.npy", images(2, SMALL, seed=1))
    code = (
        "import sys, numpy as np, padim_jax as p; m = p.load(sys.argv[1]); "
        "print(*p.score(m, np.load(sys.argv[2])).image_score)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    wanted = padim.score(model, images(2, SMALL, seed=1)).image_score
    np.testing.assert_allclose([float(word) for word in done.stdout.split()], wanted, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["inverse-factor", "triangular-solve", "updatable", "triangle-16bit", "low-rank-16bit"]
)
def test_large_arrays_are_stored_in_parts(
    form: str, small_model: padim.Padim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = small_model.backbone
    moments = padim.update(backbone, padim.init(backbone, SMALL), images(3, SMALL))
    model = padim.finalize(backbone, moments)
    saves: dict[str, Callable[[Path], None]] = {
        "inverse-factor": lambda path: padim.save(model, path),
        "triangular-solve": lambda path: padim.save(padim.with_solver(model, "triangular-solve"), path),
        "updatable": lambda path: save_updatable(Updatable(backbone, moments), path),
        "triangle-16bit": lambda path: save_compacted(compact(model, 0.1), path),
        "low-rank-16bit": lambda path: save_compacted(compact(model, 0.1, moments=moments.moments, rank=2), path),
    }
    saves[form](tmp_path / "whole")
    if form.endswith("bit"):
        assert read_manifest(tmp_path / "whole")["form"] == form
    monkeypatch.setattr(arrays, "PART_BYTES", 1000)
    saves[form](tmp_path / "parts")
    whole, parts = padim.load(tmp_path / "whole"), padim.load(tmp_path / "parts")
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, parts))
    assert not any("part-" in path.name for path in (tmp_path / "whole").rglob("*"))
    pieces = [path for path in (tmp_path / "parts").rglob("*.part-*") if path.is_dir()]
    assert len(pieces) > 2
    _flip(max((path for path in pieces[1].rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))
    with pytest.raises(padim.ArtifactError, match="checksum differs"):
        padim.load(tmp_path / "parts")


def test_an_array_is_made_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "PART_BYTES", 4 * 8 * 3)
    asked: list[int] = []

    def make(rows: slice) -> np.ndarray:
        asked.append(len(range(*rows.indices(10))))
        return np.arange(80, dtype=np.float32).reshape(10, 8)[rows]

    folder.write(tmp_path / "m", {}, {"a": arrays.LazyArray((10, 8), np.dtype(np.float32), make)})
    assert asked == [3, 3, 3, 1]
    stored = StoredArrays(tmp_path / "m", read_manifest(tmp_path / "m"))
    np.testing.assert_array_equal(stored.arrays()["a"], make(slice(None)))
    assert stored.arrays(but="a") == {}
    assert [len(part) for part in stored.parts("a", {})] == [3, 3, 3, 1]
    for odd in ([3, 3, 3], [11, -1], ["x"], None, [0, 10]):
        _edit(tmp_path / "m", parts={"a": odd})
        with pytest.raises(padim.ArtifactError, match="is damaged"):
            StoredArrays(tmp_path / "m", read_manifest(tmp_path / "m"))
    _edit(tmp_path / "m", parts={"a": [10]}, arrays={"a": 10})
    with pytest.raises(padim.ArtifactError, match=r"parts of a: \[10\]"):
        StoredArrays(tmp_path / "m", read_manifest(tmp_path / "m"))


def test_manifest_says_what_the_model_is(saved: Path) -> None:
    manifest = json.loads((saved / "model.json").read_text())
    assert manifest["schema"] == SCHEMA
    assert manifest["config"]["crop_size"] == [32, 48]
    assert manifest["embedding"]["backbone"] == "efficientnet_lite0"
    assert {"padim-jax", "jax", "flax", "orbax-checkpoint", "numpy", "python"} == set(manifest["versions"])


def test_nothing_is_pickled(saved: Path) -> None:
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert files
    assert not any(path.read_bytes()[:1] == b"\x80" for path in files)


def test_replaces_a_model_and_leaves_nothing_behind(saved: Path, small_model: padim.Padim) -> None:
    (saved / "arrays-0000000000000000").mkdir()  # as an interrupted save leaves it
    padim.save(padim.with_solver(small_model, "triangular-solve"), saved)
    assert len(list(saved.iterdir())) == 2
    padim.load(saved)


def _edit(saved: Path, **changes: object) -> None:
    rewrite_manifest(saved, **changes)


def _arrays(saved: Path) -> Path:
    return next(saved.glob("arrays-*"))


def _largest(saved: Path) -> Path:
    return max((path for path in saved.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _record(saved: Path, name: str, shape: list[int]) -> None:
    manifest = json.loads((saved / "model.json").read_text())
    manifest["arrays"][name] = shape
    rewrite_manifest(saved, **manifest)


def _swap_weights(saved: Path) -> None:
    """A model whose files are whole, but whose settings name other weights."""
    manifest = json.loads((saved / "model.json").read_text())
    manifest["embedding"]["weights_digest"] = "0" * 64
    rewrite_manifest(saved, **manifest)


def _five_channels(saved: Path) -> None:
    manifest = json.loads((saved / "model.json").read_text())
    manifest["config"]["n_channels"] = 5
    rewrite_manifest(saved, **manifest)


def _grid_of_floats(saved: Path) -> None:
    manifest = json.loads((saved / "model.json").read_text())
    manifest["embedding"]["grid"] = [8.0, 12.0]
    rewrite_manifest(saved, **manifest)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_grid_of_floats, r"is damaged[\s\S]*grid"),
        (lambda p: (p / "model.json").write_text("[" * 200_000), "is damaged"),
        (lambda p: _edit(p, schema=99, versions="x"), "written by padim-jax unknown"),
        (_five_channels, "12 dimensions are not what n_channels=5 asks for"),
        (lambda p: _record(p, "backbone.stem", [1]), "is damaged|other weights"),
        (lambda p: shutil.rmtree(p), "there is no model at"),
        (lambda p: (p / "model.json").unlink(), r"is no model: it has no model\.json"),
        (lambda p: (p / "model.json").write_text('{"format": '), "is damaged"),
        (lambda p: (p / "model.json").write_bytes(b"\xff\xfe\x00"), "is damaged"),
        (lambda p: (p / "model.json").write_text("[]"), "does not describe a padim_jax model"),
        (lambda p: _edit(p, schema=99), "has schema 99, this version reads up to 7.*upgrade"),
        (lambda p: _edit(p, schema="1"), "has schema '1'"),
        (lambda p: _edit(p, config={"n_channels": -1}), "is damaged.*n_channels=-1"),
        (lambda p: _edit(p, config={"stranger": 1}), "is damaged.*stranger"),
        (lambda p: _edit(p, embedding=None), "is damaged"),
        (lambda p: _edit(p, arrays=None), "is damaged"),
        (lambda p: _edit(p, arrays={}), "gaussian.mean has shape None|count has shape None"),
        (lambda p: _edit(p, directory="../../etc"), r"directory '\.\./\.\./etc'"),
        (lambda p: _edit(p, files={}), "is damaged"),
        (lambda p: _record(p, "gaussian.mean", [1, 1]), "gaussian.mean has shape"),
        (lambda p: _record(p, "stranger", [1]), "unknown arrays stranger"),
        (
            lambda p: _record(p, "backbone.stem.bias", [10**9, 225]),
            "lists 900[0-9]{9} bytes of arrays, its files hold",
        ),
        (lambda p: _record(p, "backbone.stem.bias", [-1]), r"stem.bias has shape \[-1\]"),
        (lambda p: _edit(p, config={"image_size": 10**6, "crop_size": 10**6}), "wanted at most 89 megapixels"),
        (lambda p: _record(p, "backbone.stem.bias", [31]), "stem.bias is missing or has another shape"),
        (lambda p: _record(p, "backbone.stem.more", [31]), "stem.more is missing or has another shape"),
        (_swap_weights, "other backbone weights than it was fitted with"),
        (lambda p: shutil.rmtree(_arrays(p)), "is missing; the model was copied in part"),
        (lambda p: [f.unlink() for f in _arrays(p).rglob("d/*")], "is missing; the model was copied in part"),
        (lambda p: _flip(_largest(p)), r"is damaged \(its checksum differs\)"),
        (lambda p: os.truncate(_largest(p), 100), r"is damaged \(its checksum differs\)"),
    ],
)
def test_damage_is_told_in_words(saved: Path, damage, words: str) -> None:
    damage(saved)
    with pytest.raises(padim.ArtifactError, match=words):
        padim.load(saved)


def test_no_flipped_bit_of_the_manifest_changes_a_model(saved: Path) -> None:
    content = (saved / "model.json").read_bytes()
    whole = json.loads(content)
    for bit in np.random.default_rng(0).choice(8 * len(content), 400, replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        (saved / "model.json").write_bytes(flipped)
        try:
            assert read_manifest(saved) == whole, bit  # of white space
        except padim.ArtifactError:
            continue


def test_nothing_is_saved_that_could_not_be_loaded(small_model: padim.Padim, tmp_path: Path) -> None:
    broken = replace(
        small_model, gaussian=replace(small_model.gaussian, mean=small_model.gaussian.mean.at[3].set(np.nan))
    )
    with pytest.raises(padim.ArtifactError, match=r"gaussian\.mean is not finite"):
        padim.save(broken, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_a_change_replaced_can_be_brought_back(saved: Path, small_model: padim.Padim) -> None:
    with pytest.raises(padim.ArtifactError, match="keeps no earlier state"):
        folder.undo(saved)
    padim.save(padim.with_solver(small_model, "triangular-solve"), saved, keep_previous=True)
    assert len(list(saved.iterdir())) == 4
    for kind in ("whitening", "factor", "whitening"):
        folder.undo(saved)
        assert hasattr(padim.load(saved).gaussian, kind)
    padim.save(small_model, saved)
    assert len(list(saved.iterdir())) == 2


def test_a_model_that_only_scores_never_replaces_one_that_can_be_updated(
    small_model: padim.Padim, tmp_path: Path
) -> None:
    updatable = padim.Updatable(small_model.backbone, padim.init(small_model.backbone, SMALL), {"0" * 32: 1.0})
    padim.save_updatable(updatable, tmp_path / "m")
    with pytest.raises(padim.ArtifactError, match=r"m holds a model that can be updated \(of 1 image files\).*choose"):
        padim.save(small_model, tmp_path / "m")
    padim.save(small_model, tmp_path / "m", keep_previous=True)
    folder.undo(tmp_path / "m")
    assert padim.load_updatable(tmp_path / "m").images == updatable.images


def test_arrays_of_nobody_known_are_left_alone(small_model: padim.Padim, tmp_path: Path) -> None:
    precious = tmp_path / "model" / "arrays-0123456789abcdef" / "precious.npy"
    precious.parent.mkdir(parents=True)
    precious.touch()
    with pytest.raises(padim.ArtifactError, match=r"holds other things \(arrays-0123456789abcdef\)"):
        padim.save(small_model, tmp_path / "model")
    assert precious.exists()


def test_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(padim.ArtifactError, match=r"has no model\.json"):
        padim.load(tmp_path / "file.txt")
    with pytest.raises(padim.ArtifactError, match=r"has no model\.json"):
        padim.load(tmp_path)


def test_never_writes_over_other_things(small_model: padim.Padim, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("x")
    with pytest.raises(padim.ArtifactError, match=r"holds other things \(a\.png\)"):
        padim.save(small_model, tmp_path / "photos")
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "arrays-of-photos").mkdir()
    with pytest.raises(padim.ArtifactError, match=r"holds other things \(arrays-of-photos\)"):
        padim.save(small_model, tmp_path / "arrays")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "model.json").write_text('{"format": "layers-model"}')
    with pytest.raises(padim.ArtifactError, match=r"holds other things \(model\.json\)"):
        padim.save(small_model, tmp_path / "web")
    with pytest.raises(padim.ArtifactError, match="is a file"):
        padim.save(small_model, tmp_path / "photos" / "a.png")


def test_what_a_folder_holds_is_checked_once_and_under_its_lock(
    saved: Path, small_model: padim.Padim, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, locks = folder.check_writable, []

    def checked(path: Path, kind: str) -> None:
        locks.append((path / LOCK).exists())
        check(path, kind)

    monkeypatch.setattr(folder, "check_writable", checked)
    padim.save(small_model, saved)
    assert locks == [True]


def test_a_failed_save_leaves_the_old_model(
    saved: Path, small_model: padim.Padim, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(saved.rglob("*"))

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(folder, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        padim.save(padim.with_solver(small_model, "triangular-solve"), saved)
    assert sorted(saved.rglob("*")) == before
    padim.load(saved)


def test_an_interrupt_after_the_rename_leaves_the_new_model(
    saved: Path, small_model: padim.Padim, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = folder.write_atomically

    def interrupted(path: Path, data: bytes) -> None:
        write(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        padim.save(padim.with_solver(small_model, "triangular-solve"), saved)
    assert hasattr(padim.load(saved).gaussian, "factor")
    assert len(list(saved.iterdir())) == 2


def test_loading_while_it_is_replaced(saved: Path, small_model: padim.Padim, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = loading.read_manifest, []

    def replaced_after_reading(folder: Path) -> dict:
        manifest = read(folder)
        if not seen:
            seen.append(True)
            padim.save(padim.with_solver(small_model, "triangular-solve"), folder)
        return manifest

    monkeypatch.setattr(loading, "read_manifest", replaced_after_reading)
    assert hasattr(padim.load(saved).gaussian, "factor")


_KILLED = """
import sys, padim_jax as padim
model = padim.load(sys.argv[1])
other = padim.with_solver(model, "triangular-solve")
print("ready", flush=True)
while True:
    padim.save(other, sys.argv[2])
    padim.save(model, sys.argv[2])
"""


@pytest.mark.slow
def test_killed_saves_leave_the_old_model_or_the_new(saved: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.copytree(saved, target)
    rng = np.random.default_rng(0)
    for _ in range(5):
        command = [sys.executable, "-c", _KILLED, str(saved), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.05, 1.0))
            process.send_signal(signal.SIGKILL)
        padim.load(target)
