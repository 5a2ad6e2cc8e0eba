"""Question: does a line decide every image once, whatever kills it, and does a service stay as large as it is.

    python benchmarks/durable.py
    python benchmarks/durable.py --part memory --requests 2000
    python benchmarks/durable.py --part serve --kills 5

Three parts, each on Lite0 with images of 64×64 (``--size``):

- memory: 20,000 requests of 8 clients to ``padim serve``, each another item; its memory after each tenth of them.
- serve: 30 times ``padim serve`` is killed (SIGKILL) at a random moment up to a second after its first decision, while
  8 clients send one image after another, each again and again until it is answered.
- watch: 30 times ``padim watch`` is killed likewise, while ten images a second come to its folder, with a table and a
  folder of bad images as outputs.

A decision is lost where an image was answered with one that is not in the store, or, of a watch, has none at the end;
it is doubled where an item has two, or the table two rows. Exits 1 where one is lost or doubled, or where memory at the
end is more than a tenth above that after the second tenth of the requests.
"""

import argparse
import csv
import http.client
import itertools
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from alternate import Row, judge, show
from line import ask, encode, make_images, measure, serving

import padim_jax as padim
from padim_jax.line.store import Store

CLIENTS = 8
MOST = 1.0  # seconds from the first decision to a kill
Bounds = list[tuple[str, float, float]]


def send_all(port: int, items: list[str], contents: list[bytes]) -> None:
    """Send an image for each item, by several clients at a time."""

    def send(number: int, connection: http.client.HTTPConnection) -> None:
        ask(f"/models/part.padim/score?item={items[number]}", contents[number % len(contents)], connection)

    measure(CLIENTS, len(items), send, port)


def measure_memory(root: Path, contents: list[bytes], requests: int) -> tuple[list[Row], Bounds]:
    """Memory of a service after each tenth of the requests."""
    rows = list[Row]()
    with serving(root / "part.padim", root / "memory.db", 16) as (service, port):
        process = psutil.Process(service.pid)
        for tenth in range(10):
            start = time.perf_counter()
            items = [f"{tenth}-{number}" for number in range(requests // 10)]
            send_all(port, items, contents)
            rate = len(items) / (time.perf_counter() - start)
            rows.append({"requests": (tenth + 1) * len(items), "images_per_s": rate})
            rows[-1]["rss_mb"] = process.memory_info().rss / 1e6
            print(rows[-1], flush=True)
    return rows, [("memory after the second tenth over that at the end", rows[1]["rss_mb"] / rows[-1]["rss_mb"], 0.9)]


def kill_serve(root: Path, contents: list[bytes], kills: int, chance: random.Random) -> tuple[list[Row], Bounds]:
    """Kill a service again and again while clients send."""
    store, numbers, answered = root / "serve.db", itertools.count(), list[str]()
    ports, is_over, lock = list[int](), threading.Event(), threading.Lock()

    def work() -> None:
        while not is_over.is_set():
            with lock:
                number = next(numbers)
            path = f"/models/part.padim/score?item={number}"
            while True:
                connection = http.client.HTTPConnection("127.0.0.1", ports[-1], timeout=60)
                try:
                    ask(path, contents[number % len(contents)], connection)
                    break
                except (OSError, http.client.HTTPException, RuntimeError):  # killed, or not there yet
                    time.sleep(0.05)
                finally:
                    connection.close()
            answered.append(str(number))

    threads, rows = [threading.Thread(target=work) for _ in range(CLIENTS)], list[Row]()
    for kill in range(kills + 1):
        with serving(root / "part.padim", store, 16) as (service, port):
            ports.append(port)
            before = len(answered)
            if kill == 0:
                for thread in threads:
                    thread.start()
            while len(answered) == before:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, MOST))
            if kill < kills:
                service.kill()
                rows.append({"what": "serve", "kill": kill, "answered": len(answered) - before})
                print(rows[-1], flush=True)
                continue
            is_over.set()
            for thread in threads:
                thread.join()
    with Store.open(store) as opened:
        counts = Counter(decision.item for decision in opened.decisions())
    lost = sum(item not in counts for item in answered)
    return _verdict(rows, "serve", len(answered), lost, sum(count - 1 for count in counts.values()))


def kill_watch(root: Path, contents: list[bytes], kills: int, chance: random.Random) -> tuple[list[Row], Bounds]:
    """Kill a watch again and again while images come."""
    camera, store, table, is_over = root / "camera", root / "watch.db", root / "watch.csv", threading.Event()
    camera.mkdir()
    command = [sys.executable, "-m", "padim_jax.cli", "watch", str(camera), "--model", str(root / "part.padim")]
    command += ["--store", str(store), "--append", str(table), "--bad-folder", str(root / "bad"), "--quiet"]
    command += ["--look-rate", "0.2", "--poll", "0.1", "--settle", "0"]

    def come() -> None:
        for number in itertools.count():
            if is_over.is_set():
                return
            draft = root / "draft.png"
            draft.write_bytes(contents[number % len(contents)])
            draft.rename(camera / f"{number:06}.png")
            time.sleep(0.1)

    def decided() -> int:
        with suppress(FileNotFoundError), Store.open(store, create=False) as opened:
            return sum(opened.count().values())
        return 0

    thread, rows = threading.Thread(target=come), list[Row]()
    thread.start()
    for kill in range(kills):
        before = decided()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            if not any(line.startswith("ready") for line in process.stderr):
                raise RuntimeError("the watch ended before it was ready")
            while decided() == before:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, MOST))
            process.kill()
        rows.append({"what": "watch", "kill": kill, "answered": decided() - before})
        print(rows[-1], flush=True)
    is_over.set()
    thread.join()
    subprocess.run([*command, "--once"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    came = {path.name for path in camera.iterdir()}
    with Store.open(store) as opened:
        counts = Counter(decision.item for decision in opened.decisions())
        ids = Counter(decision.id for decision in opened.decisions())
    with table.open(newline="", encoding="utf-8") as stream:
        written = Counter(row["id"] for row in csv.DictReader(stream))
    lost = len(came - counts.keys()) + len(ids.keys() - written.keys())
    doubled = sum(count - 1 for count in (*counts.values(), *written.values()))
    return _verdict(rows, "watch", len(came), lost, doubled)


def _verdict(rows: list[Row], what: str, images: int, lost: int, doubled: int) -> tuple[list[Row], Bounds]:
    rows.append({"what": what, "kill": f"all {len(rows)}", "answered": images})
    rows[-1] |= {"lost": lost, "doubled": doubled}
    return rows, [(f"{what}: decisions lost", -lost, 0), (f"{what}: decisions doubled", -doubled, 0)]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Memory of a service, and decisions after kills.")
    parser.add_argument("--part", choices=("memory", "serve", "watch"), action="append", help="only this; repeat")
    parser.add_argument("--size", type=int, default=64, help="height and width of images in pixels (%(default)s)")
    parser.add_argument("--requests", type=int, default=20_000, help="of the part memory (%(default)s)")
    parser.add_argument("--kills", type=int, default=30, help="of each of the other parts (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    parts, chance = options.part or ("memory", "serve", "watch"), random.Random(options.seed)
    good = make_images(48, options.size)
    config = padim.PadimConfig(image_size=options.size, crop_size=options.size)
    model = padim.calibrate(padim.fit("efficientnet_lite0", [np.stack(good)], config), [np.stack(good)])
    contents = [encode(pixels) for pixels in good]
    rows, bounds = list[Row](), Bounds()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        padim.save(model, root / "part.padim")
        found = list[tuple[list[Row], Bounds]]()
        if "memory" in parts:
            found.append(measure_memory(root, contents, options.requests))
        if "serve" in parts:
            found.append(kill_serve(root, contents, options.kills, chance))
        if "watch" in parts:
            found.append(kill_watch(root, contents, options.kills, chance))
        for more, bound in found:
            rows, bounds = [*rows, *more], [*bounds, *bound]
    columns = ["what", "kill", "requests", "images_per_s", "rss_mb", "answered", "lost", "doubled"]
    show(rows, columns, options.json)
    return judge(bounds)


if __name__ == "__main__":
    sys.exit(main())
