"""``padim watch``: every image decided once, whole files only, whatever happens to the process."""

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.line.backlog import Arrival, Backlog
from padim_jax.line.judge import Judge
from padim_jax.line.outputs.bad_folder import BadFolder
from padim_jax.line.outputs.output import Output
from padim_jax.line.outputs.table import Table
from padim_jax.line.records import Decision
from padim_jax.line.sources.folder import Folder
from padim_jax.line.sources.lines import Lines
from padim_jax.line.sources.source import stamp_of
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates
from padim_jax.line.watch import Limits, Summary, watch_line
from tests.conftest import write_images
from tests.line_parts import fit_model, open_judge, parts
from tests.test_cli import rows

RATES = Rates(None, 0.2)
WAIT = 20.0  # seconds that a test waits at most for what takes a moment


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_model(tmp_path_factory.mktemp("line") / "bracket")


@pytest.fixture(scope="module")
def judge(model: Path) -> Judge:
    return open_judge(model)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "line.db") as store:
        yield store


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    (tmp_path / "camera").mkdir()
    return tmp_path / "camera"


class Watching:
    """A watch that runs in a thread, until the block ends."""

    def __init__(
        self, source: Folder, judge: Judge, store: Store, outputs: list[Output], limits: Limits, remarks: list[str]
    ) -> None:
        self.remarks, self.decisions, self.summary = remarks, list[Decision](), Summary()
        self._stop, self._ready = threading.Event(), threading.Event()

        def work() -> None:
            self.summary = watch_line(
                source,
                judge,
                store,
                outputs,
                limits=limits,
                remark=self.remarks.append,
                told=self.decisions.append,
                ready=self._ready.set,
                stopped=self._stop.is_set,
            )

        self._thread = threading.Thread(target=work)

    def __enter__(self) -> "Watching":
        self._thread.start()
        assert self._ready.wait(WAIT)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(WAIT)

    def until(self, count: int) -> dict[str, str]:
        """Verdicts by item, once there are so many decisions."""
        wait_for(lambda: len(self.decisions) >= count)
        return {decision.item: decision.verdict for decision in self.decisions}


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def watching(
    camera: Path, judge: Judge, store: Store, *outputs: Output, limits: Limits | None = None, poll: float | None = 0.1
) -> Watching:
    remarks = list[str]()
    source = Folder(camera, store.seen, poll=poll, remark=remarks.append)
    return Watching(source, judge, store, list(outputs), limits or Limits(patience=0.5), remarks)


def once(camera: Path, judge: Judge, store: Store, *outputs: Output, limits: Limits | None = None) -> Summary:
    source = Folder(camera, store.seen, once=True)
    return watch_line(source, judge, store, outputs, limits=limits or Limits(patience=0.5))


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.mark.parametrize("poll", [0.1, None])
def test_what_lies_there_and_what_comes_is_decided_once(
    camera: Path, judge: Judge, store: Store, poll: float | None
) -> None:
    if poll is None:
        pytest.importorskip("watchfiles")
    good, bad = parts(6, seed=5), parts(2, seed=6, defect=True)
    save(camera / "before.png", good[0])
    with watching(camera, judge, store, poll=poll) as line:
        save(camera / "sub" / "deep" / "a.png", bad[0])
        save(camera.parent / "elsewhere.png", good[1])
        (camera.parent / "elsewhere.png").rename(camera / "moved-in.png")  # whole at once
        (camera / "notes.txt").write_text("no image")
        (camera / ".hidden.png").write_bytes((camera / "before.png").read_bytes())
        found = line.until(3)
        assert found.keys() == {"before.png", "sub/deep/a.png", "moved-in.png"}
        assert found["sub/deep/a.png"] == "bad"
        (camera / "moved-in.png").rename(camera / "sub" / "sorted.png")  # within: decided already
        save(camera / "before.png", bad[1])  # the same name, another image
        assert line.until(4)["before.png"] == "bad"
        shutil.copy(camera / "before.png", camera / "copy.png")  # another item with the same bytes
        assert line.until(5)["copy.png"] == "bad"
        wait_for(lambda: any("sub/sorted.png was decided as moved-in.png" in text for text in line.remarks))
    assert line.summary.verdicts.total() == len(list(store.decisions())) == 5
    assert once(camera, judge, store).verdicts.total() == 0
    os.utime(camera / "copy.png")  # touched: it is read, and known by its bytes
    assert once(camera, judge, store).known == 1


def test_a_decision_says_all_that_is_known(camera: Path, judge: Judge, store: Store) -> None:
    write_images(camera, parts(1, seed=6, defect=True))
    once(camera, judge, store)
    (found,) = store.decisions()
    scored = padim.score(judge.current.model, parts(1, seed=6, defect=True))
    assert found.score == pytest.approx(float(scored.image_score[0]), rel=1e-5)
    assert found.p_value == pytest.approx(0.04)
    assert (found.source, found.item, found.model) == (str(camera), "000.png", "bracket")
    assert found.model_digest == judge.current.digest
    assert len(found.image_digest) == 32
    assert found.regions
    region = max(found.regions, key=lambda one: one["peak"])
    assert region["left"] < 26 < region["left"] + region["width"]
    assert region["top"] < 15 < region["top"] + region["height"]


def test_a_file_is_read_once_it_is_whole(camera: Path, judge: Judge, store: Store) -> None:
    buffer = io.BytesIO()
    Image.fromarray(parts(1, seed=5)[0]).save(buffer, "PNG")
    content = buffer.getvalue()
    with watching(camera, judge, store, limits=Limits(patience=30)) as line:
        with (camera / "slow.png").open("wb", buffering=0) as file:
            for start in range(0, len(content), len(content) // 4):
                file.write(content[start : start + len(content) // 4])
                time.sleep(0.4)  # longer than a file has to be left alone
        line.until(1)
    assert [found.verdict for found in store.decisions()] != ["unreadable"]
    assert len(list(store.decisions())) == 1


def test_a_file_that_stays_unreadable_is_a_decision_too(camera: Path, judge: Judge, store: Store) -> None:
    (camera / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (camera / "empty.jpg").touch()
    save(camera / "fine.png", parts(1, seed=5)[0])
    summary = once(camera, judge, store)
    found = {decision.item: decision for decision in store.decisions()}
    assert summary.verdicts["unreadable"] == 2
    assert {found[name].verdict for name in ("cut.png", "empty.jpg")} == {"unreadable"}
    assert found["cut.png"].reason
    assert found["cut.png"].score is None
    assert found["fine.png"].verdict != "unreadable"
    save(camera / "cut.png", parts(1, seed=7)[0])  # whole at last
    once(camera, judge, store)
    assert [one.verdict != "unreadable" for one in store.decisions() if one.item == "cut.png"] == [False, True]


def test_a_file_that_could_not_be_looked_at_once_is_decided_later(
    camera: Path, judge: Judge, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(camera / "a.png", parts(1, seed=5)[0])
    away = [True]
    monkeypatch.setattr("padim_jax.line.watch.stamp_of", lambda path: "" if away else stamp_of(path))
    with watching(camera, judge, store) as line:
        wait_for(lambda: "dropped a.png: it was gone before it was read" in line.remarks)
        away.clear()
        assert line.until(1).keys() == {"a.png"}


def test_a_burst_is_decided_in_batches_and_in_its_order(
    camera: Path, judge: Judge, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, original = list[int](), judge.begin
    monkeypatch.setattr(judge, "begin", lambda photos: (sizes.append(len(photos)), original(photos))[1])
    write_images(camera, np.tile(parts(10, seed=5), (10, 1, 1, 1)))
    past = time.time() - 1000
    for index in range(100):
        os.utime(camera / f"{index:03}.png", (past + index, past + index))
    assert once(camera, judge, store, limits=Limits(queue=8)).verdicts.total() == 100
    assert [found.item for found in store.decisions()] == [f"{index:03}.png" for index in range(100)]
    assert len(sizes) <= 60
    assert max(sizes) == 4


def test_the_same_image_gets_the_same_score_in_any_batch(camera: Path, judge: Judge, store: Store) -> None:
    write_images(camera, parts(7, seed=5))
    once(camera, judge, store)
    alone = Judge(judge.path, RATES, batch_size=1)
    with Store.open(camera.parent / "alone.db") as other:
        once(camera, alone, other)
        scores = [found.score for found in other.decisions()]
    np.testing.assert_allclose([found.score for found in store.decisions()], scores, rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("when_full", "kept"), [("drop-oldest", [2, 3, 4]), ("drop-newest", [0, 1, 2])])
def test_a_full_backlog_drops_what_was_chosen(when_full: str, kept: list[int]) -> None:
    backlog = Backlog(3, when_full)  # pyright: ignore[reportArgumentType]
    arrivals = [Arrival("s", f"{index}", Path(f"{index}"), "") for index in range(5)]
    dropped = [backlog.put(arrival) for arrival in arrivals]
    assert len([one for one in dropped if one]) == 2
    assert [one.item for one in backlog.take(9, 0)] == [str(index) for index in kept]


def test_what_is_dropped_is_counted_stored_and_told(camera: Path, judge: Judge, store: Store) -> None:
    write_images(camera, parts(20, seed=5))
    remarks = list[str]()
    options = {"limits": Limits(queue=2, when_full="drop-newest"), "remark": remarks.append}
    source = Folder(camera, store.seen, once=True)
    summary = watch_line(source, judge, store, **options)
    assert summary.dropped == len(store.seen.dropped()) > 0
    assert summary.dropped + summary.verdicts.total() == 20
    assert any("2 images waited already (--when-full drop-newest)" in text for text in remarks)
    assert once(camera, judge, store).verdicts.total() == 0  # dropped is dropped


def test_a_size_that_can_not_be_kept_is_said(camera: Path, judge: Judge, store: Store) -> None:
    write_images(camera, parts(2, seed=5))
    remarks = list[str]()
    source = Folder(camera, store.seen, once=True)
    watch_line(source, judge, store, limits=Limits(max_bytes=1), remark=remarks.append)
    assert len(list(store.decisions())) == 2
    assert any("more than 1, for the newest 100, corrected and waiting decisions stay" in text for text in remarks)


def test_a_model_that_is_replaced_is_used_from_then_on(
    tmp_path: Path, camera: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim_jax.line.judge._RETRY", 0.1)
    path = fit_model(tmp_path / "part")
    remarks = list[str]()
    judge = Judge(path, RATES, batch_size=4, remark=remarks.append)
    save(camera / "1.png", parts(1, seed=5)[0])
    with watching(camera, judge, store) as line:
        line.until(1)
        first = judge.current.digest
        shutil.copytree(path, tmp_path / "old")
        (path / "model.json").write_text("{}")  # nobody can use this
        wait_for(lambda: any("the model goes on that was" in text for text in remarks))
        save(camera / "2.png", parts(1, seed=6)[0])
        line.until(2)
        shutil.rmtree(path)
        fit_model(path, seed=1)
        wait_for(lambda: judge.current.digest != first)
        save(camera / "3.png", parts(1, seed=7)[0])
        line.until(3)
    digests = {found.item: found.model_digest for found in store.decisions()}
    assert digests == {"1.png": first, "2.png": first, "3.png": judge.current.digest}
    assert any("was replaced" in text and judge.current.digest[:12] in text for text in remarks)
    os.utime(camera / "1.png")
    again = once(camera, judge, store)  # what was decided is not decided again by another state
    assert (again.verdicts.total(), again.known) == (0, 1)


# outputs


def test_tables_and_the_bad_folder_get_every_decision_once(camera: Path, judge: Judge, store: Store) -> None:
    write_images(camera, np.concatenate([parts(5, seed=5), parts(2, seed=6, defect=True)]))
    out = camera.parent
    names = [out / "a.csv", out / "a.jsonl"]
    for _ in range(2):
        outputs: list[Output] = [Table(name) for name in names]
        outputs.append(BadFolder(out / "bad", judge))
        once(camera, judge, store, *outputs)
    decisions = list(store.decisions())
    assert [row["id"] for row in rows(names[0])] == [found.id for found in decisions]
    records = [json.loads(line) for line in names[1].read_text().splitlines()]
    assert records == [found.record() for found in decisions]
    bad = [found for found in decisions if found.verdict == "bad"]
    assert len(bad) >= 2
    copies = sorted(path for path in (out / "bad").glob("*.png"))
    assert [path.read_bytes() for path in copies] == [(camera / found.item).read_bytes() for found in bad]
    assert len(list((out / "bad" / "pictures").glob("*.png"))) == len(bad)
    assert store.outbox.waiting() == []
    shutil.move(out / "bad", camera / "bad")
    assert once(camera, judge, store).verdicts.total() == 0  # its pictures are no parts


def test_a_table_has_no_row_twice_and_none_that_is_cut_short(tmp_path: Path, store: Store) -> None:
    given = store.record(
        [Decision("s", f"{n}.png", "d", "m", "md", "good", "a,\nb") for n in range(3)], lambda _: ["table"]
    )
    for name in ("t.csv", "t.jsonl"):
        path = tmp_path / name
        table = Table(path)
        table.deliver(given[0], 1)
        table.deliver(given[1], 1)
        table.close()  # as if killed before the store knew
        whole = path.read_bytes()
        path.write_bytes(whole[:-5])
        table = Table(path)
        for decision in given:
            table.deliver(decision, 1)
        table.flush()
        text = path.read_text()
        assert [text.count(decision.id) for decision in given] == [1, 1, 1]
        assert path.read_bytes().startswith(whole)
        path.rename(tmp_path / f"old-{name}")  # somebody takes the table away
        table.deliver(given[2], 1)
        table.close()
        assert path.read_text().count(given[2].id) == 1


def test_an_output_that_fails_loses_nothing(
    camera: Path, judge: Judge, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(camera, parts(3, seed=5))
    table, original = Table(camera.parent / "a.csv"), Table._add

    def fail(self: Table, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Table, "_add", fail)
    assert once(camera, judge, store, table).verdicts.total() == 3
    assert [waiting.count for waiting in store.outbox.waiting()] == [3]
    monkeypatch.setattr(Table, "_add", original)
    once(camera, judge, store, Table(camera.parent / "a.csv"))
    assert len(rows(camera.parent / "a.csv")) == 3


# standard input


def test_paths_on_standard_input_are_judged_to_the_last(camera: Path, judge: Judge, store: Store) -> None:
    paths = write_images(camera, parts(5, seed=5))
    lines = b"".join(os.fsencode(path) + b"\n" for path in [*paths, camera / "none.png", paths[0]])
    stop = threading.Event()
    stop.set()  # what was read from a stream is nowhere else, so it is judged though somebody has stopped it
    wait = Lines(io.BytesIO(lines).read)
    summary = watch_line(wait, judge, store, limits=Limits(patience=0.2))
    assert [found.item for found in store.decisions()][:5] == [str(path) for path in paths]
    assert summary.verdicts["unreadable"] == 1
    assert summary.known == 1


def test_paths_that_were_read_before_somebody_stopped_it_are_judged(camera: Path, judge: Judge, store: Store) -> None:
    paths = write_images(camera, parts(20, seed=5))
    stays_open, chunks = threading.Event(), [b"".join(os.fsencode(path) + b"\n" for path in paths)]

    def read(count: int) -> bytes:
        if not chunks:
            stays_open.wait(WAIT)
        return chunks.pop() if chunks else b""

    decided = list[Decision]()
    limits, stopped = Limits(queue=2), lambda: bool(decided)
    watch_line(Lines(read), judge, store, limits=limits, told=decided.append, stopped=stopped)
    stays_open.set()
    assert [found.item for found in store.decisions()] == [str(path) for path in paths]
