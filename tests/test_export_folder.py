"""An export takes the place of an earlier one alone, and of that only once it is whole."""

from pathlib import Path

import pytest

from padim_jax.artifact.ownership import MARKER, NotOurs, mark
from padim_jax.export import export_model
from padim_jax.export.certificate import CERTIFICATE
from padim_jax.export.folder import replaced


def export(out: Path, text: str) -> None:
    """A folder that looks like an export from outside, without the minutes of one."""
    with replaced(out, "test") as folder:
        (folder / CERTIFICATE).write_text(text)
        (folder / "model.onnx").write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


EARLIER = {CERTIFICATE: "1", "model.onnx": "1", MARKER: ""}
LATER = {CERTIFICATE: "2", "model.onnx": "2", MARKER: ""}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    export(tmp_path / "x", "1")
    return tmp_path / "x"


def test_a_later_one_takes_its_place(out: Path) -> None:
    export(out, "2")
    assert content(out.parent) == {f"x/{name}": text for name, text in LATER.items()}


@pytest.mark.parametrize("name", ["app.cpp", "sub/notes", ".DS_Store", "model.stablehlo"])
def test_what_a_user_put_there_is_not_removed(out: Path, name: str) -> None:
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("precious")
    with pytest.raises(NotOurs, match=rf"^test: {out / name.split('/')[0]} is not of the export in .*move it away"):
        export(out, "2")
    assert content(out.parent) == {f"x/{known}": text for known, text in (EARLIER | {name: "precious"}).items()}


def test_what_a_user_puts_there_meanwhile_is_not_removed(out: Path) -> None:
    def slow() -> None:
        with replaced(out, "test"):
            (out / "app.cpp").write_text("precious")

    with pytest.raises(NotOurs, match=r"app\.cpp"):
        slow()
    assert content(out) == EARLIER | {"app.cpp": "precious"}
    assert [path.name for path in out.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [OSError("disk gone"), KeyboardInterrupt()])
def test_an_earlier_one_comes_back_where_the_change_fails(
    out: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.parent.name.endswith(".unfinished"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(type(error)):
        export(out, "2")
    assert content(out.parent) == {f"x/{name}": text for name, text in EARLIER.items()}


def test_an_earlier_one_comes_back_after_a_process_that_died(out: Path) -> None:
    out.rename(out.with_name(".x.replaced"))
    with pytest.raises(ValueError, match="later"), replaced(out, "test"):
        raise ValueError("later")
    assert content(out.parent) == {f"x/{name}": text for name, text in EARLIER.items()}
    out.rename(out.with_name(".x.replaced"))
    export(out, "2")
    assert content(out.parent) == {f"x/{name}": text for name, text in LATER.items()}


def test_what_a_process_that_died_left_unfinished_is_removed_whatever_its_mark(out: Path) -> None:
    mark(out.with_name(".x.unfinished"))
    (out.with_name(".x.unfinished") / "folder").mkdir()
    (out.with_name(".x.unfinished") / "folder" / "model.json").write_text("{}")
    export(out, "2")
    assert content(out.parent) == {f"x/{name}": text for name, text in LATER.items()}


@pytest.mark.parametrize("name", [".x.replaced", ".x.unfinished"])
@pytest.mark.parametrize("is_link", [False, True])
def test_what_is_foreign_beside_it_is_refused_in_words(out: Path, name: str, is_link: bool) -> None:
    foreign = out.parent / name
    if is_link:
        foreign.symlink_to(out)
    else:
        foreign.mkdir()
        (foreign / "notes").write_text("mine")
    before = content(out.parent)
    with pytest.raises(NotOurs, match=rf"^test: {foreign} .*move it"):
        export(out, "2")
    assert (content(out.parent), foreign.is_symlink()) == (before, is_link)


@pytest.mark.parametrize(
    ("out", "message"), [("m", "lies in the model"), ("m/deep/exp", "lies in the model"), (".", "holds the model")]
)
def test_an_export_does_not_lie_in_a_model_nor_hold_one(tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text("{}")
    with pytest.raises(NotOurs, match=rf"^export_model: .* {message}"):
        export_model(tmp_path / "m", tmp_path / out)
    assert [path.name for path in tmp_path.rglob("*")] == ["m", "model.json"]
