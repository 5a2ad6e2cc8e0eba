"""A watched folder whose files, or that itself, go and come back."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from padim_jax.images.folder import digest_of
from padim_jax.line.backlog import Arrival
from padim_jax.line.records import Decision
from padim_jax.line.seen import Dropped
from padim_jax.line.sources.folder import Folder
from padim_jax.line.sources.source import stamp_of
from padim_jax.line.store import Store
from tests.test_line_watch import wait_for


class Finding:
    """A folder that is watched in a thread, until the block ends."""

    def __init__(self, root: Path, store: Store, poll: float | None = 0.05) -> None:
        self.found, self.remarks, self._stop = list[Arrival](), list[str](), threading.Event()
        self.folder = Folder(root, store.seen, settle=0.0, poll=poll, remark=self.remarks.append)
        self._thread = threading.Thread(target=self.folder.find, args=(self.found.append, self._stop))

    def __enter__(self) -> "Finding":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def until(self, *items: str) -> None:
        """Wait until exactly these were found, in any order."""
        wait_for(lambda: len(self.found) >= len(items))
        assert sorted(arrival.item for arrival in self.found) == sorted(items)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "line.db") as store:
        yield store


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    (tmp_path / "camera").mkdir()
    return tmp_path / "camera"


def decide(store: Store, arrival: Arrival) -> None:
    digest = digest_of(arrival.path.read_bytes())
    decision = Decision(arrival.source, arrival.item, digest, "m", "m0", "good", stamp=arrival.stamp)
    store.record([decision])


def test_a_file_that_was_gone_for_a_moment_is_found_again(camera: Path, store: Store) -> None:
    (camera / "a.png").write_bytes(b"a")
    with Finding(camera, store) as finding:
        finding.until("a.png")
        store.seen.drop([Dropped(finding.found[0].source, "a.png", "", "it was gone before it was read")])
        finding.folder.forget(finding.found[0])
        finding.until("a.png", "a.png")


def test_a_moved_image_is_known_though_another_has_its_old_name(camera: Path, store: Store) -> None:
    (camera / "a.png").write_bytes(b"a")
    with Finding(camera, store) as finding:
        finding.until("a.png")
        decide(store, finding.found[0])
    (camera / "a.png").rename(camera / "z.png")
    (camera / "a.png").write_bytes(b"another")
    with Finding(camera, store) as finding:
        finding.until("a.png")
        wait_for(lambda: finding.remarks)
        assert "z.png was decided as a.png before it was moved" in finding.remarks[0]
        assert [arrival.stamp for arrival in finding.found] == [stamp_of(camera / "a.png")]


def test_a_folder_that_is_named_relatively_tells_of_each_file_once(
    camera: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("watchfiles")
    monkeypatch.setattr("padim_jax.line.sources.folder._SWEEP", 0.05)
    monkeypatch.chdir(camera.parent)
    with Finding(Path("camera"), store, None) as finding:
        for name in ("a.png", "b.png", "c.png"):  # seen by sweeps and told by the system
            whole = camera.parent / name  # moved there: an empty file that is then written to would be told of twice
            whole.write_bytes(b"a")
            whole.rename(camera / name)
            wait_for(lambda name=name: name in [arrival.item for arrival in finding.found])
            time.sleep(0.3)
        finding.until("a.png", "b.png", "c.png")
        shutil.rmtree(camera)
        camera.mkdir()  # its number may be the same
        wait_for(lambda: any("was replaced" in text or "is back" in text for text in finding.remarks))


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_folder_that_goes_and_comes_back_is_watched_on(
    camera: Path, store: Store, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("watchfiles")
    monkeypatch.setattr("padim_jax.line.sources.folder._SWEEP", 1000.0)
    (camera / "a.png").write_bytes(b"a")
    with Finding(camera, store, None) as finding:
        finding.until("a.png")
        if how == "removed":
            shutil.rmtree(camera)
        else:
            camera.rename(camera.with_name("old"))
        if how != "replaced":
            wait_for(lambda: any("is gone; waiting" in text for text in finding.remarks))
        camera.mkdir()
        wait_for(lambda: any("is back" in text or "was replaced" in text for text in finding.remarks))
        (camera / "b.png").write_bytes(b"b")
        finding.until("a.png", "b.png")
        (camera / "c.png").write_bytes(b"c")
        finding.until("a.png", "b.png", "c.png")


def test_a_second_model_has_not_decided_what_the_first_one_did(camera: Path, store: Store) -> None:
    (camera / "a.png").write_bytes(b"a")
    for model, expected in (("m", 1), ("m", 0), ("other", 1)):
        found = list[Arrival]()
        Folder(camera, store.seen, model=model, settle=0.0, once=True).find(found.append, threading.Event())
        assert len(found) == expected
        for arrival in found:
            decision = Decision(arrival.source, arrival.item, "d", model, model, "good", stamp=arrival.stamp)
            store.record([decision])


def test_a_drive_that_is_missing_makes_the_store_forget_nothing(camera: Path, store: Store) -> None:
    with store._database.transaction() as connection:
        connection.execute(
            "INSERT INTO retired (id, source, item, stamp) VALUES ('1', ?, 'a.png', 's')", (str(camera),)
        )

    def look() -> None:
        Folder(camera, store.seen, settle=0.0, once=True).find(lambda _: None, threading.Event())

    look()
    assert store.seen.is_known(str(camera), "a.png", "s")
    (camera / "b.png").write_bytes(b"b")
    look()
    assert not store.seen.is_known(str(camera), "a.png", "s")


@pytest.mark.parametrize("poll", [0.05, None])
def test_a_folder_below_that_can_not_be_read_is_passed_over_with_a_word(
    camera: Path, store: Store, poll: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As lost+found of a drive that was mounted; whoever runs the tests may be let into any folder."""
    if poll is None:
        pytest.importorskip("watchfiles")
    locked = {camera / "lost+found"}
    stat, scandir = os.stat, os.scandir

    def refuse(path: object) -> None:
        if isinstance(path, str | Path) and locked & {Path(path), *Path(path).parents}:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def checked_stat(path: Path, *arguments: object, **options: object) -> os.stat_result:
        refuse(None if Path(str(path)) in locked else path)
        return stat(path, *arguments, **options)  # type: ignore[arg-type]

    def checked_scandir(path: str = ".") -> object:
        refuse(path)
        return scandir(path)

    (camera / "lost+found").mkdir()
    (camera / "lost+found" / "b.png").write_bytes(b"b")
    (camera / "a.png").write_bytes(b"a")
    with store._database.transaction() as connection:
        connection.execute(
            "INSERT INTO retired (id, source, item, stamp) VALUES ('1', ?, 'lost+found/old.png', 's')", (str(camera),)
        )
    if poll is None:

        def refused(*arguments: object, **options: object) -> object:
            raise PermissionError(f"Permission denied about {locked}")

        monkeypatch.setattr("watchfiles.watch", refused)
    monkeypatch.setattr(os, "stat", checked_stat)
    monkeypatch.setattr(os, "scandir", checked_scandir)
    monkeypatch.setattr("padim_jax.line.sources.folder.POLL", 0.05)
    with Finding(camera, store, poll) as finding:
        finding.until("a.png")
        (camera / "c.png").write_bytes(b"c")
        finding.until("a.png", "c.png")
        time.sleep(0.3)
        words = f"{camera / 'lost+found'} can't be read by this user, and is passed over until it can be"
        assert finding.remarks[0] == words
        assert len(finding.remarks) == 1 + (poll is None)
        assert poll or f"{camera}, which is looked at every 0.05 s" in finding.remarks[1]
        assert store.seen.is_known(str(camera), "lost+found/old.png", "s")  # nobody knows whether it is gone
        locked.clear()
        finding.until("a.png", "c.png", "lost+found/b.png")


def test_links_to_folders_are_not_followed_whoever_tells_of_them(
    camera: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("watchfiles")
    monkeypatch.setattr("padim_jax.line.sources.folder._SWEEP", 1000.0)
    elsewhere = camera.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "x.png").write_bytes(b"x")
    (camera / "a.png").write_bytes(b"a")
    with Finding(camera, store, None) as finding:
        finding.until("a.png")
        (camera / "loop").symlink_to(".")
        (camera / "link").symlink_to(elsewhere)
        (camera / "x.png").symlink_to(elsewhere / "x.png")  # of a file, which stays one of the folder's
        wait_for(lambda: len(finding.found) >= 2)
        (camera / "link" / "y.png").write_bytes(b"y")
        (camera / "below").mkdir()
        (camera / "below" / "b.png").write_bytes(b"b")
        finding.until("a.png", "below/b.png", "x.png")
        time.sleep(0.3)
        finding.until("a.png", "below/b.png", "x.png")


@pytest.fixture
def reused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that gives each file the number of one that is gone, whose time its writer has set too."""
    monkeypatch.setattr("padim_jax.line.sources.folder.stamp_of", lambda path: "same" if path.exists() else "")


@pytest.mark.usefixtures("reused")
@pytest.mark.parametrize("is_moved", [False, True])
def test_a_file_with_the_number_of_one_that_is_gone_is_known_by_its_bytes_alone(
    camera: Path, store: Store, is_moved: bool
) -> None:
    (camera / "a.bmp").write_bytes(b"a")
    with Finding(camera, store) as finding:
        finding.until("a.bmp")
        decide(store, finding.found[0])
        (camera / "a.bmp").unlink()
        (camera / "b.bmp").write_bytes(b"a" if is_moved else b"b")
        if is_moved:
            wait_for(lambda: finding.remarks)
            assert finding.remarks == ["b.bmp was decided as a.bmp before it was moved; files are decided once"]
        else:
            finding.until("a.bmp", "b.bmp")


@pytest.mark.usefixtures("reused")
@pytest.mark.parametrize("pause", [0.0, 0.3])  # seen by its time of change, or by a sweep
def test_an_image_that_is_made_anew_is_found_again_and_one_that_was_touched_is_not(
    camera: Path, store: Store, pause: float
) -> None:
    (camera / "a.bmp").write_bytes(b"a")
    (camera / "touched.bmp").write_bytes(b"t")
    with Finding(camera, store) as finding:
        finding.until("a.bmp", "touched.bmp")
        for arrival in finding.found:
            decide(store, arrival)
        (camera / "a.bmp").unlink()
        time.sleep(pause)
        (camera / "a.bmp").write_bytes(b"another")
        (camera / "touched.bmp").chmod(0o600)
        finding.until("a.bmp", "a.bmp", "touched.bmp")
        time.sleep(0.2)
        finding.until("a.bmp", "a.bmp", "touched.bmp")
