"""The page of ``padim serve`` in a real browser: it follows the line, shows, corrects and undoes, and asks nobody else."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from padim_jax.line.records import Decision
from padim_jax.line.store import Store
from tests.browser import Visit, eventually, launched, visiting_service
from tests.line_parts import fit_model
from tests.service import NAME, Running, bad, good, serving
from tests.test_line_drift_events import drifted

HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_model(tmp_path_factory.mktemp("models") / NAME)


@pytest.fixture
def service(model: Path, tmp_path: Path) -> Iterator[Running]:
    with serving(model, tmp_path / "line.db", "--keep-photos", "100", "--look-rate", "0.5") as running:
        yield running


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    yield from visiting_service(browser)


def send(service: Running, *images: bytes, names: str = "part-{}") -> list[dict[str, Any]]:
    """Let images be judged; gives their decisions."""
    found = []
    for index, content in enumerate(images):
        query = {"item": names.format(index), "source": "camera"}
        found.append(
            httpx.post(service.score, params=query, content=content, headers={"content-type": "image/png"}).json()
        )
    return found


def items(page: Any) -> list[str]:
    return page.locator("#list button > :nth-child(2)").all_inner_texts()


def named(page: Any, name: str = "Ada") -> None:
    page.fill("#who", name)
    page.press("#who", "Tab")
    page.locator("#list button").first.focus()


def test_decisions_come_by_themselves_the_newest_first(service: Running, visit: Visit) -> None:
    page = visit(service)
    eventually(lambda: page.inner_text("#state") == "Waiting for decisions")
    assert page.is_visible("#none")
    send(service, good(1), bad(2))
    eventually(lambda: items(page) == ["part-1", "part-0"])
    send(service, good(3), names=HOSTILE)
    eventually(lambda: items(page) == [HOSTILE, "part-1", "part-0"])  # as text, whatever it holds
    assert "1 new" in page.inner_text("#state")
    assert page.get_attribute("#list button >> nth=0", "aria-current") == "true"  # it follows the newest
    page.locator("#list button").nth(1).click()
    send(service, good(4), names="later")
    eventually(lambda: len(items(page)) == 4)
    assert "part-1" in page.inner_text("#viewer-title")  # what was chosen stays


def test_the_photo_shows_with_its_map_and_regions_at_any_size(service: Running, visit: Visit) -> None:
    (found,) = send(service, bad(5))
    page = visit(service)
    eventually(lambda: page.is_visible("#photo") and page.is_visible("#overlay"))
    assert page.evaluate("document.querySelector('#photo').naturalWidth") == 48
    boxes = page.locator("#boxes rect.over")
    assert boxes.count() == len(found["regions"]) > 0
    region = found["regions"][0]
    assert [float(boxes.first.get_attribute(name)) for name in ("x", "y", "width", "height")] == [
        region[name] for name in ("left", "top", "width", "height")
    ]
    assert page.locator("#regions tbody tr").count() == len(found["regions"])

    def width() -> float:
        return page.locator("#stage").bounding_box()["width"]

    fitted = width()
    page.locator("#view").focus()
    page.keyboard.press("+")
    assert width() == pytest.approx(1.5 * fitted)
    page.keyboard.press("1")
    assert width() == pytest.approx(48)
    page.click("#fit")
    assert width() == pytest.approx(fitted)
    page.keyboard.press("m")
    assert not page.is_visible("#overlay")
    page.uncheck("#with-regions")
    assert not page.is_visible("#boxes")


def test_keys_correct_and_undo(service: Running, visit: Visit) -> None:
    (found,) = send(service, bad(6))
    page = visit(service)
    eventually(lambda: items(page) == ["part-0"])
    page.keyboard.press("g")
    assert "Enter your name first" in page.inner_text("#state")
    assert page.evaluate("document.activeElement.id") == "who"
    with Store.open(service.store) as store:
        assert not store.corrections()
    named(page)
    page.fill("#note", "a shadow, not a dent")  # typing "b" and "g" into a field corrects nothing
    page.locator("#list button").first.focus()
    page.keyboard.press("g")
    eventually(lambda: page.inner_text("#corrected") == "Corrected to good by Ada: a shadow, not a dent")
    page.keyboard.press("b")
    eventually(lambda: page.inner_text("#corrected") == "Corrected to bad by Ada")
    page.keyboard.press("u")
    eventually(lambda: page.inner_text("#corrected").startswith("Corrected to good"))
    page.click("#undo")
    eventually(lambda: page.inner_text("#corrected") == "")
    with Store.open(service.store) as store:
        corrections = store.corrections(found["id"])
        assert [one.verdict for one in corrections] == ["good", "bad"]
        assert all(one.undone_by == "Ada" for one in corrections)
        assert store.decision(found["id"]).verdict == "bad"


def test_the_queue_to_look_at_is_worked_off_by_keys_alone(service: Running, visit: Visit) -> None:
    found = send(service, *[good(500 + seed) for seed in range(12)], bad(7))
    looks = [one["item"] for one in found if one["verdict"] == "look"][::-1]
    assert len(looks) >= 2
    page = visit(service)
    named(page)
    page.focus("#queue")
    page.keyboard.press("Space")
    eventually(lambda: items(page) == looks)
    page.locator("#list button").first.focus()
    page.keyboard.press("g")
    eventually(lambda: items(page) == looks[1:])
    assert looks[1] in page.inner_text("#viewer-title")
    page.locator("#list button").first.focus()
    page.keyboard.press("u")  # the one before, which is not in the queue any more
    eventually(lambda: items(page) == looks)


def test_filters_by_verdict_model_and_day(service: Running, visit: Visit) -> None:
    found = send(service, good(8), bad(9), bad(10))
    page = visit(service)
    page.select_option("#verdict", "bad")
    eventually(lambda: items(page) == ["part-2", "part-1"])
    page.select_option("#verdict", "")
    page.select_option("#model", NAME)
    eventually(lambda: len(items(page)) == 3)
    eventually(lambda: page.inner_text("#counts").startswith(f"{NAME}: "))
    local = datetime.datetime.fromisoformat(found[0]["time"]).astimezone()
    page.fill("#day", (local - datetime.timedelta(days=2)).strftime("%Y-%m-%d"))
    eventually(lambda: page.is_visible("#none"))
    page.fill("#day", local.strftime("%Y-%m-%d"))
    eventually(lambda: len(items(page)) == 3)


def test_more_decisions_than_a_page_are_read_when_asked(service: Running, visit: Visit) -> None:
    files = [("image", (f"{index:03}.png", good(2000 + index))) for index in range(60)]
    assert httpx.post(service.score, files=files, timeout=60).status_code == 200
    page = visit(service)
    eventually(lambda: len(items(page)) == 50)
    page.click("#older")
    eventually(lambda: len(items(page)) == 60)
    assert items(page) == sorted(items(page), reverse=True)
    assert not page.is_visible("#older")


def test_what_another_person_says_shows_in_every_row_and_is_not_overruled_unseen(
    service: Running, visit: Visit
) -> None:
    with Store.open(service.store) as store:
        found = store.record(Decision("c", f"{n:03}", f"{n:02x}", NAME, "0b", "bad", "") for n in range(60))
        page = visit(service)
        eventually(lambda: len(items(page)) == 50)
        page.click("#older")
        eventually(lambda: len(items(page)) == 60)
        oldest = page.locator("#list button").last
        oldest.click()
        store.correct(found[0].id, "good", who="Ada")
        eventually(lambda: page.inner_text("#corrected") == "Corrected to good by Ada")
        assert oldest.locator(".verdict").all_inner_texts() == ["bad", "good"]
        held = [httpx.get(f"{service.address}decisions").json()]  # nothing newer comes to the page until it asks
        page.route("**/decisions?*", lambda route: route.fulfill(json=held[0]) if held else route.continue_())
        page.on("request", lambda request: request.method == "POST" and held.clear())
        page.locator("#list button").first.click()
        store.correct(found[-1].id, "good", who="Ada", note="a shadow")
        named(page, "Bob")
        page.fill("#note", "a dent")
        page.locator("#list button").first.focus()
        page.keyboard.press("b")
        eventually(lambda: page.inner_text("#corrected") == "Corrected to good by Ada: a shadow")
        eventually(lambda: page.inner_text("#state") == "059 was corrected to good by Ada since you looked; look again")
        page.wait_for_timeout(2500)  # news does not take its place at once
        assert "look again" in page.inner_text("#state")
        assert [one.who for one in store.corrections(found[-1].id)] == ["Ada"]
        page.keyboard.press("b")  # now that Bob has seen it
        eventually(lambda: page.inner_text("#corrected") == "Corrected to bad by Bob: a dent")


def test_rates_show_what_they_would_have_done(service: Running, visit: Visit) -> None:
    found = send(service, *[good(600 + seed) for seed in range(12)], bad(11))
    earlier = Decision("camera", "x", "0a", NAME, "0b", "good", "", score=1.0, p_value=0.01)
    with Store.open(service.store) as store:  # of the model before it was changed
        store.record(replace(earlier, item=f"{index}") for index in range(2))
    page = visit(service)
    eventually(lambda: "no verdict of 13 would change" in page.inner_text("#rated-text"))
    assert "Of the last 15 decisions, 2 by other states of the model are left out." in page.inner_text("#rated-text")
    page.locator("#look-rate").evaluate(
        "slide => { slide.value = Math.log10(0.1); slide.dispatchEvent(new Event('input')); }"
    )
    eventually(
        lambda: "would change" in page.inner_text("#rated-text") and "no verdict" not in page.inner_text("#rated-text")
    )
    now, then = (
        [int(text) for text in page.locator(f"#then tbody td:nth-child({column})").all_inner_texts()]
        for column in (2, 3)
    )
    p_values = [one["p_value"] for one in found if one["verdict"] != "bad"]
    counts = [sum(one["verdict"] == verdict for one in found) for verdict in ("good", "look", "bad", "unreadable")]
    assert now == counts
    looks = sum(p < 0.08 + 0.02 for p in p_values)  # two steps of 1/25 lie within 0.1
    assert then == [len(p_values) - looks, looks, counts[2], 0]
    assert re.search(r"--look-rate 0\.1\d*$", page.inner_text("#command"))
    assert page.locator("#histogram rect").count() > 0
    with Store.open(service.store) as store:  # nothing was changed by it
        assert list(store.count().values()) == [counts[0] + 2, *counts[1:]]


def test_a_part_that_came_by_itself_is_not_corrected_by_a_key_meant_for_another(service: Running, visit: Visit) -> None:
    (before,) = send(service, bad(20), names="before")
    page = visit(service)
    eventually(lambda: items(page) == ["before"])
    named(page)
    page.evaluate("""() => new MutationObserver((_, self) => {
        if (!document.querySelector('#viewer-title').textContent.includes('after')) return;
        self.disconnect();
        document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'g', bubbles: true }));
      }).observe(document.querySelector('#viewer-title'), { childList: true, subtree: true })""")
    send(service, bad(21), names="after")  # it is shown, and the key comes at once
    eventually(lambda: "Another part came just now" in page.inner_text("#state"))
    assert not page.is_checked("#follow")
    with Store.open(service.store) as store:
        assert not store.corrections()
    page.locator("#list button").nth(1).click()
    page.check("#follow")
    eventually(lambda: "after" in page.inner_text("#viewer-title"))
    page.click("#viewer-title")  # who touches what is shown goes on seeing it
    assert not page.is_checked("#follow")
    send(service, bad(22), names="later")
    eventually(lambda: len(items(page)) == 3)
    page.wait_for_timeout(1100)
    page.keyboard.press("g")
    eventually(lambda: page.inner_text("#corrected") == "Corrected to good by Ada")
    with Store.open(service.store) as store:
        (correction,) = store.corrections()
        assert store.decision(correction.decision).item == "after" != before["item"]
    page.fill("#who", "")
    page.focus("#view")
    page.keyboard.press("u")
    eventually(lambda: "Enter your name first" in page.inner_text("#state"))
    named(page)
    page.keyboard.press("u")
    eventually(lambda: page.inner_text("#state") == "The correction of after is undone")


def test_numbers_are_not_rounded_to_what_they_are_not(service: Running, visit: Visit) -> None:
    page = visit(service)

    def said(module: str, expression: str) -> Any:
        return page.evaluate(f"import('/{module}.js').then((module) => {expression})")

    assert said("drift", "[99.6, 9.97, 0.0995, 100, 29, 2.3, 0, 2e4].map(module.number)") == [
        *("99", "9.9", "0.099", "100", "29", "2.3", "0", "over 10000")
    ]
    thresholds = "[[7.12341, 7.12341], [7.12341, 7.12349], [7.1, 7.2], [null, 7.1]]"
    told = said("changing", f"{thresholds}.map(([a, b]) => module.threshold({{ threshold: a, threshold_after: b }}))")
    assert told == [
        "The threshold stays at 7.123.",
        "The threshold goes from 7.1234 to 7.1235.",
        "The threshold goes from 7.1 to 7.2.",
        "The threshold goes from none to 7.1.",
    ]
    nothing = said("changing", "module.effect({ judged: 0, changed: 0, changes: [] })")
    assert nothing == "No other photo is kept that could be judged again."


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_drift_is_told_in_words_and_by_places(
    visit: Visit, model: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    with Store.open(tmp_path / "line.db") as store:
        store.record(drifted(NAME, "m0", columns=(1, 9)))
        store.record(drifted(NAME, "m0", 30, source="/a very long name of a folder" * 5))
        store.record(replace(one, item=f"s-{one.item}") for one in drifted(HOSTILE, "s0", 90, seed=10)[:60])
    with serving(model, tmp_path / "line.db") as service:
        page = visit(service, width, color_scheme=scheme)
        eventually(lambda: page.is_visible("#drift-found"))
        options = page.locator("#drifted option")
        names = "/a very long name of a folder" * 5, "/in: drifted"
        assert options.all_inner_texts() == [f"{HOSTILE}, /in", *(f"{NAME}, {name}" for name in names)]
        shown = page.locator("#drifted option:checked")
        assert shown.inner_text() == f"{NAME}, /in: drifted"  # the last of them, and nobody chose it
        words = page.locator("#drift-words li").all_inner_texts()
        assert [text.split(" since ")[0] for text in words] == [
            "the images are darker",
            "the upper middle of the picture scores lower",
        ]
        moved = page.locator("#drift-places td.moved")
        assert moved.count() == 1
        assert moved.get_attribute("aria-label") == "Row 1, column 3: lower"
        assert page.locator("#drift-places td").count() == 16
        assert "darker" not in page.inner_text("#drift-kinds")
        assert page.locator("#drift-kinds tr", has_text="brightness").inner_text().split()[1:3] == ["▼", "lower"]
        assert page.inner_text("#drift-calibrate") == f"padim calibrate MODELS/{NAME} GOOD_IMAGES"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelector('#drifted').getBoundingClientRect().right") <= width
        page.select_option("#drifted", label=f"{HOSTILE}, /in")
        eventually(lambda: page.inner_text("#drift-text") == "No drift in 60 images.")
        assert shown.inner_text() == f"{HOSTILE}, /in"  # as it was chosen, though it has not drifted
        assert not page.is_visible("#drift-offer")
        assert page.locator("#drift-words li").count() == 0
        page.close()  # before the service ends, which it would log


def test_it_works_at_the_width_of_a_phone_by_keyboard_and_for_screen_readers(service: Running, visit: Visit) -> None:
    send(service, good(12), bad(13), good(14))
    page = visit(service, 390, 844, color_scheme="dark")
    eventually(lambda: len(items(page)) == 3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    page.locator("#list button").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('li').matches(':nth-child(2)')")
    eventually(lambda: "part-1" in page.inner_text("#viewer-title"))
    for role in ("banner", "main", "navigation"):
        assert page.get_by_role(role).count() == 1
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input:not([hidden]), select, button')].filter((one) =>
          !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim())).map((one) => one.id)"""
    )
    assert nameless == []
    assert page.get_by_role("status").first.get_attribute("aria-live") == "polite"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_token_is_asked_for_and_kept_for_the_visit(visit: Visit, model: Path, tmp_path: Path) -> None:
    token = "correct-horse-battery-staple"
    (tmp_path / "token").write_text(token)
    options = ["--token-file", str(tmp_path / "token"), "--keep-photos", "5"]
    with serving(model, tmp_path / "line.db", *options) as service:
        headers = {"content-type": "image/png", "authorization": f"Bearer {token}"}
        httpx.post(service.score, content=good(15), headers=headers)
        page = visit(service)
        for wrong in ("wrong-horse-battery-staple", token):
            page.wait_for_selector("#asking[open]")
            page.fill("#token", wrong)
            page.press("#token", "Enter")
        eventually(lambda: len(items(page)) == 1)
        eventually(lambda: page.is_visible("#photo"))
        page.reload()
        eventually(lambda: len(items(page)) == 1)
        page.close()  # before the service ends, which it would log
