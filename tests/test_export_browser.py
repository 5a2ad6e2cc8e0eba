"""The page of an export as its users meet it: opened from disk in a real browser, which scores and asks for nothing."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.artifact.compaction import Compacted
from padim_jax.export import export_model
from padim_jax.images import read_image
from tests.browser import CHROMIUM, FLAGS, sync_api
from tests.conftest import SMALL
from tests.exports import GOOD, SHOWN, aligned, compacted, fitted
from tests.photos import SIZES, npm_packages, photo

CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PATIENCE = 60_000  # milliseconds, of a busy machine
NO_GPU = "No available adapters."  # Chromium's own note, where there is none
WRONG = 1.02  # a score over the right one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *CAMERA])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("browser") / "bracket"
    export_model(
        fitted("plain"), out, GOOD, runtimes=["browser"], ort_web=npm_packages("onnxruntime-web") / "onnxruntime-web"
    )
    return out / "browser" / "index.html"


def opened(browser: Any, html: Path, width: int = 1280, **options: Any) -> tuple[Any, list[str]]:
    """The page, and what it logs, throws and asks for."""
    page = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    page.on("console", lambda message: message.text == NO_GPU or said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request", lambda request: request.url.startswith(("blob:null/", html.as_uri())) or said.append(request.url)
    )
    page.goto(html.as_uri())
    return page, said


def ready(browser: Any, html: Path, **options: Any) -> tuple[Any, list[str]]:
    page, said = opened(browser, html, **options)
    sync_api.expect(page.locator("#status")).to_have_text(re.compile("^Ready. .* 5 examples"), timeout=PATIENCE)
    return page, said


def choose(page: Any, *paths: Path, rows: int) -> list[float]:
    """Scores of the table, newest first, once all photos are in it."""
    page.set_input_files("#files", [str(path) for path in paths])
    sync_api.expect(page.locator("#rows tr")).to_have_count(rows, timeout=PATIENCE)
    return page.locator("#rows tr").evaluate_all("rows => rows.map((row) => Number(row.dataset.score))")


def wanted(*paths: Path) -> padim.Scores:
    return padim.score(fitted("plain"), np.stack([read_image(path, SMALL) for path in paths]))


def test_photos_get_the_models_scores_and_nothing_leaves_the_page(
    browser: Any, page_file: Path, tmp_path: Path
) -> None:
    page, said = ready(browser, page_file)
    assert float(page.get_attribute("#status", "data-gap")) < 1e-5
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, size in zip(paths, SIZES, strict=False):
        Image.fromarray(photo(size)).save(path)
    Image.fromarray(photo(SIZES[0])).save(tmp_path / "photo.jpg", quality=90)
    paths.append(tmp_path / "photo.jpg")
    found, scores = choose(page, *paths, rows=4), wanted(*paths)
    np.testing.assert_allclose(found[::-1], np.asarray(scores.image_score), rtol=1e-3)
    np.testing.assert_allclose(found[:0:-1], np.asarray(scores.image_score)[:3], rtol=1e-5)  # of the same pixels
    words = ["anomalous" if anomalous else "normal" for anomalous in np.asarray(scores.anomalous)]
    cells = page.locator("#rows td:last-child").all_inner_texts()
    assert cells == words[::-1]
    assert page.inner_text("#verdict") == words[-1]
    assert page.inner_text("#p") == f"{float(np.asarray(scores.p_value)[-1]):.4g}"
    assert page.title() == page.inner_text("#title") == "bracket"
    assert said == []
    refused = page.evaluate("fetch('https://example.invalid/').then(() => 'sent', (error) => error.message)")
    assert refused == "Failed to fetch"
    assert any("Content Security Policy" in text for text in said)  # and not the lack of a network


def test_a_camera_is_scored_by_the_pixels_that_can_be_saved(browser: Any, page_file: Path, tmp_path: Path) -> None:
    page, said = ready(browser, page_file)
    page.click("#camera")
    sync_api.expect(page.locator("#view")).to_be_visible(timeout=PATIENCE)
    page.click("#shoot")
    sync_api.expect(page.locator("#rows tr")).to_have_count(1, timeout=PATIENCE)
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "frame.png")
    with Image.open(tmp_path / "frame.png") as frame:
        assert frame.size == (1920, 1080)
    score = float(page.get_attribute("#result", "data-score"))
    np.testing.assert_allclose(score, np.asarray(wanted(tmp_path / "frame.png").image_score)[0], rtol=1e-5)
    page.check("#live")
    for _ in range(2):  # the picture moves
        sync_api.expect(page.locator("#result")).not_to_have_attribute("data-score", str(score), timeout=PATIENCE)
        score = page.get_attribute("#result", "data-score")
    assert page.locator("#rows tr").count() == 1
    page.click("#camera")
    sync_api.expect(page.locator("#view")).to_be_hidden()
    assert said == []


def test_photos_that_it_can_not_read_are_refused_by_name(browser: Any, page_file: Path, tmp_path: Path) -> None:
    page, said = ready(browser, page_file)
    Image.fromarray(photo((40, 20))).save(tmp_path / "small.png")
    Image.new("I;16", (60, 60)).save(tmp_path / "deep.png")
    (tmp_path / "<b>.png").write_bytes(b"no image")
    for name, message in {
        "small.png": "it has 40×20 pixels, smaller than the crop of 48×32; what the network sees would be made up",
        "deep.png": "it has 16 bits a channel, and the model is for 8",
        "<b>.png": "this browser can't read it; save it as PNG or JPEG",
    }.items():
        page.set_input_files("#files", str(tmp_path / name))
        sync_api.expect(page.locator("#fault")).to_have_text(f"{name}: {message}", timeout=PATIENCE)
    glass = np.dstack([photo((60, 60)), np.full((60, 60), 255, np.uint8)])
    glass[:9, :9, 3] = 0
    Image.fromarray(glass).save(tmp_path / "glass.png")
    laid = np.where(glass[..., 3:] == 0, 0, glass[..., :3])
    Image.fromarray(laid).save(tmp_path / "laid.png")
    first, second = choose(page, tmp_path / "glass.png", tmp_path / "laid.png", rows=2)
    assert first == second
    assert page.locator("#fault").is_hidden()
    assert said == []


def test_a_browser_that_gives_other_scores_scores_nothing(browser: Any, page_file: Path, tmp_path: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    score = re.search(r'"image_score": ([\d.]+)', text)
    assert score is not None
    html = tmp_path / "index.html"
    html.write_text(text.replace(score[0], f'"image_score": {WRONG * float(score[1])}', 1), encoding="utf-8")
    page, _ = opened(browser, html)
    sync_api.expect(page.locator("#status")).to_have_text("The model is not ready.", timeout=PATIENCE)
    assert re.search(
        r"can't run the model as it should\. WebAssembly: it is off by [\d.]+e-[23] of the maps' scale",
        page.inner_text("#fault"),
    )
    assert page.is_disabled("#files")
    assert page.is_disabled("#camera")


def test_a_model_that_is_not_calibrated_gives_no_verdict(browser: Any, tmp_path: Path) -> None:
    package = npm_packages("onnxruntime-web") / "onnxruntime-web"
    export_model(
        replace(fitted("plain"), calibration=None), tmp_path / "x", GOOD, runtimes=["browser"], ort_web=package
    )
    page, said = ready(browser, tmp_path / "x" / "browser" / "index.html")
    Image.fromarray(photo(SIZES[0])).save(tmp_path / "photo.png")
    choose(page, tmp_path / "photo.png", rows=1)
    assert (page.inner_text("#verdict"), page.locator("#p-card").is_hidden()) == ("no verdict", True)
    assert page.inner_text("#threshold") == "the model is not calibrated"
    assert said == []


@pytest.mark.parametrize("kind", ["standardised, top share", "combined", "triangle-16bit", "low-rank-16bit"])
def test_so_do_models_of_other_kinds(browser: Any, tmp_path: Path, kind: str) -> None:
    package = npm_packages("onnxruntime-web") / "onnxruntime-web"
    is_compact = kind.endswith("16bit")
    made = compacted(kind) if is_compact else fitted(kind, roi=True)  # pyright: ignore[reportArgumentType]
    model = made.model if isinstance(made, Compacted) else made
    export_model(made, tmp_path / "x", GOOD, runtimes=["browser"], ort_web=package)
    page, said = ready(browser, tmp_path / "x" / "browser" / "index.html")
    Image.fromarray(photo(SIZES[0])).save(tmp_path / "photo.png")
    found = choose(page, tmp_path / "photo.png", rows=1)
    shown = read_image(tmp_path / "photo.png", SMALL)[None]
    np.testing.assert_allclose(found, np.asarray(padim.score(model, shown).image_score), rtol=1e-4)
    assert page.locator("#picture").evaluate("canvas => canvas.width * canvas.height") > 0
    assert said == []


def test_so_does_one_that_aligns_images_and_says_how_they_match(browser: Any, tmp_path: Path) -> None:
    package, model = npm_packages("onnxruntime-web") / "onnxruntime-web", padim.with_threshold(aligned("rigid"), 1e6)
    export_model(model, tmp_path / "x", SHOWN[:3], runtimes=["browser"], ort_web=package)
    page, said = ready(browser, tmp_path / "x" / "browser" / "index.html")
    assert float(page.get_attribute("#status", "data-gap")) < 1e-4
    shown = SHOWN[[1, 7]]
    paths = [tmp_path / "part.png", tmp_path / "noise.png"]
    for path, pixels in zip(paths, shown, strict=True):
        Image.fromarray(pixels).save(path)
    found, scores = choose(page, *paths, rows=2), padim.score(model, shown)
    np.testing.assert_allclose(found[::-1], np.asarray(scores.image_score), rtol=1e-4)
    assert page.locator("#rows td:last-child").all_inner_texts() == ["anomalous", "normal"]
    assert scores.match is not None
    assert model.calibration is not None
    told = re.fullmatch(
        r"anomalous above 1000000; it matches the reference by ([\d.]+), anomalous below ([\d.]+)",
        page.inner_text("#threshold"),
    )
    assert told is not None
    matches = [float(scores.match[1]), float(np.asarray(model.calibration.least_match))]
    np.testing.assert_allclose([float(told[1]), float(told[2])], matches, atol=1e-4)  # four digits are shown
    assert said == []


def test_webgpu_is_taken_where_it_gives_the_models_scores(browser: Any, page_file: Path, tmp_path: Path) -> None:
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"]
    flags += ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=flags)
    page, said = ready(other, page_file)
    assert "WebGPU in this browser" in page.inner_text("#status")
    Image.fromarray(photo(SIZES[0])).save(tmp_path / "photo.png")
    found = choose(page, tmp_path / "photo.png", rows=1)
    np.testing.assert_allclose(found, np.asarray(wanted(tmp_path / "photo.png").image_score), rtol=1e-3)
    assert said == []
    other.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, page_file: Path, tmp_path: Path, scheme: str) -> None:
    page, _ = ready(browser, page_file, width=360, color_scheme=scheme)
    Image.fromarray(photo((1000, 701))).save(tmp_path / "photo.png")
    choose(page, tmp_path / "photo.png", rows=1)
    page.click("#camera")
    sync_api.expect(page.locator("#view")).to_be_visible(timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 246, 244)"
    assert light == (scheme == "light")
