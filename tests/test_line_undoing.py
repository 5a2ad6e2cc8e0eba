"""Undo names the change that it takes back, whoever made it; what was not made by the service is never given a name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import padim_jax as padim
from padim_jax.artifact.folder import read_states, undo
from padim_jax.artifact.manifest import manifest_checksum, read_manifest
from padim_jax.cli import main
from padim_jax.line.changes import Changes, Kind
from padim_jax.line.history import history
from padim_jax.line.schema import MIGRATIONS
from padim_jax.line.store import Store
from padim_jax.line.undoing import Undoing, thresholds, undoing
from tests.conftest import SMALL, images
from tests.service import NAME

FITTED = ("a", "b", "c")


@pytest.fixture(scope="module")
def stored(lite0: padim.Backbone) -> padim.Updatable:
    model = padim.calibrate(padim.fit(lite0, [images(4, SMALL)], SMALL), [images(4, SMALL)])
    moments = padim.update(lite0, padim.init(lite0, SMALL), images(4, SMALL))
    return padim.Updatable(lite0, moments, dict.fromkeys(FITTED, 1.0), model.calibration)


class Line:
    """A model that people change by the service, and by commands that no store hears of.

    Which images a model knows is all that counts here, so its moments stay as they are.
    """

    def __init__(self, stored: padim.Updatable, path: Path, changes: Changes) -> None:
        self.stored, self.path, self.changes = stored, path, changes
        self.save(dict(stored.images))

    @property
    def state(self) -> str:
        return manifest_checksum(read_manifest(self.path))

    @property
    def known(self) -> dict[str, float]:
        return dict(read_manifest(self.path)["images"])

    def save(self, known: Mapping[str, float]) -> str:
        padim.save_updatable(replace(self.stored, images=dict(known)), self.path, keep_previous=True)
        return self.state

    def begin(self, kind: Kind, digest: str) -> int:
        return self.changes.begin(NAME, kind, who="Ada", before=self.state, images=(digest,))

    def learn(self, digest: str) -> None:
        number = self.begin("learn", digest)
        self.changes.finish(number, self.save(self.known | {digest: 1.0}))

    def forget(self, digest: str) -> None:
        number = self.begin("forget", digest)
        self.changes.finish(number, self.save({one: 1.0 for one in self.known if one != digest}))

    def undoing(self) -> Undoing:
        return undoing(self.path, partial(self.changes.between, NAME))

    def undo(self) -> None:
        found = self.undoing()
        about = {"before": found.based_on, "images": (*found.came, *found.went), "gone": found.went}
        number = self.changes.begin(NAME, "undo", who="Bea", **about)
        self.changes.finish(number, manifest_checksum(undo(self.path)))

    def killed_learn(self, digest: str) -> None:
        self.begin("learn", digest)
        self.save(self.known | {digest: 1.0})

    def begun(self, digest: str) -> None:
        self.begin("learn", digest)

    def update(self, digest: str) -> None:
        self.save(self.known | {digest: 1.0})

    def remove(self, digest: str) -> None:
        self.save({one: 1.0 for one in self.known if one != digest})

    def calibrate(self) -> None:
        assert main(["calibrate", str(self.path), "--false-alarm-rate", "0.5"]) == 0

    def command_undo(self) -> None:
        assert main(["undo", str(self.path)]) == 0

    def calibration(self) -> padim.Calibration:
        found = padim.load(self.path).calibration
        assert found is not None
        return found

    def undone_calibration(self) -> padim.Calibration:
        undo(self.path)
        found = self.calibration()
        undo(self.path)
        return found

    def told(self, digest: str) -> list[tuple[str, str | None]]:
        changes = self.changes.of_image(NAME, digest)
        return [(one["kind"], one["way"]) for one in history(digest, changes, digest in self.known)]


@pytest.fixture
def line(stored: padim.Updatable, tmp_path: Path) -> Iterator[Line]:
    with Store.open(tmp_path / "line.db") as store:
        yield Line(stored, tmp_path / NAME, store.changes)


Step = Callable[[Line], None]


def step(work: Callable[[Line, str], None], digest: str = "d") -> Step:
    return lambda line: work(line, digest)


LEARN, FORGET, KILLED, BEGUN = map(step, (Line.learn, Line.forget, Line.killed_learn, Line.begun))
REMOVE, UPDATE, UPDATE_AGAIN = step(Line.remove), step(Line.update, "e"), step(Line.update, "f")
PAGE_UNDO, UNDO, CALIBRATE = Line.undo, Line.command_undo, Line.calibrate


@pytest.mark.parametrize(
    ("steps", "kind", "brings_back", "came", "went"),
    [
        ((LEARN,), "learn", False, "", "d"),
        ((LEARN, PAGE_UNDO), "learn", True, "d", ""),
        ((LEARN, UNDO), "learn", True, "d", ""),
        ((LEARN, UNDO, PAGE_UNDO), "learn", False, "", "d"),
        ((LEARN, UPDATE), None, False, "", "e"),
        ((LEARN, UPDATE, UNDO), None, False, "e", ""),
        ((LEARN, UPDATE, PAGE_UNDO), None, False, "e", ""),
        ((LEARN, UPDATE, PAGE_UNDO, PAGE_UNDO), None, False, "", "e"),
        ((UPDATE, UPDATE_AGAIN), None, False, "", "f"),
        ((UPDATE, PAGE_UNDO, LEARN), "learn", False, "", "d"),
        ((LEARN, REMOVE), None, False, "d", ""),
        ((LEARN, REMOVE, UNDO), None, False, "", "d"),
        ((LEARN, CALIBRATE), None, False, "", ""),
        ((LEARN, CALIBRATE, UNDO), None, False, "", ""),
        ((LEARN, FORGET), "forget", False, "d", ""),
        ((LEARN, FORGET, PAGE_UNDO), "forget", True, "", "d"),
        ((LEARN, FORGET, PAGE_UNDO, UPDATE, UNDO), None, False, "e", ""),
        ((UPDATE, UNDO, PAGE_UNDO), None, False, "", "e"),
        ((KILLED,), "learn", False, "", "d"),
        ((KILLED, UNDO), "learn", True, "d", ""),
        ((BEGUN, UPDATE), None, False, "", "e"),
        ((BEGUN, LEARN), "learn", False, "", "d"),
        ((KILLED, UPDATE, UNDO), None, False, "e", ""),
    ],
)
def test_undo_names_the_change_between_the_two_states_that_the_model_keeps(
    line: Line, steps: tuple[Step, ...], kind: Kind | None, brings_back: bool, came: str, went: str
) -> None:
    for each in steps:
        each(line)
    found, before = line.undoing(), set(line.known)
    change = found.change
    assert (None if change is None else change.kind, found.brings_back) == (kind, brings_back)
    assert (found.came, found.went) == (tuple(came), tuple(went))
    assert change is None or (bool(change.after) or KILLED in steps)
    line.command_undo()  # and that is what it does
    assert set(line.known) == before - set(went) | set(came)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((LEARN, PAGE_UNDO), ["learn in", "undo out"]),
        ((LEARN, PAGE_UNDO, PAGE_UNDO), ["learn in", "undo out", "undo in"]),
        ((LEARN, UNDO), ["learn in", "elsewhere out"]),
        ((LEARN, UNDO, PAGE_UNDO), ["learn in", "elsewhere out", "undo in"]),
        ((LEARN, REMOVE), ["learn in", "elsewhere out"]),
        ((LEARN, REMOVE, PAGE_UNDO), ["learn in", "elsewhere out", "undo in"]),
        ((LEARN, REMOVE, LEARN), ["learn in", "elsewhere out", "learn in"]),
        ((LEARN, FORGET, UNDO, FORGET), ["learn in", "forget out", "elsewhere in", "forget out"]),
        ((LEARN, UPDATE, UNDO, PAGE_UNDO), ["learn in"]),  # what was undone was not about it
        ((LEARN, CALIBRATE, UNDO, PAGE_UNDO, UPDATE), ["learn in"]),
        ((KILLED,), ["learn None"]),
        ((KILLED, REMOVE, LEARN), ["learn None", "learn in"]),
    ],
)
def test_the_history_of_an_image_is_what_happened_to_it(line: Line, steps: tuple[Step, ...], told: list[str]) -> None:
    for each in steps:
        each(line)
    assert [f"{kind} {way}" for kind, way in line.told("d")] == told


def test_a_learned_part_that_a_command_took_out_is_not_learned_by_the_same_correction(line: Line) -> None:
    line.learn("d")
    (learned,) = line.changes.of_image(NAME, "d")
    assert line.changes.taken_out_elsewhere(NAME, line.state) == {"d": learned.time}
    line.remove("d")
    assert line.changes.taken_out_elsewhere(NAME, line.state) == {"d": learned.time}  # and it is not there
    line.command_undo()
    line.undo()  # the removal is made again
    *_, undone = line.changes.of_image(NAME, "d")
    assert line.changes.taken_out_elsewhere(NAME, line.state) == {"d": undone.time}
    line.undo()
    line.forget("d")
    assert line.changes.taken_out_elsewhere(NAME, line.state) == {}


@pytest.mark.parametrize("take_back", [UNDO, PAGE_UNDO])
def test_a_lesson_that_was_undone_may_be_learned_again(line: Line, take_back: Step) -> None:
    line.learn("d")
    take_back(line)
    assert line.changes.taken_out_elsewhere(NAME, line.state) == {}


def test_where_no_other_state_is_kept_there_is_nothing_to_undo(stored: padim.Updatable, tmp_path: Path) -> None:
    padim.save_updatable(stored, tmp_path / NAME)
    with pytest.raises(padim.ArtifactError, match=rf"undo: {NAME} keeps no earlier state"):
        undoing(tmp_path / NAME, lambda one, other: [])
    # a save that was killed between its two manifests has kept the state that is there
    (tmp_path / NAME / "previous.json").write_bytes((tmp_path / NAME / "model.json").read_bytes())
    with pytest.raises(padim.ArtifactError, match="keeps no earlier state"):
        undoing(tmp_path / NAME, lambda one, other: [])
    with pytest.raises(padim.ArtifactError, match="keeps no earlier state"):
        undo(tmp_path / NAME)


def test_thresholds_of_both_states_are_known_and_a_damaged_one_is_not_brought_back(line: Line) -> None:
    line.calibrate()
    found = thresholds(line.path)
    after, before = (float(calibrated.threshold) for calibrated in (line.calibration(), line.undone_calibration()))
    assert found == (after, before)
    assert before != after
    current, previous = read_states(line.path)
    assert previous is not None
    for manifest, is_refused in ((current, False), (previous, True)):
        (file, *_) = sorted(path for path in (line.path / manifest["directory"]).rglob("*") if path.is_file())
        file.write_bytes(b"damaged")
        if is_refused:
            with pytest.raises(padim.ArtifactError, match="damaged"):
                thresholds(line.path)
        else:
            assert thresholds(line.path) == (None, before)


def test_a_store_of_the_version_before_says_only_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("padim_jax.line.schema.MIGRATIONS", MIGRATIONS[:5])
        with Store.open(tmp_path / "line.db") as store, store._database.transaction() as connection:
            names = "time, who, model, kind, before, after, calibration, images"
            row = ("2026-01-01", "Ada", NAME, "undo", "m1", "m0", "", '["d"]')
            connection.execute(f"INSERT INTO changes ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    with Store.open(tmp_path / "line.db") as store:
        (change,) = store.changes.of_image(NAME, "d")
        assert (change.kind, change.gone, change.way_of("d")) == ("undo", None, None)
        assert [one["way"] for one in history("d", [change], True)] == [None]
