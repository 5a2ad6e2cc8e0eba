"""What records say of themselves: a line in a session, a table and pictures in a notebook."""

import base64
import dataclasses
import io
import re
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.method.album import LARGEST
from tests.conftest import SMALL, images


@pytest.fixture(scope="module")
def calibrated(small_model: padim.Padim) -> padim.Padim:
    return padim.calibrate(small_model, [images(20, SMALL)])


@pytest.fixture(scope="module")
def scores(calibrated: padim.Padim) -> padim.Scores:
    return padim.score(calibrated, images(3, SMALL, seed=5))


def records(model: padim.Padim) -> dict[str, Any]:
    moments = padim.update(model.backbone, padim.init(model.backbone, SMALL), images(4, SMALL))
    return {
        "Padim": model,
        "PadimMoments": moments,
        "Updatable": padim.Updatable(model.backbone, moments, {"a": 1}, model.calibration),
        "Backbone": model.backbone,
        "Calibration": model.calibration,
        "Scores": padim.score(model, images(3, SMALL, seed=5)),
    }


def test_every_record_says_its_facts_on_a_line(calibrated: padim.Padim) -> None:
    fitted = "efficientnet_lite0, taps block2, block4, d = 12, grid 8×12"
    known = calibrated.calibration
    assert known is not None
    above = f"anomalous above {float(known.threshold):.4g}"
    said = {name: repr(record) for name, record in records(calibrated).items()}
    assert all(text.startswith(f"{name}(") for name, text in said.items())
    assert said["Padim"] == f"Padim({fitted}, 20 images, calibrated: {above})"
    assert said["PadimMoments"] == f"PadimMoments({fitted}, 4 images)"
    assert said["Updatable"] == (
        f"Updatable({fitted}, 4 images, 1 of them known by their digests, calibrated: {above})"
    )
    digest = calibrated.backbone.weights_digest[:8]
    assert said["Backbone"].startswith(f"Backbone(efficientnet_lite0, weights {digest}, 0.69 million parameters, ")
    assert re.match(
        rf"Calibration\(20 good images, leave-one-out, {above}, false-alarm rate 0.01, ", said["Calibration"]
    )
    assert re.match(r"Scores\(3 images, scores [\d.]+ to [\d.]+, maps 32×48, \d anomalous\)", said["Scores"])
    assert "not calibrated" in repr(dataclasses.replace(calibrated, calibration=None))
    looking = padim.with_roi(calibrated, np.ones(SMALL.crop, bool))
    assert repr(looking).endswith("not calibrated, inside a region of interest)")
    assert repr(padim.score(looking, images(0, SMALL))) == "Scores(0 images, scores none, maps 32×48, not calibrated)"


def test_placeholders_are_said_too(calibrated: padim.Padim) -> None:
    seen = list[str]()

    @jax.jit
    def inside(tree: Any) -> None:
        seen.extend(repr(record) for record in tree.values())

    arrays = records(calibrated)
    del arrays["Updatable"]  # it is no pytree
    inside(arrays)
    assert "Padim(efficientnet_lite0, taps block2, block4, d = 12, grid 8×12, ? images, calibrated: " in seen[2]
    for tree in (
        jax.eval_shape(lambda: arrays),
        jax.tree.map(lambda leaf: None, arrays),
        jax.tree.map(lambda leaf: object(), arrays),
    ):
        seen += [repr(record) for record in tree.values()]
    assert max(map(len, seen)) < 300
    assert jax.eval_shape(lambda: arrays)["Scores"]._repr_html_() is None


def test_a_notebook_shows_a_table_of_scores(scores: padim.Scores) -> None:
    html = scores._repr_html_()
    assert html is not None
    assert re.findall("<th>(.*?)</th>", html) == ["image", "map", "score", "p-value", "verdict"]
    rows = re.findall("<tr><td>(.*?)</td></tr>", html)
    assert len(rows) == 3
    assert scores.p_value is not None
    assert scores.anomalous is not None
    for row, score, p, verdict in zip(rows, scores.image_score, scores.p_value, scores.anomalous, strict=True):
        assert row.split("</td><td>")[2:] == [f"{score:.4g}", f"{p:.4g}", "anomalous" if verdict else "normal"]
    first = re.search(r"data:image/png;base64,([^\"]+)", html)
    assert first is not None
    assert Image.open(io.BytesIO(base64.b64decode(first[1]))).size == (48, 32)


def test_a_table_is_of_twenty_and_of_what_is_known(scores: padim.Scores) -> None:
    many = padim.Scores(np.arange(25.0), np.zeros((25, 4, 4), np.float32))  # type: ignore[arg-type]
    html = many._repr_html_()
    assert html is not None
    assert (html.count("<img"), "and 5 more images" in html, "verdict" in html) == (20, True, False)
    broken = dataclasses.replace(scores, anomaly_map=np.full((3, 4, 4), np.nan))
    assert broken._repr_html_() is not None
    assert broken.picture() is not None
    nothing = jax.tree.map(lambda leaf: leaf[:0], scores)
    assert "0 images" in str(nothing._repr_html_())


def test_maps_are_drawn_side_by_side_on_one_scale(scores: padim.Scores) -> None:
    drawn = scores.picture()
    assert drawn.width > 3 * 48
    pixels = np.asarray(drawn)
    places = [pixels[20:52, 6 + 54 * index : 54 + 54 * index].astype(int) for index in range(3)]
    assert [place.shape for place in places] == [(32, 48, 3)] * 3
    hottest = int(np.argmax(np.asarray(scores.image_score)))
    assert (places[hottest].max(axis=(0, 1)) >= (252, 200, 100)).all()  # the scale's end
    seen = images(3, SMALL, seed=5)
    over = np.asarray(scores.picture(seen))
    assert over.shape == pixels.shape
    assert not np.array_equal(over, pixels)
    in_rows = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), scores).picture()
    assert in_rows.height > 2 * 52


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda s: s.picture(images(2, SMALL)), r"images are uint8 \(2, 32, 48, 3\), wanted uint8 \(3, 32, 48, 3\)"),
        (lambda s: s.picture(images(3, SMALL) / 255), "images are float64"),
        (lambda s: jax.tree.map(lambda a: a[:0], s).picture(), f"0 images, wanted 1 to {LARGEST}; take some by"),
    ],
)
def test_wrong_pictures_are_told(scores: padim.Scores, given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        given(scores)
