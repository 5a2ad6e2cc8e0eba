"""``padim serve``: images in, verdicts out, as ``padim score`` and ``padim watch`` give them."""

import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.cli import main
from padim_jax.line.records import Decision
from padim_jax.line.service.pages import FILES
from padim_jax.line.store import Store
from tests.line_parts import fit_model, parts
from tests.service import NAME, Running, bad, good, png, raw, received, serving

PNG = {"content-type": "image/png"}
JSON = {"x-padim": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_model(tmp_path_factory.mktemp("models") / NAME)


@pytest.fixture(scope="module")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    store = tmp_path_factory.mktemp("store") / "line.db"
    with serving(model, store, "--keep-photos", "100", "--queue", "40") as running:
        yield running


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as opened:
        yield opened


def test_an_image_is_judged_as_padim_score_does(service: Running, client: httpx.Client, model: Path) -> None:
    loaded = padim.load(model)
    for pixels, is_bad in ((parts(1, 11)[0], False), (parts(1, 12, defect=True)[0], True)):
        answer = client.post(service.score, content=png(pixels), headers=PNG)
        assert answer.status_code == 200
        found, expected = answer.json(), padim.score(loaded, pixels[None])
        assert found["score"] == pytest.approx(float(expected.image_score[0]), rel=1e-5)
        assert expected.p_value is not None
        assert found["p_value"] == pytest.approx(float(expected.p_value[0]))
        assert (found["verdict"] == "bad") == is_bad
        assert bool(found["regions"]) == is_bad
        with Store.open(service.store) as store:
            assert store.decision(found["id"]).score == found["score"]


def test_names_that_are_no_text_are_shown_and_a_jpeg_may_have_more_behind_its_end(
    service: Running, client: httpx.Client
) -> None:
    with Store.open(service.store) as store:
        (odd,) = store.record([Decision("folder", "part-\udce9.png", "0a", NAME, "0b", "bad", "p = 0.01")])
    answer = client.get("/decisions")
    assert answer.status_code == 200
    assert odd.id in {one["id"] for one in answer.json()["decisions"]}
    stream = io.BytesIO()
    Image.fromarray(parts(1, 15)[0]).save(stream, "JPEG")
    answer = client.post(service.score, content=stream.getvalue() + bytes(5000), headers={"content-type": "image/jpeg"})
    assert answer.status_code == 200, answer.text


def test_several_images_of_a_form_are_answered_in_their_order(service: Running, client: httpx.Client) -> None:
    images = [good(21), bad(22), b"no image", good(23), bad(24), good(25)]
    files = [(f"image{index}", (f"{index}.png", content)) for index, content in enumerate(images)]
    found = client.post(service.score, files=files).json()["images"]
    assert [one["item"] for one in found] == [f"{index}.png" for index in range(6)]
    assert [one["verdict"] in ("good", "look") for one in found] == [True, False, False, True, False, True]
    assert [one["verdict"] for one in found[1:5]] == ["bad", "unreadable", found[3]["verdict"], "bad"]
    assert "id" not in found[2]
    assert "no image" in found[2]["reason"]
    alone = client.post(f"{service.score}?source=other", content=images[3], headers=PNG).json()
    assert alone["score"] == pytest.approx(found[3]["score"], rel=1e-5)


def test_a_map_comes_as_png_or_npz(service: Running, client: httpx.Client, model: Path) -> None:
    pixels = parts(1, 31, defect=True)[0]
    for query, accept in (("?map=npz", "*/*"), ("", "application/x-npz")):
        answer = client.post(f"{service.score}{query}", content=png(pixels), headers=PNG | {"accept": accept})
        assert answer.headers["content-type"] == "application/x-npz"
        arrays = np.load(io.BytesIO(answer.content), allow_pickle=False)
        expected = padim.score(padim.load(model), pixels[None]).anomaly_map[0]
        np.testing.assert_allclose(arrays["anomaly_map"], np.asarray(expected), rtol=1e-4, atol=1e-4)
        assert json.loads(str(arrays["decision"]))["verdict"] == "bad"
    answer = client.post(f"{service.score}?map=png", content=png(pixels), headers=PNG)
    assert answer.headers["x-padim-verdict"] == "bad"
    assert Image.open(io.BytesIO(answer.content)).size == (48, 32)


def test_the_same_image_of_the_same_item_is_one_decision(service: Running, client: httpx.Client) -> None:
    address = f"{service.score}?source=camera-1&item=part-7"
    first, again = (client.post(address, content=good(41), headers=PNG).json() for _ in range(2))
    other = client.post(f"{service.score}?source=camera-1&item=part-8", content=good(41), headers=PNG).json()
    assert (first["is_new"], again["is_new"], other["is_new"]) == (True, False, True)
    assert first["sequence"] == again["sequence"] != other["sequence"]
    assert (first["source"], first["item"]) == ("camera-1", "part-7")


def test_clients_at_once_share_batches_and_get_each_its_own(service: Running, client: httpx.Client) -> None:
    def batches() -> float:
        text = client.get("/metrics").text
        return float(re.findall(r"(?m)^padim_batch_seconds_count (\S+)$", text)[0])

    images = [bad(50 + index) if index % 3 == 0 else good(50 + index) for index in range(24)]
    before = batches()
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda content: httpx.post(service.score, content=content, headers=PNG).json(), images))
    assert [one["verdict"] == "bad" for one in found] == [index % 3 == 0 for index in range(24)]
    assert batches() - before < 24


def test_a_full_queue_is_said_and_nothing_of_the_request_is_judged(service: Running, client: httpx.Client) -> None:
    files = [("image", (f"{index}.png", good(1000 + index))) for index in range(41)]
    refused = client.post(service.score, files=files)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "40 may" in refused.json()["error"]
    with Store.open(service.store) as store:
        assert not any(decision.item == "40.png" for decision in store.decisions())
    assert client.post(service.score, files=files[:40]).status_code == 200


def test_people_correct_and_undo_and_the_decision_stays(service: Running, client: httpx.Client) -> None:
    found = client.post(service.score, content=bad(61), headers=PNG).json()
    address = f"/decisions/{found['id']}/corrections"
    made = client.post(address, json={"verdict": "good", "who": "Ada", "note": "a shadow"}, headers=JSON).json()
    shown = client.get(f"/decisions/{found['id']}").json()
    assert (shown["verdict"], shown["corrected_to"], shown["corrected_by"]) == ("bad", "good", "Ada")
    assert shown["correction"] == made["number"]
    undo = f"/corrections/{made['number']}/undo"
    assert client.post(undo, json={"who": "Bo"}, headers=JSON).json()["undone_by"] == "Bo"
    assert client.get(f"/decisions/{found['id']}").json()["corrected_to"] is None
    assert client.post(undo, json={"who": "Bo"}, headers=JSON).status_code == 409
    kept = client.get(f"/decisions/{found['id']}").json()["corrections"]
    assert [one["note"] for one in kept] == ["a shadow"]


def test_a_word_that_came_meanwhile_is_not_overruled_unseen(service: Running, client: httpx.Client) -> None:
    found = client.post(service.score, params={"item": "disputed"}, content=bad(62), headers=PNG).json()

    def said(verdict: str, who: str, seen: object) -> httpx.Response:
        body = {"verdict": verdict, "who": who, "seen": seen}
        return client.post(f"/decisions/{found['id']}/corrections", json=body, headers=JSON)

    number = said("good", "Ada", 0).json()["number"]
    refused = said("bad", "Bob", 0)
    assert refused.status_code == 409
    assert refused.json()["error"] == "disputed was corrected to good by Ada since you looked; look again"
    assert client.get(f"/decisions/{found['id']}").json()["corrected_to"] == "good"
    for seen in (-1, True, "1", None, 2**63):
        assert said("bad", "Bob", seen).status_code == 400
    assert said("bad", "Bob", number).status_code == 200


def test_decisions_are_listed_by_what_is_asked_a_page_at_a_time(service: Running, client: httpx.Client) -> None:
    for seed in range(4):
        client.post(f"{service.score}?source=paged", content=bad(70 + seed), headers=PNG)
    first = client.get("/decisions", params={"source": "paged", "limit": 3}).json()["decisions"]
    rest = client.get("/decisions", params={"source": "paged", "before": first[-1]["sequence"]}).json()["decisions"]
    sequences = [one["sequence"] for one in first + rest]
    assert sequences == sorted(sequences, reverse=True)
    assert len(sequences) == 4
    none = client.get("/decisions", params={"source": "paged", "verdict": "good"}).json()["decisions"]
    assert none == []
    assert client.get("/decisions", params={"since": "tomorrow"}).status_code == 400


def test_a_photo_and_its_map_are_there_by_the_decisions_id(service: Running, client: httpx.Client) -> None:
    content = bad(81)
    id = client.post(service.score, content=content, headers=PNG).json()["id"]
    deadline = time.monotonic() + 20
    while not client.get(f"/decisions/{id}").json()["has_photo"]:  # it is kept after the answer
        assert time.monotonic() < deadline
    assert client.get(f"/decisions/{id}/photo").content == content
    overlay = Image.open(io.BytesIO(client.get(f"/decisions/{id}/overlay").content))
    assert (overlay.mode, overlay.size) == ("RGBA", (48, 32))
    alpha = np.asarray(overlay)[..., 3]
    assert alpha[12:18, 22:30].mean() > 100 > alpha[-4:].mean()  # over the defect
    assert client.get(f"/decisions/{'0' * 32}/photo").status_code == 404
    tiff = png(parts(1, 82)[0], "TIFF")
    id = client.post(service.score, content=tiff, headers={"content-type": "image/tiff"}).json()["id"]
    while (shown := client.get(f"/decisions/{id}/photo")).status_code == 404:
        assert time.monotonic() < deadline
    assert shown.headers["content-type"] == "image/png"  # browsers don't show TIFF
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown.content))), parts(1, 82)[0])


def test_the_description_lists_every_route(service: Running, client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["paths"]
    for address, operations in described.items():
        path = re.sub(r"\{number\}", "1", address).replace("{name}", NAME).replace("{id}", "0" * 32)
        wrong = "DELETE"
        allowed = client.request(wrong, path).headers["allow"].replace("HEAD", "").replace(" ", "")
        assert {name for name in allowed.split(",") if name} == {name.upper() for name in operations}
    for address in ("/nothing", "/openapi.yaml"):
        assert client.get(address).status_code == 404
    docs = client.get("/docs")
    assert all(address in docs.text for address in described)


def test_numbers_are_as_prometheus_reads_them(service: Running, client: httpx.Client) -> None:
    client.post(f"{service.score}?item=counted", content=bad(92), headers=PNG)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    pattern = re.compile(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? \S+')
    assert all(line.startswith("# ") or pattern.fullmatch(line) for line in lines)
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values["padim_ready"] == "1"
    assert values["padim_queue_length"] == "0"
    assert int(values[f'padim_verdicts_total{{model="{NAME}",verdict="bad"}}']) > 0
    assert (
        values['padim_request_seconds_bucket{route="score",le="+Inf"}']
        == values['padim_request_seconds_count{route="score"}']
    )


def test_every_request_is_a_line_of_json_in_the_log(service: Running, client: httpx.Client) -> None:
    client.post(f"{service.score}?item=logged", content=good(91), headers=PNG)
    client.get("/nothing-here")
    deadline = time.monotonic() + 20
    while not any(record["path"] == "/nothing-here" for record in service.logged()):
        assert time.monotonic() < deadline
    (missing,) = [record for record in service.logged() if record["path"] == "/nothing-here"]
    assert (missing["status"], missing["refused"]) == (404, "path")
    scored = [record for record in service.logged() if "verdicts" in record][-1]
    assert (scored["method"], scored["status"], scored["model"]) == ("POST", 200, NAME)


@pytest.mark.slow
def test_a_model_that_is_replaced_takes_over_and_no_request_is_lost(tmp_path: Path) -> None:
    model = fit_model(tmp_path / NAME)
    digests, statuses, ended = set[str](), list[int](), threading.Event()

    def ask(seed: int) -> None:
        with service.client() as client:
            while not ended.is_set():
                answer = client.post(service.score, content=good(seed), headers=PNG)
                statuses.append(answer.status_code)
                digests.add(answer.json()["model_digest"])

    with serving(model, tmp_path / "line.db") as service:
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(statuses) < 4:
            assert time.monotonic() < deadline
        fit_model(tmp_path / "other", seed=5)
        padim.save(padim.load(tmp_path / "other"), model)
        while len(digests) < 2:
            assert time.monotonic() < deadline
        ended.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}


def test_requests_in_hand_are_finished_when_the_service_is_asked_to_end(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path / "line.db") as service:
        content = good(99)
        head = (
            f"POST /models/{NAME}/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            connection.sendall(head.encode() + content[:100])
            time.sleep(0.5)
            service.process.terminate()
            time.sleep(0.5)
            connection.sendall(content[100:])
            answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert service.process.wait(60) == 0
        with Store.open(service.store) as store:
            assert len(list(store.decisions())) == 1


def test_beyond_this_machine_a_token_is_wanted(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", str(model), "--store", str(tmp_path / "line.db"), "--look-rate", "0.2"]
    assert main([*arguments, "--host", "0.0.0.0"]) == 2
    assert "anybody on the network could read and change" in capsys.readouterr().err
    token = tmp_path / "token"
    token.write_text("short\n")
    assert main([*arguments, "--host", "0.0.0.0", "--token-file", str(token)]) == 2
    assert "wanted one line of at least 16" in capsys.readouterr().err
    assert main([*arguments, "--tls-cert", str(token)]) == 2
    assert "go together" in capsys.readouterr().err
    assert not (tmp_path / "line.db").exists()


def test_with_a_token_only_the_page_and_the_health_are_public(model: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef-secret\n")
    with serving(model, tmp_path / "line.db", "--token-file", str(token)) as service, service.client() as client:
        for address in (*FILES, "/healthz", "/readyz", "/openapi.json", "/docs"):
            assert client.get(address).status_code == 200
        for wrong in ({}, {"authorization": "Bearer 0123456789abcdef-secreT"}, {"authorization": "Basic eDp5"}):
            for address in ("/models", "/decisions", "/metrics", f"/decisions/{'0' * 32}/photo"):
                refused = client.get(address, headers=wrong)
                assert refused.status_code == 401
                assert "Authorization: Bearer TOKEN" in refused.json()["error"]
            assert client.post(service.score, content=good(), headers=PNG | wrong).status_code == 401
        right = {"authorization": "Bearer 0123456789abcdef-secret"}
        assert client.get("/models", headers=right).status_code == 200
        assert client.post(service.score, content=good(), headers=PNG | right).status_code == 200


@pytest.mark.slow
def test_no_folder_of_models_is_an_error_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path), "--store", str(tmp_path / "line.db")]) == 1
    assert "is neither a model nor a folder of models" in capsys.readouterr().err


@pytest.mark.slow
def test_an_idle_connection_that_never_sends_a_whole_head_is_ended(model: Path, tmp_path: Path) -> None:
    with (
        serving(model, tmp_path / "line.db", "--receive-seconds", "1") as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        assert connection.recv(1) == b""
        assert raw(service.port, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )
