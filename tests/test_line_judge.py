"""The judge of a line: the same numbers as ``padim.score``, of models of every kind, from files and from bytes."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.artifact.loading import load
from padim_jax.line.judge import Judge, Photo, has_end
from padim_jax.line.verdict import NoVerdicts, Rates
from padim_jax.runs.score import POOR_MATCH
from tests.conftest import SMALL, images
from tests.exports import SETTINGS, fitted
from tests.line_parts import SEEN, fit_model, parts
from tests.test_aligned import ALIGNED, GOOD, TURNED
from tests.test_aligned_runs import EMPTY

RATES = Rates(None, 0.5)


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def photos(pixels: np.ndarray) -> list[Photo]:
    """Images that a server has got: bytes, and no file."""
    return [Photo("server", f"{i}.png", Path(f"{i}.png"), content=encode(image)) for i, image in enumerate(pixels)]


@pytest.mark.parametrize(("kind", "roi"), [*((kind, False) for kind in SETTINGS), ("standardised, top share", True)])
def test_every_kind_of_model_judges_as_it_scores(tmp_path: Path, kind: str, roi: bool) -> None:
    model = fitted(kind, roi=roi)
    model = replace(model, config=replace(model.config, image_size=SMALL.crop_size))
    padim.save(model, tmp_path / "m")
    shown = np.concatenate([images(2, SMALL, seed=9), images(24, SMALL)[:1]])
    expected = padim.score(load(tmp_path / "m"), shown)
    judged = Judge(tmp_path / "m", RATES, batch_size=4).judge(photos(shown))
    np.testing.assert_allclose([one.decision.score for one in judged], expected.image_score, rtol=1e-4)  # type: ignore[arg-type]
    assert expected.anomalous is not None
    assert expected.p_value is not None
    np.testing.assert_allclose([one.decision.p_value for one in judged], expected.p_value, rtol=1e-5)  # type: ignore[arg-type]
    verdicts = [
        "bad" if bad else "look" if p <= 0.48 else "good"
        for bad, p in zip(expected.anomalous, expected.p_value, strict=True)
    ]
    assert [one.decision.verdict for one in judged] == verdicts


def test_an_image_that_does_not_lie_as_good_ones_do_is_never_good(tmp_path: Path, lite0: padim.Backbone) -> None:
    config = replace(ALIGNED, image_size=ALIGNED.crop_size)
    model = padim.calibrate(padim.fit(lite0, [GOOD], config), [GOOD])
    padim.save(model, tmp_path / "m")
    judge = Judge(tmp_path / "m", Rates(None, 0.2), batch_size=4)
    *turned, empty = judge.judge(photos(np.concatenate([TURNED, EMPTY])))
    assert empty.decision.verdict in ("look", "bad")
    assert POOR_MATCH in empty.decision.reason
    assert not any(POOR_MATCH in one.decision.reason for one in turned)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(fit_model(tmp_path_factory.mktemp("line") / "bracket"), RATES, batch_size=2)


def test_files_and_bytes_and_batches_of_any_size_are_the_same(judge: Judge, tmp_path: Path) -> None:
    pixels = parts(5, seed=3)
    from_bytes = judge.judge(photos(pixels))
    files = list[Photo]()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        files.append(Photo("server", f"{index}.png", tmp_path / f"{index}.png"))
    assert [one.decision for one in judge.judge(files)] == [one.decision for one in from_bytes]
    assert judge.judge([]) == []
    (alone,) = judge.judge(files[3:4])
    assert alone.decision.score == pytest.approx(from_bytes[3].decision.score, rel=1e-5)
    assert alone.decision.id == from_bytes[3].decision.id


def test_what_is_no_image_does_not_take_the_others_along(judge: Judge) -> None:
    good, *_ = photos(parts(1, seed=3))
    broken = [
        replace(good, item="a", content=b""),
        replace(good, item="b", content=b"no image"),
        replace(good, item="c", content=(good.content or b"")[:500]),
        replace(good, item="d", content=None, path=Path("nowhere.png")),
    ]
    found = {one.decision.item: one for one in judge.judge([broken[0], good, *broken[1:]])}
    assert {item: one.decision.verdict for item, one in found.items() if item != "0.png"} == dict.fromkeys(
        "abcd", "unreadable"
    )
    assert found["0.png"].decision.verdict != "unreadable"
    assert all(one.decision.reason for item, one in found.items() if item != "0.png")
    assert [found[item].is_whole for item in ("0.png", "c")] == [True, False]


def test_a_score_that_is_no_number_is_to_be_looked_at(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    from padim_jax.line import judge as module

    def break_one(model: object, batches: list[object], **options: object) -> object:
        (batch,) = batches
        if "1.png" in [path.name for path in batch.paths]:  # type: ignore[attr-defined]
            raise FloatingPointError("score: 1.png got nan; the model or the image is broken")
        return original(model, batches, **options)  # type: ignore[arg-type]

    original = module.score_batches
    monkeypatch.setattr(module, "score_batches", break_one)
    found = [one.decision for one in judge.judge(photos(parts(4, seed=3)))]
    assert [one.verdict == "look" and "got nan" in one.reason for one in found] == [False, True, False, False]
    assert [one.score is None for one in found] == [False, True, False, False]


def test_what_was_done_to_a_file_to_read_it_is_in_the_reason(judge: Judge) -> None:
    frames = [Image.fromarray(image) for image in parts(2, seed=3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    (found,) = judge.judge([Photo("server", "a.tif", Path("a.tif"), content=buffer.getvalue())])
    assert "first of 2 frames" in found.decision.reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_whole_file_of_any_format_has_its_end(kind: str) -> None:
    content = encode(parts(1, seed=3)[0], kind)
    assert has_end(content)
    if kind in ("PNG", "JPEG", "WEBP"):
        assert not has_end(content[:-2])


def test_what_a_camera_adds_behind_a_jpeg_of_a_request_does_not_cut_it_short(judge: Judge, tmp_path: Path) -> None:
    content = encode(parts(1, seed=3)[0], "JPEG") + bytes(5000)
    (found,) = judge.judge([Photo("server", "a.jpg", Path("a.jpg"), content=content)])
    assert found.is_whole
    (tmp_path / "a.jpg").write_bytes(content)  # a file may still be written
    (found,) = judge.judge([Photo("folder", "a.jpg", tmp_path / "a.jpg")])
    assert not found.is_whole


def test_a_model_that_can_not_score_does_not_take_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remarks: list[str] = []
    path = fit_model(tmp_path / "model")
    judge = Judge(path, RATES, batch_size=2, remark=remarks.append)
    before = judge.current
    other = fit_model(tmp_path / "other", seed=9)
    shutil.rmtree(path)
    shutil.copytree(other, path)

    def broken(*_: object) -> None:
        raise FloatingPointError("out of numbers")

    with monkeypatch.context() as patch:
        patch.setattr(judge, "_score", broken)
        assert not judge.refresh()
    assert judge.current is before
    assert "so the model goes on that was: out of numbers" in remarks[-1]
    monkeypatch.setattr("padim_jax.line.judge._RETRY", 0.0)
    judge._retry = 0.0
    assert judge.refresh()
    assert judge.current is not before


def test_a_warm_judge_compiles_nothing_more(judge: Judge, compilations: list[str]) -> None:
    judge.warm_up()
    before = len(compilations)
    for count in (1, 2, 3, 5):
        judge.judge(photos(parts(count, seed=count)))
    assert len(compilations) == before


def test_no_batch_and_no_calibration_is_refused(tmp_path: Path, judge: Judge) -> None:
    with pytest.raises(ValueError, match="batch_size=0, wanted 1 or more"):
        Judge(judge.path, batch_size=0)
    with pytest.raises(NoVerdicts, match="not calibrated"):
        Judge(fit_model(tmp_path / "m", calibrated=False))
    assert SEEN.crop_size == judge.current.model.config.crop_size
