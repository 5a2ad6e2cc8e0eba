"""Question: what does HTTP cost, and does a service stay as large as it is.

    python benchmarks/line.py
    python benchmarks/line.py --size 64 --requests 60
    python benchmarks/line.py --model r18 --anomavision anomavision-3.6.2/apps/api/fastapi_app.py

``padim serve`` on Lite0, in a process of its own, with clients in this one: 1, 8 and 64 threads, each of which sends
one PNG after another over a connection that it keeps, every request another item, so that each decision is written to
the store and waits for the disk. Beside it ``padim.score`` in a loop, one image after another from the bytes of the PNG
on, without a store. Images are of the model's own size. With ``--model r18``, the peers that are installed are measured
too, with the same weights, channels and images: anomalib's model in the same loop, and AnomaVision's server, which
keeps no decisions, from the file that ``--anomavision`` names (``line_peers.py`` says what it takes). All take turns.
Prints images a second, the median and the 99th percentile of requests in milliseconds, and the services' memory before
and after; exits 1 where a request fails, or where 8 clients of ours get less than 0.7 of the images a second that our
loop does.
"""

import argparse
import http.client
import io
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from alternate import Row, judge, show, split_batches
from line_peers import ask_anomavision, export, serving_anomavision
from peers import MODELS, fit_sides, load
from PIL import Image

import padim_jax as padim

CLIENTS = (1, 8, 64)
TURNS = 4  # of each side
Send = Callable[[int, http.client.HTTPConnection], None]
LEAST = 0.7  # of the loop's images a second, with 8 clients


def make_images(count: int, size: int) -> list[np.ndarray]:
    """Parts with a camera's noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] / size
    body = np.stack([120 + 80 * np.cos(20 * x), 110 + 60 * y, 90 + 60 * np.sin(15 * (x + y))], axis=-1)
    return [np.clip(body + rng.normal(0, 3, body.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def encode(pixels: np.ndarray) -> bytes:
    """An image as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def serving(model: Path, store: Path, batch_size: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service that is ready, and its port."""
    command = [sys.executable, "-m", "padim_jax.cli", "serve", str(model), "--store", str(store), "--port", "0"]
    options = ["--batch-size", str(batch_size), "--look-rate", "0.2"]
    log = store.with_suffix(".log").open("w")
    with log, subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=log, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready:
            raise RuntimeError(store.with_suffix(".log").read_text())
        try:
            yield process, int(ready.split("/, decisions")[0].rsplit(":", 1)[1])
        finally:
            process.terminate()


def ask(path: str, content: bytes, connection: http.client.HTTPConnection) -> None:
    """Send one image, and wait for its decision."""
    connection.request("POST", path, content, {"Content-Type": "image/png"})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {said.decode()}")


def measure(clients: int, requests: int, send: Send, port: int) -> list[float]:
    """Seconds of each of ``requests`` requests by as many threads as ``clients``; those of all as the last one."""
    seconds, failures, numbers, lock = list[float](), list[Exception](), iter(range(requests)), threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        try:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                start = time.perf_counter()
                send(number, connection)
                with lock:
                    seconds.append(time.perf_counter() - start)
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [*seconds, time.perf_counter() - start]


def row(side: str, turns: list[list[float]], memory: tuple[float, float] | None) -> Row:
    """A row of the table; the last second of each turn is the whole turn's time."""
    each, whole = [one for turn in turns for one in turn[:-1]], sum(turn[-1] for turn in turns)
    p50, p99 = np.percentile(each, [50, 99]) * 1000
    before, after = memory or (None, None)
    numbers = {"images": len(each), "images_per_s": len(each) / whole, "p50_ms": float(p50), "p99_ms": float(p99)}
    return {"side": side} | numbers | {"rss_before_mb": before, "rss_after_mb": after}


@dataclass(frozen=True)
class Side:
    """What is measured: ``work`` takes a number of images and gives seconds as :func:`measure` does."""

    name: str
    work: Callable[[int], list[float]]
    warm_up: int = 1
    service: psutil.Process | None = None

    @property
    def memory(self) -> float:
        """Resident, in MB; 0 where there is no service."""
        return 0.0 if self.service is None else self.service.memory_info().rss / 1e6


def in_turns(sides: list[Side], requests: int) -> list[Row]:
    """A row for each side; they take turns, so that other load on the computer slows all of them alike."""
    for side in sides:
        side.work(side.warm_up)  # the first ones pay for what is made once
    before, found = [side.memory for side in sides], [list[list[float]]() for _ in sides]
    for _ in range(TURNS):
        for side, turns in zip(sides, found, strict=True):
            turns.append(side.work(-(-requests // TURNS)))
    return [
        row(side.name, turns, (memory, side.memory) if side.service else None)
        for side, turns, memory in zip(sides, found, before, strict=True)
    ]


def in_a_loop(name: str, contents: list[bytes], score: Callable[[np.ndarray], object]) -> Side:
    """One image after another, from PNG on."""

    def work(requests: int) -> list[float]:
        seconds, start = list[float](), time.perf_counter()
        for number in range(requests):
            before = time.perf_counter()
            pixels = np.asarray(Image.open(io.BytesIO(contents[number % len(contents)])).convert("RGB"))
            score(pixels[None])
            seconds.append(time.perf_counter() - before)
        return [*seconds, time.perf_counter() - start]

    return Side(name, work)


def by_clients(name: str, service: subprocess.Popen[str], port: int, send: Send) -> list[Side]:
    """Each number of clients of a service; ``send`` gets another number for each request."""
    process, numbers = psutil.Process(service.pid), itertools.count()

    def send_another(_: int, connection: http.client.HTTPConnection) -> None:
        send(next(numbers), connection)

    def side(clients: int) -> Side:
        work = partial(measure, clients, send=send_another, port=port)
        return Side(f"{name}, {clients} clients", work, clients, process)

    return [side(clients) for clients in CLIENTS]


def peers_of(stack: ExitStack, backbone: padim.Backbone, good: np.ndarray, app: Path | None, root: Path) -> list[Side]:
    """The peers that are installed; their services run until ``stack`` ends."""
    contents, found = [encode(pixels) for pixels in good], list[Side]()
    config = padim.PadimConfig(image_size=good.shape[1], crop_size=good.shape[1])
    sides, _ = fit_sides(["anomalib", "anomavision"], backbone, config, split_batches(good, 16), good[:4])
    if "anomalib" in sides:
        found.append(in_a_loop("anomalib's model in a loop", contents, sides["anomalib"].score))
    if app is None:
        print("AnomaVision's server is left out: its package has none; name its file by --anomavision")
    elif "anomavision" in sides:
        model = export(sides["anomavision"], root / "anomavision")
        service, port = stack.enter_context(serving_anomavision(app, model))

        def send(number: int, connection: http.client.HTTPConnection) -> None:
            ask_anomavision(contents[number % len(contents)], connection)

        found += by_clients("AnomaVision", service, port, send)
    return found


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Images a second through HTTP, and without.")
    parser.add_argument("--size", type=int, default=224, help="height and width of images in pixels (%(default)s)")
    parser.add_argument("--requests", type=int, default=400, help="of each row (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="most images computed at once (%(default)s)")
    parser.add_argument("--model", choices=MODELS, default="lite0", help="r18 measures peers too (%(default)s)")
    parser.add_argument("--anomavision", type=Path, metavar="FILE", help="AnomaVision's apps/api/fastapi_app.py")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    good = np.stack(make_images(48, options.size))
    backbone, config = load(options.model), padim.PadimConfig(image_size=options.size, crop_size=options.size)
    model = padim.calibrate(padim.fit(backbone, [good], config), [good])
    contents = [encode(pixels) for pixels in good]

    def send(number: int, connection: http.client.HTTPConnection) -> None:
        ask(f"/models/part.padim/score?item={number}", contents[number % len(contents)], connection)

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        root = Path(scratch)
        padim.save(model, root / "part.padim")
        service, port = stack.enter_context(serving(root / "part.padim", root / "line.db", options.batch_size))
        loop = in_a_loop(
            "padim.score in a loop", contents, lambda pixels: np.asarray(padim.score(model, pixels).image_score)
        )
        sides = [loop, *by_clients("padim serve", service, port, send)]
        if options.model == "r18":
            sides += peers_of(stack, backbone, good, options.anomavision, root)
        rows = in_turns(sides, options.requests)
    show(rows, ["side", "images", "images_per_s", "p50_ms", "p99_ms", "rss_before_mb", "rss_after_mb"], options.json)
    return judge(
        [("8 clients: images a second against the loop", rows[2]["images_per_s"] / rows[0]["images_per_s"], LEAST)]
    )


if __name__ == "__main__":
    sys.exit(main())
