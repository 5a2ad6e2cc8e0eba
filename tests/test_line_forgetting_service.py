"""Over HTTP and on the page, images are taken out of a model: by a decision's photo or by their files, and undone."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import padim_jax as padim
from padim_jax.artifact.manifest import manifest_checksum, read_manifest
from padim_jax.artifact.ownership import MARKER
from padim_jax.cli import main
from padim_jax.images.folder import digest_file
from padim_jax.line.changes import Changes
from padim_jax.line.schema import StoreError
from padim_jax.line.service.proposals import Proposals
from padim_jax.line.store import Store
from tests.service import NAME, Running, bad, png, serving
from tests.test_line_forgetting import fit
from tests.test_line_hostile import announcing
from tests.test_line_learning import other

JSON = {"x-padim": "1"}
FORGETTING, LEARNING = (f"/models/{NAME}/{what}" for what in ("forgetting", "learning"))
Post = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("fitted"))


@pytest.fixture
def models(fitted: Path, tmp_path: Path) -> Path:
    for name in (NAME, "twin.padim"):
        shutil.copytree(fitted / NAME, tmp_path / "models" / name)
    return tmp_path / "models"


@pytest.fixture
def service(models: Path, tmp_path: Path) -> Iterator[Running]:
    with serving(models, tmp_path / "line.db", "--keep-photos", "50", "--look-rate", "0.5", "--learn") as running:
        yield running


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def post(client: httpx.Client) -> Post:
    return lambda address, **body: client.post(address, json={"who": "Ada"} | body, headers=JSON)


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline


def send(client: httpx.Client, service: Running, content: bytes, item: str) -> dict[str, Any]:
    """A decision, once its photo is kept."""
    headers = {"content-type": "image/png"}
    found = client.post(service.score, params={"item": item}, content=content, headers=headers).json()
    until(lambda: client.get(f"/decisions/{found['id']}").json()["has_photo"])
    return found


def files(client: httpx.Client, *paths: Path, who: str = "Ada", **headers: str) -> httpx.Response:
    form = [("image", (path.name, path.read_bytes())) for path in paths]
    return client.post(f"{FORGETTING}/files", params={"who": who}, files=form, headers=JSON | headers)


def refused(answer: httpx.Response, status: int, words: str) -> None:
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.json()


def test_a_part_that_a_wrong_correction_taught_is_taken_out_by_its_decision(
    models: Path, service: Running, client: httpx.Client, post: Post
) -> None:
    def current() -> str:
        return next(one for one in client.get("/models").json()["models"] if one["name"] == NAME)["digest"]

    def shown() -> dict[str, Any]:
        return client.get(f"/decisions/{wrong['id']}").json()

    before = (models / NAME / "model.json").read_bytes()
    digest = manifest_checksum(read_manifest(models / NAME))
    pixels = other(3, 7)
    wrong, right, recent = (send(client, service, png(one), f"{index}") for index, one in enumerate(pixels))
    assert shown()["is_in_model"] is False
    refused(post(FORGETTING, decisions=[wrong["id"]]), 409, "0 is not among the 26 images that bracket.padim")
    for one in (wrong, right):
        assert post(f"/decisions/{one['id']}/corrections", verdict="good").status_code == 200
    learned = post(LEARNING).json()
    assert post(f"{LEARNING}/apply", proposal=learned["proposal"]).status_code == 200
    until(lambda: current() != digest and shown()["is_in_model"])
    found = post(FORGETTING, who="Bea", decisions=[wrong["id"]]).json()
    assert (found["kind"], found["threshold_after"]) == ("forget", found["threshold"])
    (removed,) = found["removed"]
    assert removed["name"] == "0"
    assert removed["score_after"] > removed["score"]
    assert found["judged"] == 3
    learning = post(f"{LEARNING}/apply", who="Bea", proposal=found["proposal"])
    assert learning.json()["removed"] == found["removed"]
    refused(post(f"{LEARNING}/apply", proposal=found["proposal"]), 409, "not the one that was proposed last")
    until(lambda: shown()["is_in_model"] is False)
    assert client.get(f"/decisions/{right['id']}").json()["is_in_model"]  # single parts, not the whole lesson
    changes = shown()["changes"]
    assert [(one["kind"], one["who"]) for one in changes] == [("learn", "Ada"), ("forget", "Bea")]
    assert (changes[0]["before"], changes[0]["after"]) == (digest, changes[1]["before"])
    assert changes[1]["after"] == current()
    refused(post(LEARNING), 409, "1 parts were called good, but taken out of the model since")
    assert post(f"{LEARNING}/undo", who="Cleo").status_code == 200
    until(lambda: shown()["is_in_model"])
    assert [(one["kind"], one["who"]) for one in shown()["changes"]][2:] == [("undo", "Cleo")]
    # the decisions stay as they were, and the other model is as it was
    assert client.get(f"/decisions/{recent['id']}").json()["verdict"] == recent["verdict"]
    assert (models / "twin.padim" / "model.json").read_bytes() == before
    refused(
        post("/models/twin.padim/forgetting", decisions=[wrong["id"]]), 409, "decided by bracket.padim, not by twin"
    )
    assert {record.get("who") for record in service.logged() if record["path"].startswith(LEARNING)} == {
        "Ada",
        "Bea",
        "Cleo",
    }


def test_a_change_that_the_store_can_not_note_any_more_is_made_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Changes, number: int, after: str) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(Changes, "finish", full)
    nothing: Any = None
    with Store.open(tmp_path / "line.db") as store:
        proposals = Proposals(store, nothing, nothing, nothing, is_allowed=True, batch_size=4)
        with proposals._noted(NAME, "forget", "Ada", {"before": "m0", "images": ("d",)}) as finish:
            (remark,) = finish("m1")
        assert remark == "the change is made, but the store could not note what came of it: the disk is full"
        assert store.changes.taken_out(NAME).keys() == {"d"}


def test_images_of_the_fit_are_taken_out_by_their_files(
    fitted: Path, models: Path, service: Running, client: httpx.Client, post: Post, tmp_path: Path
) -> None:
    before, gone = (models / NAME / "model.json").read_bytes(), sorted((fitted / "images" / "bad").iterdir())
    hidden = send(client, service, bad(61), "hidden")
    stranger = tmp_path / "stranger.png"
    stranger.write_bytes(bad(99))
    refused(files(client, *gone, stranger), 409, "stranger.png is not among the 26 images")
    found = files(client, *gone).json()
    assert [one["name"] for one in found["removed"]] == [path.name for path in gone]
    assert found["threshold_after"] < found["threshold"]
    assert found["judged"] == 1
    assert [path.name for path in (tmp_path / "line.db.received").iterdir()] == [MARKER]  # where they were meanwhile
    assert (models / NAME / "model.json").read_bytes() == before
    assert post(f"{LEARNING}/apply", proposal=found["proposal"]).status_code == 200
    again = f"{service.score}?item=again"

    def verdict() -> str:
        return client.post(again, content=bad(61), headers={"content-type": "image/png"}).json()["verdict"]

    until(lambda: verdict() == "bad")
    assert hidden["verdict"] != "bad"
    assert post(f"{LEARNING}/undo").status_code == 200
    assert (models / NAME / "model.json").read_bytes() == before
    with Store.open(service.store) as store:
        kinds = [(change.kind, change.who) for change in store.changes.of_image(NAME, digest_file(gone[0]))]
    assert kinds == [("forget", "Ada"), ("undo", "Ada")]


@pytest.mark.slow
def test_what_commands_have_changed_is_not_told_as_anybodys(
    fitted: Path, models: Path, service: Running, client: httpx.Client, post: Post
) -> None:
    def undoable() -> dict[str, Any]:
        return client.get(f"{LEARNING}/undoable").json()["undo"]

    def counts() -> tuple[int, int]:
        assert undoable()["change"] is None
        return undoable()["came"], undoable()["went"]

    def told() -> list[str]:
        return [f"{one['kind']} {one['way']}" for one in client.get(f"/decisions/{hidden['id']}").json()["changes"]]

    model, gone = models / NAME, fitted / "images" / "bad"
    assert undoable() is None
    refused(post(f"{LEARNING}/undo"), 409, "keeps no earlier state")
    assert client.get("/models/other/learning/undoable").status_code == 404
    hidden = send(client, service, sorted(gone.iterdir())[0].read_bytes(), "hidden")
    assert post(f"{LEARNING}/apply", proposal=files(client, *gone.iterdir()).json()["proposal"]).status_code == 200
    found = undoable()
    assert (found["change"]["kind"], found["change"]["who"], found["change"]["images"]) == ("forget", "Ada", 2)
    assert (found["brings_back"], found["came"], found["went"]) == (False, 2, 0)
    assert main(["calibrate", str(model), "--false-alarm-rate", "0.1"]) == 0
    now = (model / "model.json").read_bytes()
    refused(post(f"{LEARNING}/undo", who="Bea", based_on=found["based_on"]), 409, "was changed since you looked")
    assert (model / "model.json").read_bytes() == now
    assert counts() == (0, 0)
    assert main(["undo", str(model)]) == 0
    assert counts() == (0, 0)  # and not those that Ada took out, though the model is as she left it
    done = post(f"{LEARNING}/undo", who="Bea", based_on=undoable()["based_on"]).json()
    undone, then = done["undone"], padim.load(model).calibration
    assert then is not None
    assert done["threshold_after"] == float(then.threshold) < done["threshold"]  # of more false alarms
    assert (undone["change"], undone["came"], undone["went"]) == (None, 0, 0)
    assert told() == ["forget out"]
    assert main(["update", str(model), str(gone), "--keep-calibration", "--batch-size", "4"]) == 0
    assert counts() == (0, 2)
    assert told() == ["forget out", "elsewhere in"]
    assert post(f"{LEARNING}/undo", who="Bea").status_code == 200
    assert told() == ["forget out", "elsewhere in", "undo out"]


@pytest.mark.slow
def test_a_model_that_was_replaced_meanwhile_keeps_its_place(
    fitted: Path, models: Path, client: httpx.Client, post: Post
) -> None:
    found = files(client, *(fitted / "images" / "bad").iterdir()).json()
    shutil.rmtree(models / NAME)
    shutil.copytree(models / "twin.padim", models / NAME)
    manifest = models / NAME / "model.json"
    assert main(["calibrate", str(models / NAME), "--false-alarm-rate", "0.05"]) == 0
    now = manifest.read_bytes()
    refused(post(f"{LEARNING}/apply", proposal=found["proposal"]), 409, "was replaced since this change was proposed")
    assert manifest.read_bytes() == now
    with Store.open(models.parent / "line.db") as store:
        assert store.changes.of_image(NAME, found["removed"][0]["digest"]) == []  # it was not made


@pytest.mark.slow
def test_what_is_no_image_or_too_large_or_from_another_site_is_refused(
    fitted: Path, models: Path, tmp_path: Path
) -> None:
    limits = ["--max-body", "0.1MB", "--max-megapixels", "0.5", "--learn"]  # and no photos are kept
    gone, text = next((fitted / "images" / "bad").iterdir()), tmp_path / "x.png"
    text.write_bytes(b"no image")
    with serving(models, tmp_path / "other.db", *limits) as service, service.client() as client:
        address = f"{FORGETTING}/files"
        content = gone.read_bytes()
        image = {"content-type": "image/png"} | JSON
        refused(
            client.post(address, params={"who": "x"}, content=content, headers=image | {"x-padim": "0"}), 403, "X-Padim"
        )
        refused(files(client, gone, origin="http://x"), 403, "may not ask")
        refused(client.post(address, content=content, headers=image), 400, "who wants a text")
        refused(client.post(f"{address}?who=x&y=1", content=content, headers=image), 400, "unknown 'y'")
        refused(client.post(f"{address}?who=x", content=b"", headers=image), 400, "0 bytes")
        refused(
            client.post(f"{address}?who=x", content=b"{}", headers=JSON | {"content-type": "text/plain"}), 415, "image/"
        )
        refused(files(client, text), 422, "x.png")
        refused(client.post(f"{address}?who=x", content=bytes(200_000), headers=image), 413, "at most 100000")
        huge = client.post(f"{address}?who=x", content=announcing(2000, 2000), headers=image)
        refused(huge, 413, "megapixels")
        refused(
            client.post("/models/other/forgetting/files?who=x", content=content, headers=image), 404, "no model 'other'"
        )
        refused(client.post(FORGETTING, json={"who": "x", "decisions": []}, headers=JSON), 400, "one or more")
        refused(
            client.post(FORGETTING, json={"who": "x", "decisions": ["0" * 32]}, headers=JSON), 409, "no photos are kept"
        )
        found = client.post(f"{address}?who=x", content=content, headers=image).json()  # works without kept photos
        assert (found["judged"], len(found["removed"])) == (0, 1)


@pytest.mark.slow
def test_without_the_option_no_image_is_taken_out(fitted: Path, models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path / "other.db", "--keep-photos", "5") as service, service.client() as client:
        refused(files(client, *(fitted / "images" / "bad").iterdir()), 403, "padim serve --learn does")
        refused(client.post(FORGETTING, json={"who": "x", "decisions": ["0" * 32]}, headers=JSON), 403, "--learn does")
