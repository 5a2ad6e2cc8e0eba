"""Drift is told: once for each change and state of a model, to outputs that may be away, whatever happens to a process."""

import json
import lzma
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from padim_jax.cli import main
from padim_jax.line.courier import Courier
from padim_jax.line.drift import Drift, find_drifts
from padim_jax.line.judge import Judge
from padim_jax.line.outputs.drift_events import DriftEvents
from padim_jax.line.outputs.output import Output, hand_on
from padim_jax.line.outputs.webhook import Webhook
from padim_jax.line.records import Decision
from padim_jax.line.sources.folder import Folder
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates
from padim_jax.line.watch import Limits, watch_line
from tests.conftest import write_images
from tests.line_parts import fit_model, open_judge, parts, write_frames
from tests.receiver import Receiver
from tests.test_line_crash import start
from tests.test_line_drift import figures, pictured
from tests.test_line_store import DAY, Clock
from tests.test_line_watch import wait_for

RATES = Rates(None, 0.2)
OLD = Path(__file__).parent / "line-schema-3.db.xz"  # of the last version that followed all sources together


def drifted(
    model: str, digest: str, n: int = 300, *, columns: tuple[int, ...] = (1,), seed: int = 8, source: object = "/in"
) -> list[Decision]:
    """Decisions of which the last third is darker, or has drifted in other quantities."""
    numbers = figures(n, seed)
    numbers[2 * n // 3 :, list(columns)] -= 2
    return [
        replace(one, source=str(source), item=f"{seed}-{one.item}", model=model, model_digest=digest, sequence=0)
        for one in pictured(numbers)
    ]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return open_judge(fit_model(tmp_path_factory.mktemp("line") / "bracket"))


@pytest.fixture
def server() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("padim_jax.line.outbox._FIRST_WAIT", 0.05)
    with Store.open(tmp_path / "line.db") as store:
        yield store


def drift_of(store: Store) -> Drift:
    (drift,) = find_drifts(store.scores())
    return drift


def watched(folder: Path, judge: Judge, store: Store, *outputs: Output) -> list[str]:
    """Watch once; gives the remarks."""
    remarks = list[str]()
    folder.mkdir(exist_ok=True)
    source = Folder(folder, store.seen, once=True)
    watch_line(source, judge, store, outputs, limits=Limits(patience=0.5), remark=remarks.append)
    return remarks


def test_a_watch_says_it_once_and_hands_it_on(tmp_path: Path, judge: Judge, store: Store, server: Receiver) -> None:
    camera = tmp_path / "camera"
    store.record(drifted("bracket", judge.current.digest, source=camera))
    store.record(
        drifted("another", "digest", seed=9, source=camera)
    )  # of a model that this watch has nothing to do with
    store.record(drifted("bracket", judge.current.digest, seed=9, source="/other"))  # of another camera
    write_images(tmp_path / "camera", parts(2, seed=5))
    outputs = Webhook(server.url), DriftEvents(store.alarms, Webhook(server.url))
    (remark,) = watched(tmp_path / "camera", judge, store, *outputs)
    assert remark.startswith(f"bracket has drifted on images of {camera}: the images are darker since about 20")
    assert watched(tmp_path / "camera", judge, store, *outputs) == []
    events = [(headers, body) for headers, body in server.got if "event" in body]
    ((headers, body),) = events
    assert len(server.got) == 3  # and the two decisions
    assert (headers["X-Event"], headers["Idempotency-Key"]) == ("drift", body["id"])
    assert (body["event"], body["model"], body["model_digest"]) == ("drift", "bracket", judge.current.digest)
    assert body["source"] == str(camera)
    assert body["words"][0].startswith("the images are darker since about ")
    assert [one["kind"] for one in body["findings"]] == ["brightness"]
    assert body["offer"]["update"] == "padim update MODELS/bracket GOOD_IMAGES"
    assert store.outbox.waiting() == []


def test_it_waits_while_the_other_end_is_away(store: Store, server: Receiver) -> None:
    store.record(drifted("m", "m0"))
    output, said = DriftEvents(store.alarms, Webhook(server.url)), list[str]()
    server.answers[:] = [503, 503]
    assert store.alarms.record(drift_of(store), [output.name]) is not None
    courier = Courier(store, output, said.append)
    wait_for(lambda: [body["answer"] for _, body in server.got] == [503, 503, 200])
    courier.end()
    assert len({headers["Idempotency-Key"] for headers, _ in server.got}) == 1
    assert "decisions wait in" in said[0]
    assert store.outbox.waiting() == []


def test_of_two_that_look_one_tells(store: Store) -> None:
    store.record(drifted("m", "m0"))
    with Store.open(store.path) as other:
        found = [one.alarms.record(drift_of(one), ["drift webhook x"]) for one in (store, other, store)]
    assert [one is not None for one in found] == [True, False, False]
    assert store.outbox.waiting()[0].count == 1


def test_another_quantity_and_another_state_of_the_model_are_told_by_themselves(store: Store) -> None:
    store.record(drifted("m", "m0"))
    first = store.alarms.record(drift_of(store))
    for later in (drifted("m", "m0", 90, columns=(3,), seed=10), drifted("m", "m0", 300, columns=(3,), seed=13)[-90:]):
        assert all(one.appearance for one in later)
        store.record(
            replace(one, appearance=replace(one.appearance, brightness=one.appearance.brightness - 2))
            for one in later
            if one.appearance
        )  # as dark as it has become
    second = store.alarms.record(drift_of(store))
    store.record(drifted("m", "m1", seed=11))
    third = store.alarms.record(find_drifts(store.scores())[1])
    assert first is not None
    assert second is not None
    assert third is not None
    assert "sharpness" in {one["kind"] for one in second["findings"]}
    assert "brightness" not in {one["kind"] for one in second["findings"]}
    assert {one["kind"] for one in third["findings"]} == {"brightness"}
    assert len({one["id"] for one in (first, second, third)}) == 3


def test_each_source_is_told_by_itself(store: Store) -> None:
    store.record(drifted("m", "m0", source="left"))
    store.record(drifted("m", "m0", seed=9, source="right"))
    found = [store.alarms.record(drift) for drift in find_drifts(store.scores())]
    assert [one and one["source"] for one in found] == ["left", "right"]
    assert [store.alarms.record(drift) for drift in find_drifts(store.scores())] == [None, None]
    assert {one.source for one in store.scores(source="right")} == {"right"}


def test_a_second_change_of_the_same_quantity_is_told_once_too(store: Store) -> None:
    told = list[tuple[int, bool]]()
    first, second = drifted("m", "m0", 300), drifted("m", "m0", 300, seed=14)  # darker, as it was, darker again
    for at in range(0, 600, 50):
        store.record([*first, *second][at : at + 50])
        with Store.open(store.path) as other:
            for one in (store, other):
                event = one.alarms.record(drift_of(one))
                told += [(part["change"], part["is_higher"]) for part in event["findings"]] if event else []
    assert told == [(1, False), (2, True), (3, False)]


def test_changes_that_are_found_at_one_late_look_are_told_together(store: Store) -> None:
    store.record([*drifted("m", "m0", 300), *drifted("m", "m0", 300, seed=14)])
    event = store.alarms.record(drift_of(store))
    assert event is not None
    assert [one["change"] for one in event["findings"]] == [1, 2, 3]
    assert [words.split(" since ")[0] for words in event["words"]] == [
        *("the images are darker", "the images are brighter", "the images are darker"),
    ]


def test_what_an_older_version_told_of_all_sources_together_is_not_told_again(tmp_path: Path) -> None:
    (tmp_path / "l.db").write_bytes(lzma.decompress(OLD.read_bytes()))
    with Store.open(tmp_path / "l.db") as store:
        decisions = list(store.decisions())
        assert len(decisions) == 222
        corrections = [(one.who, one.note, one.undone_by) for one in store.corrections()]
        assert corrections == [("Ada", "a dent", "Bea"), ("Ada", "", "")]
        assert store.changes.of_image("m", "m0") == []
        (waiting,) = store.outbox.waiting()
        assert (waiting.output, waiting.count) == ("drift webhook x", 1)
        first, other = find_drifts(store.scores())
        assert [one.quantity.kind for one in first.alarms] == ["brightness"]
        assert (first.source, other.source, other.alarms) == ("/in", "/other", ())
        assert store.alarms.record(first) is None
        store.record(drifted("m", "m0", 300, seed=14))  # but what comes later is
        event = store.alarms.record(find_drifts(store.scores())[0])
        assert event is not None
        assert [(one["change"], one["is_higher"]) for one in event["findings"]] == [(2, True), (3, False)]


def test_where_retention_moves_the_beginning_the_same_change_is_not_told_again(tmp_path: Path) -> None:
    clock = Clock()
    with Store.open(tmp_path / "l.db", clock=clock) as store:
        store.record(drifted("m", "m0")[:30])
        clock.now += 2 * DAY
        store.record(drifted("m", "m0")[30:])
        assert store.alarms.record(drift_of(store)) is not None
        clock.now += DAY / 2
        assert store.retain(max_seconds=DAY).deleted == 30
        store.record([replace(drifted("m", "m0")[-1], item="new.png")])
        drift = drift_of(store)
        assert drift.alarms
        assert store.alarms.record(drift) is None
        store.record(drifted("m", "m0", 600, seed=12)[200:])  # as bright again as it was, and then darker once more
        with store._database.transaction() as connection:  # a beginning after the first change
            connection.execute("UPDATE deleted SET last = 330")
        again = store.alarms.record(drift_of(store))
        assert again is not None
        assert again["findings"][0]["since"]["sequence"] > 400


def test_an_alarm_by_a_decision_that_is_gone_is_left_for_a_later_one(store: Store) -> None:
    store.record(drifted("m", "m0"))
    drift = drift_of(store)
    with store._database.transaction() as connection:
        connection.execute("DELETE FROM decisions WHERE sequence = ?", (drift.last.sequence,))
    assert store.alarms.record(drift, ["drift webhook x"]) is None
    assert store.alarms.record(drift_of(store), ["drift webhook x"]) is not None


def test_what_waits_for_it_is_kept_by_retention_and_can_be_abandoned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim_jax.line.retention.NEWEST", 0)
    clock = Clock()
    with Store.open(tmp_path / "l.db", clock=clock) as store:
        store.record(drifted("m", "m0"))
        store.alarms.record(drift_of(store), ["drift webhook x"])
        clock.now += 9 * DAY
        kept = store.retain(max_seconds=DAY)
        assert (kept.deleted, kept.kept_waiting) == (299, 1)
    assert main(["results", str(tmp_path / "l.db"), "--abandon", "drift webhook x"]) == 0
    assert "1 decisions that waited for drift webhook x are given up" in capsys.readouterr().out


@pytest.mark.parametrize(("notified", "kinds"), [((), "both"), (("bad",), "decision"), (("drift",), "event")])
def test_notify_chooses_decisions_or_drift(
    tmp_path: Path, judge: Judge, server: Receiver, notified: tuple[str, ...], kinds: str
) -> None:
    with Store.open(tmp_path / "l.db") as store:
        store.record(drifted("bracket", judge.current.digest, source=tmp_path / "camera"))
    write_images(tmp_path / "camera", parts(2, seed=6, defect=True))
    arguments = ["watch", str(tmp_path / "camera"), "--model", str(judge.path), "--store", str(tmp_path / "l.db")]
    options = [word for name in notified for word in ("--notify", name)]
    assert main([*arguments, "--once", "--look-rate", "0.2", "--webhook", server.url, *options]) == 0
    found = {"event" if "event" in body else "decision" for _, body in server.got}
    assert found == ({"event", "decision"} if kinds == "both" else {kinds})


@pytest.mark.parametrize("options", [("--on-motion",), ("--every", "0.04"), ()])
def test_drift_is_looked_for_in_one_frame_of_each_part_alone(
    tmp_path: Path, judge: Judge, server: Receiver, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(tmp_path / "l.db") as store:
        store.record(drifted("bracket", judge.current.digest, source=tmp_path / "v.mkv"))
    frames = write_frames(tmp_path / "v.mkv", parts(3, seed=6).repeat(10, axis=0))
    arguments = ["watch", str(frames), "--model", str(judge.path), "--store", str(tmp_path / "l.db")]
    arguments += ["--look-rate", "0.2", "--webhook", server.url, *options]
    assert main(arguments) == 0
    said, is_looked_for = capsys.readouterr().err, "--on-motion" in options
    assert ("bracket has drifted" in said) == is_looked_for
    assert any("event" in body for _, body in server.got) == is_looked_for
    assert ("note: nobody looks for drift, which takes one image of each part" in said) == (not is_looked_for)
    assert main([*arguments, "--notify", "drift"]) == (0 if is_looked_for else 2)


def test_drift_that_nobody_would_be_told_of_is_refused(
    tmp_path: Path, judge: Judge, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["watch", str(tmp_path), "--model", str(judge.path), "--store", str(tmp_path / "l.db"), "--once"]
    plc = ["--opcua", "opc.tcp://plc:4840/?node=i=1"]
    for outputs in ([], plc):
        assert main([*arguments, *outputs, "--notify", "drift"]) == 2
        assert "--notify drift: drift is sent by --webhook and --mqtt, and neither is given" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_any_moment_it_is_told_once(tmp_path: Path) -> None:
    fit_model(tmp_path / "m")
    digest = Judge(tmp_path / "m", RATES).current.digest
    (tmp_path / "camera").mkdir()
    server = Receiver()
    port = server.server_port
    server.end()  # the other end is away
    with Store.open(tmp_path / "l.db") as store:
        store.record(drifted("m", digest, source=tmp_path / "camera"))
        for pause in (0.0, 0.05, 0.3):
            process = start(tmp_path, "camera", "--poll", 0.1, "--webhook", f"http://127.0.0.1:{port}/part")
            time.sleep(pause)
            process.kill()
            process.communicate()
        process = start(tmp_path, "camera", "--poll", 0.1, "--webhook", f"http://127.0.0.1:{port}/part")
        wait_for(lambda: store.outbox.waiting())
        process.kill()
        process.communicate()
        server = Receiver(port)
        try:
            process = start(tmp_path, "camera", "--poll", 0.1, "--webhook", server.url)
            wait_for(lambda: server.got and not store.outbox.waiting())
            process.terminate()
            process.communicate(timeout=60)
        finally:
            server.end()
        ((_, body),) = server.got
        assert body["event"] == "drift"
        ((event,),) = store._database.read("SELECT event FROM alarms")
        assert json.loads(event)["id"] == body["id"]


def test_a_decision_that_has_no_alarm_sends_nothing(store: Store, server: Receiver) -> None:
    output = DriftEvents(store.alarms, Webhook(server.url))
    store.record(drifted("m", "m0", 3), lambda _: [output.name])
    assert hand_on(store, output, {}, pytest.fail) == 0
    assert server.got == []
