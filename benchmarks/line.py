"""Question: what does HTTP cost, and does a service stay as large as it is.

    python benchmarks/line.py
    python benchmarks/line.py --size 64 --requests 60

``padim serve`` on Lite0, in a process of its own, with clients in this one: 1, 8 and 64 threads, each of which sends
one PNG after another over a connection that it keeps, every request another item, so that each decision is written to
the store and waits for the disk. Beside it ``padim.score`` in a loop, one image after another from the bytes of the PNG
on, without a store. Images are of the model's own size. Prints images a second, the median and the 99th percentile of
requests in milliseconds, and the service's memory before and after; exits 1 where a request fails, or where 8 clients
get less than 0.7 of the images a second that the loop does.
"""

import argparse
import http.client
import io
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from alternate import Row, judge, show
from PIL import Image

import padim_jax as padim

CLIENTS = (1, 8, 64)
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


def row(side: str, seconds: list[float], memory: tuple[float, float] | None = None) -> Row:
    """A row of the table; the last of ``seconds`` is the whole time."""
    *each, whole = seconds
    p50, p99 = np.percentile(each, [50, 99]) * 1000
    before, after = memory or (None, None)
    numbers = {"images": len(each), "images_per_s": len(each) / whole, "p50_ms": float(p50), "p99_ms": float(p99)}
    return {"side": side} | numbers | {"rss_before_mb": before, "rss_after_mb": after}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Images a second through HTTP, and without.")
    parser.add_argument("--size", type=int, default=224, help="height and width of images in pixels (%(default)s)")
    parser.add_argument("--requests", type=int, default=400, help="of each row (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="most images computed at once (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    good = make_images(48, options.size)
    config = padim.PadimConfig(image_size=options.size, crop_size=options.size)
    model = padim.fit("efficientnet_lite0", [np.stack(good)], config)
    model = padim.calibrate(model, [np.stack(good)])
    contents = [encode(pixels) for pixels in good]
    rows = list[Row]()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        padim.save(model, root / "part.padim")

        def score(number: int) -> None:
            pixels = np.asarray(Image.open(io.BytesIO(contents[number % len(contents)])).convert("RGB"))
            np.asarray(padim.score(model, pixels[None]).image_score)

        score(0)
        seconds, start = list[float](), time.perf_counter()
        for number in range(options.requests):
            before = time.perf_counter()
            score(number)
            seconds.append(time.perf_counter() - before)
        rows.append(row("padim.score in a loop", [*seconds, time.perf_counter() - start]))
        with serving(root / "part.padim", root / "line.db", options.batch_size) as (service, port):
            process = psutil.Process(service.pid)
            for clients in CLIENTS:

                def send(number: int, connection: http.client.HTTPConnection, clients: int = clients) -> None:
                    path = f"/models/part.padim/score?item={clients}-{number}"
                    ask(path, contents[number % len(contents)], connection)

                measure(clients, clients, send, port)  # the first ones pay for what is made once
                memory = process.memory_info().rss / 1e6
                seconds = measure(clients, options.requests, send, port)
                after = process.memory_info().rss / 1e6
                rows.append(row(f"HTTP, {clients} clients", seconds, (memory, after)))
    show(rows, ["side", "images", "images_per_s", "p50_ms", "p99_ms", "rss_before_mb", "rss_after_mb"], options.json)
    return judge(
        [("8 clients: images a second against the loop", rows[2]["images_per_s"] / rows[0]["images_per_s"], LEAST)]
    )


if __name__ == "__main__":
    sys.exit(main())
