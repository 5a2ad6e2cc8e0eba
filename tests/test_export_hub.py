"""``padim push`` and ``padim pull``: against a server on this machine that answers as the Hugging Face Hub does."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import load_updatable, save_compacted, save_updatable
from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.compaction import compact
from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.artifact.ownership import MARKER, NotOurs
from padim_jax.export import ExportError, pull, push, verify_export
from padim_jax.export.describe import model_digest
from padim_jax.export.model_card import CARD, is_own_file
from tests.conftest import SMALL
from tests.exports import GOOD, TEST, aligned, backbone, fitted
from tests.hub_server import TOKEN, Hub, Repository, serving
from tests.test_cli import run

REPO = "example/bracket"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with serving() as served:
        template = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", served.url)  # both are read from HF_ENDPOINT when it is imported
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    padim.save(fitted("plain"), tmp_path / "bracket.padim")
    return tmp_path / "bracket.padim"


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_comes_back_as_it_was_pushed(hub: Hub, model_dir: Path, tmp_path: Path) -> None:
    said: list[str] = []
    commit = push(model_dir, REPO)
    assert hub.repositories[REPO].private
    assert pull(REPO, tmp_path / "new" / "model", note=said.append) == commit
    assert files_in(tmp_path / "new" / "model") == files_in(model_dir)
    assert [*(tmp_path / "new").iterdir()] == [tmp_path / "new" / "model"]
    found, known = (padim.score(padim.load(path), TEST) for path in (tmp_path / "new" / "model", model_dir))
    np.testing.assert_array_equal(found.anomaly_map, known.anomaly_map)
    size = sum(len(content) for name, content in hub.repositories[REPO].files.items() if name != ".gitattributes")
    assert said == [f"{REPO} at {commit}: {len(files_in(model_dir)) + 1} files, {size / 1e6:.2f} MB"]
    padim.save(padim.load(tmp_path / "new" / "model"), tmp_path / "new" / "model")  # it is a model as any other


def test_every_kind_of_model_comes_back(hub: Hub, tmp_path: Path) -> None:
    padim.save(aligned("rigid"), tmp_path / "aligned")
    save_compacted(compact(fitted("standardised, top share"), 0.05), tmp_path / "compact")
    moments = padim.update(backbone("efficientnet_lite0"), padim.init(backbone("efficientnet_lite0"), SMALL), GOOD)
    save_updatable(padim.Updatable(backbone("efficientnet_lite0"), moments), tmp_path / "updatable")
    save_updatable(load_updatable(tmp_path / "updatable"), tmp_path / "updatable", keep_previous=True)
    for name in ("aligned", "compact", "updatable"):
        push(tmp_path / name, f"example/{name}")
        pull(f"example/{name}", tmp_path / "back" / name)
        kept = {file for file in files_in(tmp_path / name) if file.startswith("arrays") or file == "model.json"}
        found = files_in(tmp_path / "back" / name)
        assert {*found} <= kept  # and not what undo keeps
        assert model_digest(padim.load(tmp_path / "back" / name)) == model_digest(padim.load(tmp_path / name))
    assert int(load_updatable(tmp_path / "back" / "updatable").moments.count) == len(GOOD)


def test_an_export_comes_back_and_verifies(hub: Hub, exported: Path, tmp_path: Path) -> None:
    push(exported, REPO, public=True)
    assert not hub.repositories[REPO].private
    pull(REPO, tmp_path / "out")
    assert files_in(tmp_path / "out") == files_in(exported)
    assert verify_export(tmp_path / "out", GOOD).runtimes
    pull(REPO, tmp_path / "out")  # an earlier export is replaced
    shutil.copytree(exported, tmp_path / "damaged")
    (tmp_path / "damaged" / "reference.npz").write_bytes(b"")
    with pytest.raises(ExportError, match=r"reference\.npz is not the file that was certified"):
        push(tmp_path / "damaged", REPO, public=True)


def test_the_card_says_what_the_model_is(hub: Hub, model_dir: Path, exported: Path) -> None:
    push(model_dir, REPO)
    card = hub.repositories[REPO].files[CARD].decode()
    model = padim.load(model_dir)
    assert model.calibration is not None
    for line in (
        "library_name: padim_jax",
        f"padim_digest: {model_digest(model)}",
        "| network | `efficientnet_lite0`, layers block2, block4 |",
        "| licence of the network's weights | Apache-2.0 |",
        "| fitted on | 24 good images |",
        f"| `crop_size` | `{model.config.crop_size}` |",
        f"| calibration | 24 good images, leave-one-out; above {float(model.calibration.threshold):.6g} is anomalous, "
        "for a rate of false alarms of 0.2 |",
    ):
        assert line in card.splitlines()
    push(exported, "example/program")
    card = hub.repositories["example/program"].files[CARD].decode()
    assert "| format, precision | onnx, float32 |" in card.splitlines()


def test_what_was_pushed_before_is_replaced_and_nothing_else(hub: Hub, model_dir: Path, tmp_path: Path) -> None:
    first = push(model_dir, REPO)
    repository = hub.repositories[REPO]
    repository.add({**repository.files, "picture.png": b"of a bracket"})
    padim.save(padim.with_threshold(fitted("plain"), 7.0), model_dir)
    second = push(model_dir, REPO)
    names = {name for name in repository.files if name not in (".gitattributes", CARD, "picture.png")}
    assert names == {*files_in(model_dir)}
    assert repository.files["picture.png"] == b"of a bracket"
    for commit, threshold in ((first, None), (second, 7.0)):
        pull(REPO, tmp_path / commit, revision=commit)
        found = padim.load(tmp_path / commit).calibration
        assert found is not None
        assert (float(found.threshold) == 7.0) == (threshold is not None)


def test_a_repository_with_other_things_or_that_is_public_is_refused(hub: Hub, model_dir: Path) -> None:
    hub.repositories[REPO] = Repository(private=True)
    hub.repositories[REPO].add({"weights.bin": b"of another"})
    with pytest.raises(OSError, match=r"^push: example/bracket holds other things \(weights\.bin\); choose a new"):
        push(model_dir, REPO)
    hub.repositories[REPO] = Repository(private=False)
    with pytest.raises(OSError, match=r"^push: example/bracket is public: everybody would see the model; ask for"):
        push(model_dir, REPO)
    assert len(hub.repositories[REPO].commits) == 1
    push(model_dir, REPO, public=True)


def test_without_a_token_or_the_extra_it_says_so(hub: Hub, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        OSError, match=r"^push: there is no token for the Hugging Face Hub; run `hf auth login`, or set"
    ):
        push(model_dir, REPO)
    assert not hub.requests
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OSError, match=r"^push: example/bracket: .*Invalid credentials.* your token .* write it\?$"):
        push(model_dir, REPO)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for work in (lambda: push(model_dir, REPO), lambda: pull(REPO, model_dir)):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'padim-jax\[hub\]'"):
            work()


@pytest.mark.parametrize("repo", ["example/nothing", "example/private", "no such name!"])
def test_a_repository_that_can_not_be_read_is_told(repo: str, hub: Hub, tmp_path: Path) -> None:
    os.environ.pop("HF_TOKEN")
    hub.repositories["example/private"] = Repository(private=True)
    with pytest.raises(OSError, match=rf"^pull: {repo}: .*Is the name right, and may your token .* see it\?$"):
        pull(repo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def changed(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The files with other entries in the manifest, whose checksum is right."""
    record = json.loads(files["model.json"]) | changes
    record["checksum"] = manifest_checksum(record)
    return {**files, "model.json": json.dumps(record).encode()}


def test_what_anybody_may_have_made_is_refused_and_leaves_nothing(hub: Hub, model_dir: Path, tmp_path: Path) -> None:
    push(model_dir, REPO)
    repository = hub.repositories[REPO]
    good = dict(repository.files)
    array = max((name for name in good if name.startswith("arrays-")), key=lambda name: len(good[name]))
    other = good[CARD].replace(model_digest(fitted("plain")).encode(), b"0" * 64)
    directory = json.loads(good["model.json"])["directory"]
    for files, fault in (
        (
            {name: content for name, content in good.items() if name != array},
            rf"^pull: load: {REPO}/arrays-.* is missing; the model was copied in part",
        ),
        ({**good, array: good[array][:-1] + b"\0\0"}, "is damaged"),
        ({**good, f"{directory}/more": b""}, "is damaged"),
        (changed(good, directory="../elsewhere"), "is damaged"),
        (changed(good, arrays={name: [10**9] for name in json.loads(good["model.json"])["arrays"]}), "is damaged"),
        ({**good, CARD: other}, "holds model .* and its card is of 000000000000"),
        ({"model.pkl": b"\x80\x04."}, "holds neither model.json nor certificate.json"),
    ):
        repository.add(files)
        with pytest.raises(ArtifactError, match=fault):
            pull(REPO, tmp_path / "new" / "out")
        assert not any(path.name != ".out.padim-lock" for path in (tmp_path / "new").glob("*")), fault
    repository.add(good)
    pull(REPO, tmp_path / "new" / "out")


def test_only_files_of_ours_are_taken_and_names_lead_nowhere_else(hub: Hub, model_dir: Path, tmp_path: Path) -> None:
    push(model_dir, REPO)
    repository = hub.repositories[REPO]
    arrays = f"arrays-{'0' * 16}"
    strange = ["setup.py", "../outside", f"{arrays}/../../outside", f"{arrays}/a/..", "model.json/x", f"{arrays}\\x"]
    assert not any(map(is_own_file, strange))
    repository.add({**repository.files, **dict.fromkeys(strange, b"import os")})
    hub.requests.clear()
    pull(REPO, tmp_path / "out")
    assert files_in(tmp_path / "out") == files_in(model_dir)
    assert not [path for path in hub.requests if any(name in path for name in ("setup.py", "outside"))]
    assert not (tmp_path / "outside").exists()


def test_sizes_are_announced_first_and_held(
    hub: Hub, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(model_dir, REPO)
    for sizes, fault in (
        ({"model.json": 10**18}, "takes \\d{13} MB, and .* MB are free; choose another disk"),
        ({"model.json": None}, "does not say which commit it is, or how large its files are"),
        ({"model.json": 3}, "model.json did not come as the Hub announced it; pull again"),
    ):
        hub.sizes = sizes
        hub.requests.clear()
        with pytest.raises((OSError, ArtifactError), match=f"^pull: example/bracket.*{fault}"):
            pull(REPO, tmp_path / "out")
        assert bool([one for one in hub.requests if "resolve" in one]) == ("announced" in fault)
    assert not (tmp_path / "out").exists()


def test_nothing_of_anybodys_is_replaced(hub: Hub, model_dir: Path, tmp_path: Path) -> None:
    push(model_dir, REPO)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    for place in (tmp_path / "mine", model_dir):
        before = files_in(place)
        with pytest.raises(NotOurs, match=r"^pull: .* already exists and is no export of padim"):
            pull(REPO, place)
        assert files_in(place) == before
    (tmp_path / "empty").mkdir()
    pull(REPO, tmp_path / "empty")
    assert not (tmp_path / "empty" / MARKER).exists()


def test_a_model_never_lies_there_with_the_mark_of_exports(
    hub: Hub, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(model_dir, REPO)
    rename, out = Path.rename, tmp_path / "new" / "out"

    def die_after(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        raise KeyboardInterrupt if moved == out else AssertionError

    monkeypatch.setattr(Path, "rename", die_after)
    with pytest.raises(KeyboardInterrupt):
        pull(REPO, out)
    assert files_in(out) == files_in(model_dir)


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(
    hub: Hub, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(model_dir, REPO)
    repository, real = hub.repositories[REPO], Hub.size

    def size(self: Hub, name: str, content: bytes) -> int | None:  # asked for while the state is read
        if name == "model.json" and len(repository.commits) == 2:
            repository.add({**repository.files, "theirs": b""})
        return real(self, name, content)

    monkeypatch.setattr(Hub, "size", size)
    with pytest.raises(OSError, match=r"^push: example/bracket: .*somebody else has committed"):
        push(model_dir, REPO)
    assert "theirs" in repository.files


@pytest.mark.slow
def test_the_commands(hub: Hub, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = run(capsys, "push", model_dir, REPO)
    assert (code, told.strip()) == (0, f"{REPO}: {model_dir}, commit {hub.repositories[REPO].newest}")
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "padim_jax.cli", "pull", REPO, "--out", "back", "--revision", "main"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"back: {REPO} at {hub.repositories[REPO].newest}, every file checked"
    assert files_in(tmp_path / "back") == files_in(model_dir)
    code, _, said = run(capsys, "push", tmp_path / "nothing", REPO)
    assert (code, "there is no model at" in said) == (1, True)
