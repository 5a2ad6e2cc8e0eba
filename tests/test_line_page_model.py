"""The page changes a model: what people called good is learned, what is not good taken out, seen first and undone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from padim_jax.cli import main
from tests.browser import Visit, eventually, launched, visiting_service
from tests.service import NAME, bad, serving
from tests.test_line_forgetting import fit
from tests.test_line_page import items, named, send

PATIENCE = 120  # programs compile
OPTIONS = ("--keep-photos", "50", "--learn")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    yield from visiting_service(browser)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("fitted"))


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted / NAME, tmp_path / NAME))


def said(page: Any, text: str) -> None:
    eventually(lambda: text in page.inner_text("#learned"), PATIENCE)


def told(page: Any, text: str) -> None:
    eventually(lambda: text in page.inner_text("#undoable"))


@pytest.mark.slow
def test_a_model_learns_from_corrections_and_single_parts_are_taken_out_again(
    visit: Visit, model: Path, tmp_path: Path
) -> None:
    before = (model / "model.json").read_bytes()
    with serving(model, tmp_path / "line.db", "--look-rate", "0.9", *OPTIONS) as service:
        send(service, *[bad(30 + seed) for seed in range(4)])
        page = visit(service)
        eventually(lambda: len(items(page)) == 4)
        page.click("#propose")
        assert "Enter your name first" in page.inner_text("#learned")
        named(page)
        for index in range(3):
            page.locator("#list button").nth(index).click()
            page.keyboard.press("g")
            eventually(lambda: page.inner_text("#corrected").startswith("Corrected to good"))
        assert page.is_disabled("#learn")
        assert not page.is_visible("#known")
        page.click("#propose")
        said(page, "3 parts would be added. The threshold stays at")
        assert "Of 1 decision judged again, as the model is and as it would be, " in page.inner_text("#learned")
        assert not page.is_visible("#removed")
        assert (model / "model.json").read_bytes() == before
        page.click("#learn")
        said(page, "3 parts added")
        learned = (model / "model.json").read_bytes()
        assert learned != before
        page.locator("#list button").nth(1).click()
        eventually(lambda: page.is_visible("#take-out"), PATIENCE)  # once the service has the changed model
        eventually(lambda: "learned by Ada" in page.inner_text("#history"))
        page.click("#take-out")
        said(page, "1 image would be taken out. The threshold stays at")
        cells = page.locator("#removed tbody td").all_inner_texts()
        assert page.locator("#removed tbody th").all_inner_texts() == ["part-2"]
        assert float(cells[1]) > float(cells[0])
        assert (model / "model.json").read_bytes() == learned
        page.click("#learn")
        said(page, "1 image taken out; the next images are judged by the changed model")
        eventually(lambda: not page.is_visible("#known"), PATIENCE)
        page.locator("#list button").nth(2).click()
        eventually(lambda: page.is_visible("#take-out"))  # the others stay learned
        for expected in (learned,):
            page.click("#unlearn")
            said(page, "as it was before")
            assert (model / "model.json").read_bytes() == expected
        page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_files_of_the_fit_are_taken_out_once_somebody_has_seen_what_that_changes(
    visit: Visit, fitted: Path, model: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    before, gone = (model / "model.json").read_bytes(), sorted((fitted / "images" / "bad").iterdir())
    stranger = tmp_path / "stranger.png"
    stranger.write_bytes(bad(99))
    with serving(model, tmp_path / "line.db", *OPTIONS) as service:
        send(service, bad(61))
        page = visit(service, width, color_scheme=scheme)
        eventually(lambda: len(items(page)) == 1)
        named(page)
        page.click("#without")
        said(page, "Choose the files of the images first")
        page.set_input_files("#files", stranger)
        page.click("#without")
        said(page, "stranger.png is not among the 26 images that bracket.padim was fitted on")
        assert page.is_disabled("#learn")
        page.set_input_files("#files", gone)
        page.click("#without")
        said(page, "2 images would be taken out. The threshold goes from")
        assert "1 from good to bad" in page.inner_text("#learned")
        assert page.locator("#removed tbody .verdict.bad").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.is_disabled("#unlearn")
        page.click("#learn")
        said(page, "2 images taken out")
        assert (model / "model.json").read_bytes() != before
        told(page, "In bracket.padim, undo takes back: 2 images taken out by Ada on ")
        page.click("#unlearn")
        said(page, "as it was before its last change. The threshold goes from")
        assert (model / "model.json").read_bytes() == before
        told(page, "undo makes again what was undone: 2 images taken out by Ada on ")
        assert main(["calibrate", str(model), "--false-alarm-rate", "0.05"]) == 0
        page.dispatch_event("#rated", "input")  # as somebody does who looks at another model and at this one again
        told(page, "undo takes back a change that was not made on this page: no image comes in or goes out.")
        page.close()


def test_a_file_is_dropped_on_the_page(visit: Visit, fitted: Path, model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path / "line.db", *OPTIONS) as service:
        page = visit(service)
        eventually(lambda: page.inner_text("#state") == "Waiting for decisions")
        dropped = page.evaluate_handle(
            "() => { const data = new DataTransfer(); data.items.add(new File(['x'], 'a.png')); return data; }"
        )
        page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
        assert page.evaluate("document.querySelector('#files').files[0].name") == "a.png"
        page.close()


def test_a_change_is_proposed_and_undone_for_the_model_that_is_chosen(
    visit: Visit, fitted: Path, tmp_path: Path
) -> None:
    for name in (NAME, "twin.padim"):
        shutil.copytree(fitted / NAME, tmp_path / "models" / name)
    assert main(["calibrate", str(tmp_path / "models" / NAME), "--false-alarm-rate", "0.05"]) == 0
    with serving(tmp_path / "models", tmp_path / "line.db", *OPTIONS) as service:
        content = sorted((fitted / "images" / "bad").iterdir())[0].read_bytes()
        with service.client() as client:
            headers = {"content-type": "image/png"}
            client.post("/models/twin.padim/score", content=content, headers=headers).raise_for_status()
        page = visit(service)
        eventually(lambda: page.is_visible("#take-out"), PATIENCE)  # of the twin's decision
        assert page.input_value("#rated") == NAME
        told(page, f"In {NAME}, undo takes back a change that was not made on this page")
        named(page)
        page.click("#take-out")
        said(page, "1 image would be taken out")
        assert page.input_value("#rated") == "twin.padim"
        eventually(lambda: page.inner_text("#undoable") == "")
        assert page.is_disabled("#unlearn")  # there is nothing to undo in this one
        page.select_option("#rated", NAME)
        eventually(lambda: page.is_disabled("#learn"))
        told(page, f"In {NAME}, undo takes back")
        assert page.inner_text("#learned") == ""
        page.close()
