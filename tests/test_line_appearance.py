"""What an image is like: numbers that tell lamp, lens, place and turn apart, kept with each decision and gone with it."""

import lzma
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

import padim_jax as padim
from padim_jax.artifact.loading import load
from padim_jax.line.appearance import GRID, Appearance, complete, measure
from padim_jax.line.judge import Judge, Photo
from padim_jax.line.records import Decision
from padim_jax.line.schema import StoreError
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates
from tests.conftest import SMALL, images
from tests.exports import SETTINGS, fitted
from tests.test_aligned import ALIGNED, GOOD, TURNED
from tests.test_line_judge import photos
from tests.test_line_store import DAY, Clock, decision

OLD = Path(__file__).parent / "line-schema-2.db.xz"
RATES = Rates(None, 0.5)


def part() -> np.ndarray:
    """A part before a dark, plain ground, without noise."""
    y, x = np.mgrid[:96, :128]
    body = 140 + 60 * np.sin(x / 2) * np.cos(y / 3)
    inside = (abs(y - 48) < 30) & (abs(x - 64) < 40)
    return np.repeat(np.where(inside, body, 40)[..., None], 3, 2).astype(np.uint8)


def test_a_darker_lamp_changes_brightness_alone() -> None:
    before, after = measure(part()), measure(np.round(part() * 0.9).astype(np.uint8))
    assert after.brightness == pytest.approx(0.9 * before.brightness, rel=0.005)
    for name in ("contrast", "sharpness"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=0.01)
    assert (after.row, after.column) == pytest.approx((before.row, before.column), abs=0.05)


def test_haze_lowers_contrast_and_a_blurred_lens_sharpness() -> None:
    before, hazy = measure(part()), measure((part() // 2 + 60).astype(np.uint8))
    assert hazy.contrast < 0.7 * before.contrast
    blurred = measure(np.asarray(Image.fromarray(part()).filter(ImageFilter.GaussianBlur(1))))
    assert blurred.sharpness < 0.8 * before.sharpness
    assert blurred.brightness == pytest.approx(before.brightness, rel=0.01)


@pytest.mark.parametrize(("rows", "columns"), [(3, 0), (0, -3), (4, 2)])
def test_the_centre_of_edges_moves_as_the_part_does(rows: int, columns: int) -> None:
    before, after = measure(part()), measure(np.roll(part(), (rows, columns), (0, 1)))
    assert (after.row - before.row, after.column - before.column) == pytest.approx((rows, columns), abs=0.3)


def test_the_formulas_are_those_that_are_stated() -> None:
    pixels = np.repeat(np.random.default_rng(0).integers(0, 256, (10, 12, 1), np.uint8), 3, 2)
    y = pixels[..., 0].astype(float)  # of grey, luma is the grey
    laplacian = y[2:, 1:-1] + y[:-2, 1:-1] + y[1:-1, 2:] + y[1:-1, :-2] - 4 * y[1:-1, 1:-1]
    found = measure(pixels)
    assert found.brightness == pytest.approx(y.mean(), rel=1e-5)
    assert found.contrast == pytest.approx(y.std() / y.mean(), rel=1e-5)
    assert found.sharpness == pytest.approx(np.sqrt((laplacian**2).mean()) / y.std(), rel=1e-5)
    assert (found.turn, found.places) == (None, ())
    anomaly_map = np.random.default_rng(1).random((9, 14)).astype(np.float32)
    places = complete(found, anomaly_map, (1.5, 2.25, -3.0), turns=True)
    assert (places.turn, places.row, places.column) == (1.5, 2.25, -3.0)
    rows, columns = (np.arange(GRID + 1) * length // GRID for length in anomaly_map.shape)
    brute = [
        anomaly_map[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].mean() for i in range(GRID) for j in range(GRID)
    ]
    np.testing.assert_allclose(places.places, brute, rtol=1e-5)


@pytest.mark.parametrize("pixels", [np.zeros((1, 1, 3), np.uint8), np.zeros((2, 5, 3), np.uint8), part()])
@pytest.mark.parametrize("places", [(), tuple(float(place) for place in range(GRID * GRID))])
def test_it_comes_back_from_its_bytes(pixels: np.ndarray, places: tuple[float, ...]) -> None:
    found = replace(measure(pixels), turn=-0.5 if places else None, places=places)
    assert Appearance.unpack(found.pack()) == found


@pytest.mark.slow
@pytest.mark.parametrize("kind", SETTINGS)
def test_every_kind_of_model_keeps_it_with_its_decisions(tmp_path: Path, kind: str) -> None:
    model = fitted(kind)
    padim.save(replace(model, config=replace(model.config, image_size=SMALL.crop_size)), tmp_path / "m")
    shown = images(3, SMALL, seed=9)
    maps = np.asarray(padim.score(load(tmp_path / "m"), shown).anomaly_map)
    with Store.open(tmp_path / "l.db") as store:
        store.record(found.decision for found in Judge(tmp_path / "m", RATES, batch_size=4).judge(photos(shown)))
        for found, pixels, anomaly_map in zip(store.decisions(), shown, maps, strict=True):
            assert found.appearance is not None
            assert found.appearance.brightness == measure(pixels).brightness
            height, width = (length // GRID for length in anomaly_map.shape)
            means = anomaly_map.reshape(GRID, height, GRID, width).mean((1, 3)).ravel()
            np.testing.assert_allclose(found.appearance.places, means, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_of_an_aligned_model_it_has_the_pose_that_was_found(tmp_path: Path, lite0: padim.Backbone) -> None:
    config = replace(ALIGNED, image_size=ALIGNED.crop_size)
    padim.save(padim.calibrate(padim.fit(lite0, [GOOD], config), [GOOD]), tmp_path / "m")
    judge = Judge(tmp_path / "m", Rates(None, 0.2), batch_size=4)
    alignment = judge.current.model.alignment
    assert alignment is not None
    poses = alignment.poses(jnp.asarray(TURNED))
    for index, found in enumerate(judge.judge(photos(TURNED))):
        appearance = found.decision.appearance
        assert appearance is not None
        assert appearance.turn == pytest.approx(float(poses.angle[index]), abs=1e-3)
        assert (appearance.row, appearance.column) == pytest.approx(np.asarray(poses.shift[index]), abs=1e-3)


def test_what_has_no_score_has_no_appearance(tmp_path: Path) -> None:
    padim.save(fitted(next(iter(SETTINGS))), tmp_path / "m")
    (found,) = Judge(tmp_path / "m", RATES).judge([Photo("s", "x", tmp_path / "x", content=b"no image")])
    assert found.decision.appearance is None


def test_it_is_gone_with_its_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_jax.line.retention.NEWEST", 0)
    clock = Clock()
    with Store.open(tmp_path / "l.db", clock=clock) as store:
        store.record([decision("a.png", appearance=measure(part()))])
        clock.now += 2 * DAY
        store.record([decision("b.png", appearance=measure(part()))])
        store.retain(max_seconds=DAY)
        assert store._database.read("SELECT count(appearance) FROM decisions") == [(1,)]


def test_what_is_damaged_is_said_in_words(tmp_path: Path) -> None:
    with Store.open(tmp_path / "l.db") as store:
        store.record([decision(appearance=measure(part()))])
        for wrong in (b"", b"x" * 7, b"\xff" * len(measure(part()).pack())):
            with store._database.transaction() as connection:
                connection.execute("UPDATE decisions SET appearance = ?", (wrong,))
            for read in (store.decisions, store.scores):
                with pytest.raises(StoreError, match="is damaged: a row holds no decision"):
                    list(read())


def test_a_store_of_the_version_before_is_brought_up_to_date_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "l.db").write_bytes(lzma.decompress(OLD.read_bytes()))
    with Store.open(tmp_path / "l.db", create=False) as store:
        old = list(store.decisions())
        assert len(old) == 40
        assert all(found.appearance is None and found.score for found in old)
        assert old[0].correction is not None
        assert old[0].correction.who == "Ada"
        (waiting,) = store.outbox.waiting()
        assert (waiting.output, waiting.count) == ("webhook http://plc/part", 1)
        (new,) = store.record([Decision("/in", "new.png", "0a", "bracket", "ab" * 32, "good", score=9.0)])
        (other,) = store.record([decision(appearance=measure(part()))])
        assert [found.appearance for found in store.decisions(after=new.sequence - 1)] == [None, other.appearance]
        assert store.record(old) == []
