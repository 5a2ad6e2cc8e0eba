"""Requests that mean harm, or are broken: each is refused in words, the service lives on, and nothing is written."""

import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from padim_jax.line.store import Store
from tests.line_parts import fit_model, parts
from tests.service import NAME, Running, good, png, raw, serving

TOKEN = "correct-horse-battery-staple"
PNG = {"content-type": "image/png"}
SCORE = f"/models/{NAME}/score"
ID = "0" * 32


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "token").write_text(TOKEN)
    limits = ["--max-body", "0.1MB", "--max-megapixels", "0.5", "--receive-seconds", "2", "--keep-photos", "9"]
    options = [*limits, "--max-in-hand", "0.3MB", "--token-file", str(folder / "token")]
    with serving(fit_model(folder / NAME), folder / "line.db", *options) as running:
        yield running


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client(headers={"authorization": f"Bearer {TOKEN}"}) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _lives_on_and_writes_nothing(service: Running) -> Iterator[None]:
    yield
    with service.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/decisions").json()["decisions"] == []
        assert client.get("/metrics").text.count("padim_requests_in_hand 0") == 1
    assert service.process.poll() is None
    with Store.open(service.store) as store:
        assert not list(store.decisions())
        assert not store.corrections()
    photos = service.store.with_name("line.db.photos")
    assert {path.name for path in photos.iterdir()} == {".written-by-padim", ".padim-lock"}  # and no photo
    assert not any("Traceback" in line for line in service.said)


def refused(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert words in answer.json()["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def announcing(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def form(*parts: bytes, boundary: str = "b", end: bool = True) -> tuple[bytes, dict[str, str]]:
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + (b"--b--\r\n" if end else b"")
    return body, {"content-type": f"multipart/form-data; boundary={boundary}"}


def file(content: bytes, name: str = "a.png", headers: bytes = b"") -> bytes:
    return f'Content-Disposition: form-data; name="a"; filename="{name}"\r\n'.encode() + headers + b"\r\n" + content


WHOLE = good()
BODIES: dict[str, tuple[Callable[[], tuple[bytes, dict[str, str]]], int, str]] = {
    "too many bytes": (lambda: (b"\x89PNG" + bytes(200_000), PNG), 413, "wanted at most 100000"),
    "empty": (lambda: (b"", PNG), 400, "0 bytes"),
    "no image": (lambda: (b"hello", PNG), 422, "no image"),
    "a script": (lambda: (b"<script>alert(1)</script>", {"content-type": "image/svg+xml"}), 422, "no image"),
    "a pickle": (lambda: (b"\x80\x04cos\nsystem\n(S'id'\ntR.", {"content-type": "application/octet-stream"}), 422, "no image"),
    "PNG cut short": (lambda: (WHOLE[: len(WHOLE) // 2], PNG), 422, "truncated"),
    "PNG without its end": (lambda: (WHOLE[:-12], PNG), 422, "cut short"),
    "PNG with another byte": (lambda: (WHOLE[:900] + bytes([WHOLE[900] ^ 1]) + WHOLE[901:], PNG), 422, "checksum"),
    "JPEG cut short": (lambda: (png(parts(1)[0], "JPEG")[:-200], {"content-type": "image/jpeg"}), 422, "truncated"),
    "more pixels than allowed": (lambda: (png(np.zeros((800, 800, 3), np.uint8)), PNG), 413, "megapixels"),
    "announces 10 gigapixels": (lambda: (announcing(100_000, 100_000), PNG), 413, "megapixels"),
    "announces 200 megapixels": (lambda: (announcing(20_000, 10_000), PNG), 413, "megapixels"),
    "announces pixels that are not there": (lambda: (announcing(700, 700), PNG), 422, "truncated"),
    "of no size": (lambda: (announcing(0, 0), PNG), 422, ""),
    "text": (lambda: (WHOLE, {"content-type": "text/plain"}), 415, "wanted image/"),
    "JSON": (lambda: (b"{}", {"content-type": "application/json"}), 415, "wanted image/"),
    "of a simple form": (lambda: (b"a=1", {"content-type": "application/x-www-form-urlencoded"}), 415, "wanted image/"),
    "gzip of an image": (lambda: (zlib.compress(WHOLE), PNG), 422, "no image"),
    "a form without a boundary": (lambda: (form(file(WHOLE))[0], {"content-type": "multipart/form-data"}), 400, "boundary"),
    "a form with another boundary": (lambda: form(file(WHOLE), boundary="x"), 400, "damaged"),
    "a form with a boundary of 100": (lambda: form(file(WHOLE), boundary="b" * 100), 400, "boundary"),
    "a form without its end": (lambda: form(file(WHOLE), end=False), 400, "last boundary"),
    "an empty form": (lambda: form(), 400, ""),
    "a form of fields": (lambda: form(b'Content-Disposition: form-data; name="x"\r\n\r\n1'), 400, "no file"),
    "a form of 65 files": (lambda: form(*[file(b"x")] * 65), 413, "more than 64 parts"),
    "a form of huge headers": (lambda: form(file(WHOLE, headers=b"X: " + b"a" * 9000 + b"\r\n")), 400, "eader"),
    "a form of an empty file": (lambda: form(file(b"")), 400, "0 bytes"),
    "a form of no images": (lambda: form(file(b"x"), file(b"y")), 422, "no image"),
    "a form with one that announces much": (lambda: form(file(WHOLE), file(announcing(20_000, 10_000))), 413, "megapixels"),
    "a form named like a file of the system": (lambda: form(file(b"x", "../../etc/passwd")), 422, "passwd: no image"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_not_what_it_should_be(client: httpx.Client, name: str) -> None:
    make, status, words = BODIES[name]
    body, headers = make()
    refused(client.post(SCORE, content=body, headers=headers), status, words)


ADDRESSES = [
    ("POST", "/models/nothing/score", 404, "no model 'nothing'"),
    ("POST", "/models/../../etc/passwd/score", 404, "nothing is at"),
    ("POST", f"/models/..%2f{NAME}/score", 400, "encoded slash"),
    ("POST", f"/models/..%5c{NAME}/score", 400, "encoded slash"),
    ("POST", "/models/%00/score", 400, "encoded slash"),
    ("POST", "/models/%0d%0aX-Injected:%201/score", 400, "can't be printed"),
    ("POST", "/models/%ff%fe/score", 404, "no model"),
    ("POST", "/models/%2e%2e/score", 404, "no"),
    ("POST", f"{SCORE}?map=exe", 400, "wanted png or npz"),
    ("POST", f"{SCORE}?item=%0d%0aX-Injected:%201", 400, "can be printed"),
    ("POST", f"{SCORE}?source={'x' * 300}", 400, "at most 200"),
    ("POST", f"{SCORE}?path=/etc/passwd", 400, "unknown 'path'"),
    ("POST", f"{SCORE}?map=png&map=npz", 400, "more than once"),
    ("GET", f"/models/{NAME}/preview?look_rate=nan", 400, "above 0 and below 1"),
    ("GET", f"/models/{NAME}/preview?look_rate=inf", 400, "above 0 and below 1"),
    ("GET", f"/models/{NAME}/preview?look_rate=0.001&false_alarm_rate=0.5", 400, "look_rate"),
    ("GET", "/decisions?limit=-1", 400, "an integer"),
    ("GET", "/decisions?limit=1e9", 400, "an integer"),
    ("GET", f"/decisions?after={'9' * 40}", 400, "an integer"),
    ("GET", "/decisions?verdict=' OR 1=1 --", 400, "wanted one of"),
    ("GET", "/decisions?since=' OR 1=1 --", 400, "no day or time"),
    ("GET", "/decisions/../../etc/passwd", 404, "nothing is at"),
    ("GET", "/decisions/' OR 1=1 --/photo", 404, "no such decision"),
    ("GET", f"/decisions/{ID}/photo", 404, "no such decision"),
    ("GET", "/static/../pyproject.toml", 404, "nothing is at"),
    ("GET", f"/{'x' * 5000}", 414, "longer than 4096"),
    ("GET", f"/decisions?model={'x' * 5000}", 414, "longer than 4096"),
    ("GET", SCORE, 405, "POST is"),
    ("DELETE", f"/decisions/{ID}", 405, "is not done here"),
    ("PUT", SCORE, 405, "is not done here"),
    ("TRACE", "/", 405, "is not done here"),
    ("OPTIONS", SCORE, 405, "is not done here"),
    ("BREW", "/models", 405, "is not done here"),
]


@pytest.mark.parametrize(("method", "address", "status", "words"), ADDRESSES)
def test_an_address_that_nobody_should_ask_for(
    service: Running, method: str, address: str, status: int, words: str
) -> None:
    # as it is written here: a client would tidy the dots away
    content = WHOLE if method == "POST" else b""
    head = f"{method} {address.replace(' ', '%20')} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\n\r\n"
    answer = raw(service.port, head.encode() + content)
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} "), answer
    assert words in json.loads(body)["error"]
    assert "x-injected" not in head.lower()


HEADERS = [
    ({"authorization": ""}, 401, "the token is missing"),
    ({"authorization": "Bearer"}, 401, "the token is wrong"),
    ({"authorization": f"Bearer {TOKEN}x"}, 401, "the token is wrong"),
    ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401, "the token is wrong"),
    ({"authorization": f"Basic {TOKEN}"}, 401, "the token is wrong"),
    ({"host": "evil.example"}, 421, "not known as 'evil.example'"),
    ({"host": "127.0.0.1.evil.example:80"}, 421, "not known as"),
    ({"host": "192.168.1.5"}, 421, "not known as"),
    ({"host": ""}, 421, "not known as"),
    ({"origin": "https://evil.example"}, 403, "may not ask"),
    ({"origin": "null"}, 403, "may not ask"),
    ({"sec-fetch-site": "cross-site"}, 403, "another site"),
    ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403, "another site"),
    ({"sec-fetch-site": "same-site"}, 403, "another site"),
]


@pytest.mark.parametrize(("headers", "status", "words"), HEADERS)
def test_who_may_not_ask(service: Running, headers: dict[str, str], status: int, words: str) -> None:
    with service.client() as client:
        own = PNG | {"authorization": f"Bearer {TOKEN}"}
        refused(client.post(SCORE, content=WHOLE, headers=own | headers), status, words)
        refused(client.post(f"/decisions/{ID}/corrections", json={}, headers=own | headers), status, words)


CHANGES: list[tuple[bytes, dict[str, str], int, str]] = [
    (b'{"verdict": "good", "who": "x"}', {"content-type": "text/plain", "x-padim": "1"}, 415, "application/json"),
    (b"verdict=good&who=x", {"content-type": "application/x-www-form-urlencoded"}, 415, "application/json"),
    (b'{"verdict": "good", "who": "x"}', {}, 403, "X-Padim: 1"),
    (b'{"verdict": "good", "who": "x"}', {"x-padim": "1"}, 404, "no such decision"),
    (b"[1, 2]", {"x-padim": "1"}, 400, "wanted an object"),
    (b'{"verdict": NaN}', {"x-padim": "1"}, 400, "no number"),
    (b"[" * 50_000, {"x-padim": "1"}, 400, "no JSON"),
    (b'{"verdict": "good", "who": "x", "id": 1}', {"x-padim": "1"}, 400, "unknown 'id'"),
    (b"\xff\xfe", {"x-padim": "1"}, 400, "no JSON"),
    (b'{"note": "' + b"x" * 70_000 + b'"}', {"x-padim": "1"}, 413, "wanted at most"),
]


@pytest.mark.parametrize(("body", "headers", "status", "words"), CHANGES)
def test_a_change_that_is_none(
    client: httpx.Client, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    own = {"content-type": "application/json"} | headers
    refused(client.post(f"/decisions/{ID}/corrections", content=body, headers=own), status, words)


@pytest.mark.parametrize("end", ["", "/apply", "/undo"])
def test_a_model_is_changed_neither_from_another_site_nor_where_that_was_not_allowed(
    client: httpx.Client, end: str
) -> None:
    address, who = f"/models/{NAME}/learning{end}", {"who": "x"} | ({"proposal": "x"} if end == "/apply" else {})
    refused(client.post(address, json=who), 403, "X-Padim: 1")
    refused(client.post(address, data=who), 415, "application/json")
    refused(client.post(address, json=who, headers={"x-padim": "1"}), 403, "--learn does")
    refused(client.post(address, json=who, headers={"x-padim": "1", "origin": "http://x"}), 403, "may not ask")
    other = client.post(f"/models/other/learning{end}", json=who, headers={"x-padim": "1"})
    refused(other, 404, "no model 'other'")


def test_a_correction_that_does_not_exist_is_not_undone(client: httpx.Client) -> None:
    for number in ("1", "9" * 30):
        answer = client.post(f"/corrections/{number}/undo", json={"who": "x"}, headers={"x-padim": "1"})
        refused(answer, 404, "no correction")


def test_a_body_that_never_ends_is_given_up(service: Running) -> None:
    head = f"POST {SCORE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: 5000\r\n\r\n".encode())
        connection.sendall(WHOLE[:10])
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_bodies_that_come_slowly_hold_their_bytes_no_longer_than_they_may(
    service: Running, client: httpx.Client
) -> None:
    head = f"POST {SCORE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    answers = [client.post(SCORE, content=b"hello", headers=PNG)]
    for _ in range(10):  # three are held for two seconds, which a machine in a hurry may miss
        with ExitStack() as stack:
            for _ in range(3):
                held = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=20))
                held.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode() + WHOLE[:10])
            answers.append(client.post(SCORE, content=b"hello", headers=PNG))
            if answers[-1].status_code == 503:
                break
    else:
        pytest.fail("none was refused")
    refused(answers[0], 422, "no image")
    refused(answers[-1], 503, "hold 300000 bytes already, of 300000")
    assert answers[-1].headers["retry-after"] == "1"
    deadline = time.monotonic() + 30
    while (answer := client.post(SCORE, content=b"hello", headers=PNG)).status_code == 503:
        assert time.monotonic() < deadline
    refused(answer, 422, "no image")
    assert "padim_request_bytes_in_hand 0\n" in client.get("/metrics").text


def test_a_body_in_chunks_without_a_length_is_cut_off_at_the_limit(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(300):
            yield bytes(1000)

    refused(client.post(SCORE, content=endless(), headers=PNG), 413, "more than 100000")


BROKEN = [
    b"hello\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
]


@pytest.mark.parametrize("request_", BROKEN)
def test_what_is_no_http_is_refused(service: Running, request_: bytes) -> None:
    answer = raw(service.port, request_)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 ", b"HTTP/1.1 413 ", b"HTTP/1.1 421 ", b"HTTP/1.1 431 "))


@pytest.mark.slow
def test_a_client_that_goes_away_leaves_nothing(service: Running) -> None:
    head = f"POST {SCORE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: 5000\r\n\r\n".encode() + WHOLE[:10])
    deadline = time.monotonic() + 20
    while not any(record["status"] == 499 for record in service.logged()):
        assert time.monotonic() < deadline


@pytest.mark.slow
def test_one_client_may_not_ask_without_end(tmp_path: Path) -> None:
    with (
        serving(fit_model(tmp_path / NAME), tmp_path / "line.db", "--client-rate", "2") as other,
        other.client() as client,
    ):
        answers = [client.get("/healthz") for _ in range(12)]
        statuses = [answer.status_code for answer in answers]
        assert 4 <= statuses.count(200) < 12
        refused(answers[-1], 429, "more than 2 requests a second")
        assert int(answers[-1].headers["retry-after"]) >= 1
