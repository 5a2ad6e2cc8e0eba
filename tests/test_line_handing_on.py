"""Handing decisions on: by one process at a time, whatever an output raises, under names of their own."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from padim_jax.cli import main
from padim_jax.images.folder import digest_of
from padim_jax.line.courier import Courier
from padim_jax.line.outputs.address import without_secrets
from padim_jax.line.outputs.bad_folder import BadFolder
from padim_jax.line.outputs.output import Picture, hand_on, names_for, refuse_twins
from padim_jax.line.outputs.table import Table
from padim_jax.line.outputs.turns import turn
from padim_jax.line.outputs.webhook import Webhook
from padim_jax.line.records import VERDICTS, Decision, Verdict
from padim_jax.line.store import Store
from tests.test_line_store import decision, many
from tests.test_line_watch import wait_for


class Slow:
    """An output that takes a while, and raises what it is given to raise."""

    is_far: ClassVar[bool] = True
    name, verdicts = "slow", frozenset[Verdict](VERDICTS)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.got, self.errors = seconds, list[str](), list[Exception]()

    def deliver(self, decision: Decision, attempt: int, picture: Picture | None = None) -> None:
        time.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop()
        self.got.append(decision.item)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("padim_jax.line.outbox._FIRST_WAIT", 0.05)
    with Store.open(tmp_path / "line.db") as store:
        yield store


def test_two_that_watch_with_one_store_and_output_deliver_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_jax.line.outputs.output._BUSY", 0.02)
    slow = Slow(0.005)
    store.record(many(40), names_for([slow]))
    couriers = [Courier(store, slow, pytest.fail) for _ in range(2)]
    wait_for(lambda: not store.outbox.waiting())
    for courier in couriers:
        courier.end()
    assert slow.got == [f"{index:05}.png" for index in range(40)]
    assert not list(store.path.parent.glob(".line.db-*"))  # no lock is left over


def test_who_has_not_the_turn_comes_again_and_an_output_close_by_waits_for_it(store: Store) -> None:
    slow, entered, leave = Slow(), threading.Event(), threading.Event()
    store.record(many(1), names_for([slow]))

    def hold() -> None:
        with turn(store.path, slow.name, 0.0) as is_ours:
            assert is_ours
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(20)
    assert hand_on(store, slow, {}, pytest.fail) > 0
    assert slow.got == []
    with turn(store.path, "another output", 0.0) as is_ours:
        assert is_ours
    threading.Timer(0.1, leave.set).start()
    with turn(store.path, slow.name, 20.0) as is_ours:
        assert is_ours
    thread.join()
    assert hand_on(store, slow, {}, pytest.fail) == 0
    assert slow.got == ["00000.png"]


def test_an_output_that_raises_what_nobody_foresaw_goes_on_and_gets_nothing_twice(store: Store) -> None:
    slow, said = Slow(), list[str]()
    store.record(many(3), names_for([slow]))
    slow.errors = [UnicodeEncodeError("ascii", "ü", 0, 1, "no"), RuntimeError("what is this?")]
    courier = Courier(store, slow, said.append)
    wait_for(lambda: said)
    store.outbox.make_due(slow.name)
    courier.wake()
    wait_for(lambda: not store.outbox.waiting())
    courier.end()
    assert slow.got == [f"{index:05}.png" for index in range(3)]
    assert "slow: RuntimeError: what is this?; decisions wait in" in said[0]


def test_a_courier_whose_store_fails_for_once_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_jax.line.courier._LONGEST", 0.05)
    slow, said, fails = Slow(), list[str](), [ValueError("odd"), ValueError("odd")]

    def hand_on_or_fail(*arguments: object) -> float:
        if fails:
            raise fails.pop()
        return hand_on(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("padim_jax.line.courier.hand_on", hand_on_or_fail)
    store.record(many(2), names_for([slow]))
    courier = Courier(store, slow, said.append)
    wait_for(lambda: not store.outbox.waiting())
    courier.end()
    assert said == ["slow: ValueError: odd; it is tried again in 0 s"]  # once, not each time


# names and addresses


def test_webhooks_that_differ_in_their_query_alone_are_two_outputs(store: Store) -> None:
    hooks = [Webhook(f"http://plc/part?line={line}") for line in (1, 2)]
    assert len({hook.name for hook in hooks}) == 2
    assert not any("line=" in hook.name for hook in hooks)  # it may be a token
    store.record([decision()], names_for(hooks))
    assert len(store.outbox.waiting()) == 2
    assert Webhook("http://plc/part?line=1").name == hooks[0].name
    refuse_twins(hooks)
    with pytest.raises(ValueError, match="is named 2 times as an output; name each once"):
        refuse_twins([hooks[0], hooks[0]])


@pytest.mark.parametrize(
    "url",
    [
        *("htp://ada:s3cret@plc/x", "http://ada:s3cret@plc:99999/x", "http://ada:s3cret@plc:port/x"),
        *("ada:s3cret@plc/x", "http:/ada:s3cret@plc", "http://ada:s3cret@[::1/x", "http://pl c/s3cret@x"),
        "ftp://plc?s3cret",
    ],
)
def test_an_address_that_is_wrong_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="is no address such as https://host/path") as caught:
        Webhook(url)
    assert "s3cret" not in str(caught.value)
    assert "ada" not in str(caught.value)
    assert "s3cret" not in without_secrets(url)


@pytest.mark.parametrize(
    "url",
    [
        *("http://ada:s3#cret@plc/x", "http://ada:s3?cret@plc/x", "http://ada:12/s3cret@plc/x", "http://ada#s3@plc"),
        *("http://ada:p@s3?cret@plc/x", "http://plc/x?token=s3cret&mail=a@b", "http://ada:9/s3?cret@plc"),
    ],
)
def test_a_password_that_ends_nobody_knows_where_is_refused_in_words(url: str) -> None:
    with pytest.raises(ValueError, match=r"write %2F for /, %3F for \?, %23 for # and %40 for @") as caught:
        Webhook(url)
    assert not [part for part in ("s3", "cret", "ada", "@b") if part in str(caught.value) + without_secrets(url)]


def test_an_at_that_can_be_no_passwords_end_stays() -> None:
    assert Webhook("http://plc/@line").name == "webhook http://plc/@line"
    assert Webhook("http://ada:s3%23cret%3F@plc/x").name == "webhook http://plc/x"


def test_an_address_that_is_not_ascii_is_sent_quoted() -> None:
    hook = Webhook("http://prüfung.example:8080/prüfung %20?teil=größe&x=1")
    assert hook._url == "http://xn--prfung-4ya.example:8080/pr%C3%BCfung%20%20?teil=gr%C3%B6%C3%9Fe&x=1"
    assert Webhook("http://[::1]:80/x")._url == "http://[::1]:80/x"


def test_bad_images_of_two_stores_lie_side_by_side(tmp_path: Path) -> None:
    for camera in ("one", "two"):
        (tmp_path / camera).mkdir()
        (tmp_path / camera / "1.png").write_text(camera)
        with Store.open(tmp_path / f"{camera}.db") as store:
            folder = BadFolder(tmp_path / "bad")
            given = Decision(str(tmp_path / camera), "1.png", digest_of(camera.encode()), "m", "m0", "bad")
            (found,) = store.record([given])
            folder.deliver(found, 1)
    assert sorted(path.read_text() for path in (tmp_path / "bad").glob("*.png")) == ["one", "two"]


@pytest.mark.parametrize(
    "name", ["検" * 80 + ".png", "検" * 80 + "x.png", "a" * 250 + ".png", "a." + "検" * 80], ids=range(4)
)
def test_a_long_name_in_any_script_fits_the_bad_folder(tmp_path: Path, store: Store, name: str) -> None:
    folder = BadFolder(tmp_path / "bad")
    for item in (name, "ok.png"):
        (tmp_path / item).write_text(item)
        given = Decision(str(tmp_path), item, digest_of(item.encode()), "m", "m0", "bad")
        store.record([given], names_for([folder]))
    said = list[str]()
    assert hand_on(store, folder, {}, said.append) == 0
    assert not store.outbox.waiting()
    copies = [path for path in (tmp_path / "bad").iterdir() if path.is_file() and not path.name.startswith(".")]
    assert sorted(path.read_text() for path in copies) == sorted([name, "ok.png"])
    assert all(len(os.fsencode(path.name)) <= 170 for path in copies)
    assert all(path.name.isprintable() for path in copies)  # no half of a character


def test_a_name_that_a_file_system_takes_not_is_refused_and_holds_up_no_other(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_names_alone(path: Path, content: bytes) -> None:
        if len(path.name) > 60:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
        path.write_bytes(content)

    monkeypatch.setattr("padim_jax.line.outputs.bad_folder.write_atomically", short_names_alone)
    folder, said = BadFolder(tmp_path / "bad"), list[str]()
    for item in ("a" * 60 + ".png", "ok.png"):
        (tmp_path / item).write_text(item)
        given = Decision(str(tmp_path), item, digest_of(item.encode()), "m", "m0", "bad")
        store.record([given], names_for([folder]))
    assert hand_on(store, folder, {}, said.append) == 0
    assert [waiting.count for waiting in store.outbox.waiting()] == [1]
    assert [path.read_text() for path in (tmp_path / "bad").glob("*.png")] == ["ok.png"]
    assert any("refuses aaaa" in text and "File name too long" in text for text in said)


def test_outputs_whose_names_are_no_utf_8_take_decisions_and_are_given_up(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b"f\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system takes names in UTF-8 alone")
    outputs = [Table(folder / "t.csv"), BadFolder(folder / "bad")]
    (tmp_path / "a.png").write_bytes(b"a")
    store.record([Decision(str(tmp_path), "a.png", digest_of(b"a"), "m", "m0", "bad")], names_for(outputs))
    for output in outputs:
        output.name.encode()
        store.outbox.make_due(output.name)
        assert hand_on(store, output, {}, lambda text: None) == 0
    assert store.outbox.waiting() == []
    assert len((folder / "t.csv").read_bytes().splitlines()) == 2
    assert [path.read_bytes() for path in (folder / "bad").glob("*.png")] == [b"a"]
    assert store.outbox.outputs() == sorted(output.name for output in outputs)
    for output in outputs:
        assert main(["results", str(store.path), "--abandon", output.name]) == 0
        output.close()
    assert store.outbox.outputs() == []
