"""Question: what do ten corrected false alarms change on images that nobody has seen.

    python benchmarks/corrections.py DIR [DIR ...]                # folders in MVTec AD's layout
    python benchmarks/corrections.py pill_qc/ --seeds 5 --fitted 30

Of each set, a model is fitted on a few good images, as ``padim fit`` does, and judges others as a line does, by a store
of decisions. The first ten good parts that it does not call good are corrected to good and folded in by what the page's
"Learn from corrections" does (``padim_jax.line.learning``). Before and after, it judges good images that are in neither
part, and defective ones. That is done with images as they are, and with a camera that was moved by 2 % of the picture
after the fit, where false alarms are of a kind; images from before it was moved are then judged too ("elsewhere").
Rates asked for are 5 % bad and 20 % not good. Prints for each set the image AUROC and the shares of good and of
defective images that are called bad, and that are not called good, before and after, over all seeds. With thresholds
as they were, fewer images of either kind are stopped after than before, so it prints too what share of the defective
images scores above thresholds that stop equally many unseen good ones, 5 % and 20 % of them ("found_at"): these differ
only where the model tells the two apart otherwise. Exits 1 where, of all sets, more of the unseen good images of the
same kind are not called good after than before.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from alternate import Row, show
from PIL import Image

from padim_jax.cli import main as padim
from padim_jax.data.elpv import demo_split
from padim_jax.line.judge import Judge, Photo
from padim_jax.line.learning import NothingToLearn, propose
from padim_jax.line.proposal import Kept, apply
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates

RATES = Rates(0.05, 0.2)
CORRECTED, DEFECTIVE, UNSEEN = 10, 40, 60  # images at most
EQUAL = (0.05, 0.2)  # shares of unseen good images that are stopped, before and after alike
KINDS = {"as they are": 0.0, "moved": 0.02}


@dataclass(frozen=True)
class Parts:
    """Files of a set: good ones in an order of their own, and defective ones."""

    good: list[Path]
    defective: list[Path]


def read(folder: Path | None, seed: int) -> Parts:
    """The images of a set; of solar cells where there is no folder."""
    if folder is None:
        split = demo_split()
        good, bad = sorted([*split.fit, *split.good]), sorted(split.defective)
    else:
        good = sorted([*folder.glob("train/good/*"), *folder.glob("test/good/*")])
        bad = sorted(path for path in folder.glob("test/*/*") if path.parent.name != "good")
    rng = np.random.default_rng(seed)
    return Parts([good[i] for i in rng.permutation(len(good))], [bad[i] for i in rng.permutation(len(bad))][:DEFECTIVE])


def seen(paths: Sequence[Path], shift: float, out: Path) -> list[Path]:
    """The same images from a camera that was moved by a share of the picture, as files."""
    out.mkdir()
    found = list[Path]()
    for index, path in enumerate(paths):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        by = round(shift * pixels.shape[1])
        found.append(out / f"{index:03}.png")
        Image.fromarray(np.pad(pixels, [(0, 0), (by, 0), (0, 0)], "edge")[:, : pixels.shape[1]]).save(found[-1])
    return found


def judged(judge: Judge, tests: dict[str, list[Path]]) -> Row:
    """Of each test, how many images are called bad, how many are not called good, and how many there are; the AUROC."""
    found, scores = Row(), dict[str, np.ndarray]()
    for name, paths in tests.items():
        decisions = [one.decision for one in judge.judge([Photo("unseen", path.name, path) for path in paths])]
        verdicts = [decision.verdict for decision in decisions]
        found[name] = np.array([verdicts.count("bad"), len(verdicts) - verdicts.count("good"), len(verdicts)])
        scores[name] = np.array([decision.score for decision in decisions], float)
    good, bad = scores["good"], scores["defective"]
    above = (bad[:, None] > good) + (bad[:, None] == good) / 2
    return found | {"auroc": float(above.mean()), "found": [_found(good, bad, rate) for rate in EQUAL]}


def _found(good: np.ndarray, bad: np.ndarray, rate: float) -> float:
    """The share of defective images that score more than all but a share of the good ones."""
    return float((bad > np.sort(good)[len(good) - 1 - int(rate * len(good))]).mean())


def learn(judge: Judge, store: Store, paths: Sequence[Path]) -> int:
    """Correct the first false alarms, and let the model learn from them; gives how many there were."""
    results = judge.judge([Photo("line", path.name, path) for path in paths])
    recorded = store.record(one.decision for one in results)
    alarms = [(one, path) for one, path in zip(recorded, paths, strict=True) if one.verdict != "good"][:CORRECTED]
    for decision, _ in alarms:
        store.correct(decision.id, "good", who="benchmark")
    corrected = [Kept(store.decision(decision.id), path) for decision, path in alarms]
    with contextlib.suppress(NothingToLearn):
        apply(propose(judge.path, corrected, [], RATES))
    judge.refresh()
    return len(alarms)


def measure(folder: Path | None, seed: int, shift: float, fitted: int) -> Row:
    """What ten corrections change for one choice of images."""
    parts = read(folder, seed)
    further = (len(parts.good) - fitted) // 2
    with tempfile.TemporaryDirectory() as scratch, Store.open(Path(scratch) / "line.db") as store:
        root = Path(scratch)
        seen(parts.good[:fitted], 0.0, root / "fit")
        line = seen(parts.good[fitted : fitted + min(further, UNSEEN)], shift, root / "further")
        unseen = parts.good[fitted + further :][:UNSEEN]
        tests = {
            "good": seen(unseen, shift, root / "unseen"),
            "defective": seen(parts.defective, shift, root / "defective"),
        }
        if shift:
            tests["elsewhere"] = seen(unseen, 0.0, root / "elsewhere")
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            fit = ["fit", str(root / "fit"), "--out", str(root / "model"), "--false-alarm-rate", "0.05"]
            if padim(fit):
                raise RuntimeError("padim fit failed")
        judge = Judge(root / "model", RATES)
        before = judged(judge, tests)
        count = learn(judge, store, line)
        return {"corrected": count, "tests": list(tests), "before": before, "after": judged(judge, tests)}


def table(name: str, kind: str, found: Sequence[Row]) -> Row:
    """Sums over seeds, as shares."""
    row: Row = {"set": name, "images": kind, "corrected": float(np.mean([one["corrected"] for one in found]))}
    row["auroc"] = " → ".join(f"{np.mean([one[when]['auroc'] for one in found]):.3f}" for when in ("before", "after"))
    for index, rate in enumerate(EQUAL):
        pair = [np.mean([one[when]["found"][index] for one in found]) for when in ("before", "after")]
        row[f"found_at_{rate:.0%}"] = " → ".join(f"{share:.1%}" for share in pair)
    for test in found[0]["tests"]:
        for column, about in enumerate(("bad", "not_good")):
            pair = [np.sum([one[when][test] for one in found], axis=0) for when in ("before", "after")]
            row[f"{test}_{about}"] = " → ".join(f"{sums[column] / sums[2]:.1%}" for sums in pair)
    return row


def results(options: argparse.Namespace) -> Iterator[tuple[Row, Sequence[Row]]]:
    """A row of the table for each set and kind, and what it sums up."""
    sets: dict[str, Path | None] = {folder.name: folder for folder in options.folders}
    if importlib.util.find_spec("elpv_dataset"):
        sets["solar cells"] = None
    for kind, shift in KINDS.items():
        for name, folder in sets.items():
            found = [measure(folder, seed, shift, options.fitted) for seed in range(options.seeds)]
            row = table(name, kind, found)
            print(row, flush=True)
            yield row, found


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="What ten corrected false alarms change on unseen images.")
    parser.add_argument("folders", nargs="*", type=Path, help="in MVTec AD's layout")
    parser.add_argument("--seeds", type=int, default=3, help="choices of images of each set (%(default)s)")
    parser.add_argument("--fitted", type=int, default=20, help="good images fitted on (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows, sums = list[Row](), np.zeros((2, 3))
    for row, found in results(options):
        rows.append(row)
        sums += [sum(one[when]["good"] for one in found) for when in ("before", "after")]
    tests = ("good", "defective", "elsewhere")
    columns = [
        "set",
        "images",
        "corrected",
        "auroc",
        *(f"found_at_{rate:.0%}" for rate in EQUAL),
        *(f"{test}_{about}" for test in tests for about in ("bad", "not_good")),
    ]
    show(rows, columns, options.json)
    before, after = (float(line[1] / line[2]) for line in sums)
    print(f"unseen good images of the same kind that are not called good: {before:.1%} before, {after:.1%} after")
    return int(after > before)


if __name__ == "__main__":
    sys.exit(main())
