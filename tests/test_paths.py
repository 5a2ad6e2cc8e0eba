"""Paths of every kind: text, objects of their own, names that are no UTF-8, folders too deep to name."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.images import (
    UnreadableImage,
    find_images,
    find_value_range,
    load_batches,
    read_image,
    read_roi,
    read_roi_of,
)
from padim_jax.images.survey import survey
from tests.image_files import png
from tests.test_cli import SIZES, run

CONFIG = padim.PadimConfig(image_size=(40, 56), crop_size=(32, 48))
PIXELS = np.random.default_rng(0).integers(1, 256, (40, 56, 3), np.uint8)


class _Named(os.PathLike[str]):
    """What Python's own functions take for a path, and no more."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("kind", [str, Path, _Named])
def test_every_function_takes_text_and_path_objects(tmp_path: Path, kind: Callable[[Path], str]) -> None:
    good, bad, deep = tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "deep.png"
    good.write_bytes(png(PIXELS))
    bad.write_bytes(b"no image")
    deep.write_bytes(png(PIXELS.astype(np.uint16) * 16))
    named = [kind(good), kind(bad)]
    np.testing.assert_array_equal(read_image(kind(good), CONFIG), PIXELS[4:36, 4:52])
    refused: list[UnreadableImage] = []
    (batch,) = load_batches(named, CONFIG, 4, refused.append)
    assert batch.paths == [good]
    assert [facts.path for facts in survey(named, refused.append)] == [good]
    assert find_value_range([kind(deep)]) == (0, 4095)
    assert find_value_range(named, refused.append) is None
    assert [error.path for error in refused] == [bad] * 3
    assert read_roi(kind(good), CONFIG).all()
    assert read_roi_of(kind(good), CONFIG, named).all()
    assert find_images([kind(tmp_path)]).paths == (bad, deep, good)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "map.png").write_bytes(png(PIXELS))
    assert find_images([kind(tmp_path)], exclude=kind(tmp_path / "out")).paths == (bad, deep, good)
    for read in (read_image, read_roi):
        with pytest.raises(UnreadableImage, match=r"bad\.png: no image") as caught:
            read(kind(bad), CONFIG)
        assert caught.value.path == bad


def test_paths_stay_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableImage, match=r"^can't read bad\.png: no image"):
        read_image("bad.png", CONFIG)
    with pytest.raises(UnreadableImage, match=r"^can't read bad\.png: no image"):
        list(load_batches(["bad.png"], CONFIG, 1))


@contextmanager
def _nested(folder: Path, name: str, levels: int, content: bytes) -> Iterator[None]:
    """Folders within folders with a file ``a.png`` in the innermost, made and removed without naming them whole."""
    opened = [os.open(folder, os.O_RDONLY)]
    try:
        for _ in range(levels):
            os.mkdir(name, dir_fd=opened[-1])
            opened.append(os.open(name, os.O_RDONLY, dir_fd=opened[-1]))
            if len(opened) > 2:
                os.close(opened.pop(0))
        with os.fdopen(os.open("a.png", os.O_WRONLY | os.O_CREAT, dir_fd=opened[-1]), "wb") as stream:
            stream.write(content)
        yield
    finally:
        place = opened[-1]
        os.unlink("a.png", dir_fd=place)
        for _ in range(levels):
            above = os.open("..", os.O_RDONLY, dir_fd=place)
            os.close(place)
            os.rmdir(name, dir_fd=above)
            place = above
        os.close(place)
        for one in opened[:-1]:
            os.close(one)


@pytest.mark.slow
def test_a_deep_folder_is_searched(tmp_path: Path) -> None:
    with _nested(tmp_path, "d", 1200, png(PIXELS)):
        (found,) = find_images([tmp_path]).paths
        assert len(found.relative_to(tmp_path).parts) == 1201
        assert read_image(found, CONFIG).shape == (32, 48, 3)


def test_a_folder_too_deep_to_name_is_refused_in_words(tmp_path: Path) -> None:
    with (
        _nested(tmp_path, "d" * 100, 60, png(PIXELS)),
        pytest.raises(
            ValueError, match=r"find_images: .* folders within folders \d+ deep, and there a path becomes longer"
        ),
    ):
        find_images([tmp_path])


def _odd_name(folder: Path, suffix: str) -> Path:
    """A name that is no UTF-8, where the file system takes one."""
    path = folder / os.fsdecode(b"caf\xe9-\xff" + suffix.encode())
    try:
        path.touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    return path


def test_names_that_are_no_utf8_are_read_and_named(tmp_path: Path) -> None:
    good, bad = _odd_name(tmp_path, "good.png"), _odd_name(tmp_path, "bad.png")
    good.write_bytes(png(PIXELS))
    bad.write_bytes(b"no image")
    assert set(find_images([tmp_path]).paths) == {good, bad}
    refused: list[UnreadableImage] = []
    (batch,) = load_batches([good, bad], CONFIG, 4, refused.append)
    assert (batch.paths, [error.path for error in refused]) == ([good], [bad])
    assert str(bad) in str(refused[0])
    assert [facts.path for facts in survey([good], refused.append)] == [good]
    assert read_roi_of(good, CONFIG, [good, bad]).all()


@pytest.mark.slow
def test_commands_bear_names_that_are_no_utf8(
    good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "fit", good_dir, "--out", tmp_path / "model", *SIZES)[0] == 0
    folder = tmp_path / "odd"
    folder.mkdir()
    Image.fromarray(PIXELS).save(_odd_name(folder, "good.png"))
    _odd_name(folder, "bad.png").write_bytes(b"no image")
    code, _, err = run(capsys, "score", tmp_path / "model", folder, "--out", tmp_path / "out")
    assert code == 1
    assert "bad.png: no image" in err
    (_, row) = (tmp_path / "out" / "scores.csv").read_text("utf-8").splitlines()
    assert "/caf\\xe9-\\xffgood.png," in row  # escaped, so that the table is UTF-8
    assert "Traceback" not in err
