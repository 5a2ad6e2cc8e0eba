"""What a file or a folder is called reaches the terminal as text, whatever command succeeds with it."""

import os
from pathlib import Path

import pytest

from padim_jax.cli import main
from tests.conftest import SMALL, images, write_images

SETTINGS = "--tap block2 --tap block4 --image-size 40x56 --crop-size 32x48 --n-channels 8 --sigma 1.5".split()
FIT = [*SETTINGS, "--batch-size", "4"]
ODD, SHOWN = "a\x1b[31m", "a\\x1b[31m"


def results(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Lines on standard output of a command that succeeds."""
    assert main([*map(str, arguments)]) == 0, capsys.readouterr().err
    told, said = capsys.readouterr()
    assert not {"\x1b", "\udcff"} & set(told + said)
    return told.splitlines()


@pytest.mark.slow
def test_results_of_fitting_changing_and_scoring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = tmp_path / ODD
    first, second = here / "first", here / "second"
    write_images(first, images(14, SMALL))
    new = write_images(second, images(3, SMALL, seed=1))
    new[0].rename(second / os.fsdecode(b"\xff.png"))  # a byte that is no text
    (here / "parts.csv").write_text("model,good\none,first\n")
    (here / "stream.csv").write_text("model,path\none,second\n")
    for arguments, wanted in (
        (["fit", first, "--out", here / "m", *FIT], "m: efficientnet_lite0, "),
        (["update", here / "m", second, "--batch-size", 4], "m: 3 images added; fitted on 17 images"),
        (["forget", here / "m", second, "--batch-size", 4], "m: fitted on 14 images"),
        (["undo", here / "m"], "m: as it was before the last change"),
        (["merge", here / "m", here / "m", "--out", here / "both"], "both: fitted on 17 images"),
        (["score", here / "m", second, "--out", here / "r", "--batch-size", 4], "r/scores.csv: 3 scored"),
        (["fit-many", here / "parts.csv", "--out", here / "all", *FIT], "all/models.csv: 1 fitted"),
        (["score-many", here / "all", here / "stream.csv", "--out", here / "q"], "q/scores.csv: 3 scored"),
    ):
        found = results(capsys, *arguments)
        assert [line for line in found if line.startswith(f"{tmp_path}/{SHOWN}/{wanted}")], (arguments, found)


@pytest.mark.slow
def test_results_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[31m[red]b"  # the bracket is no style of the table
    write_images(tmp_path / name / "good", images(6, SMALL))
    write_images(tmp_path / name / "bad", images(2, SMALL, seed=3))
    out = tmp_path / "\x1b[32m"
    told = results(capsys, "evaluate", tmp_path / name, "--out", out, *SETTINGS[4:8])
    assert any("a\\x1b[31m[red]b" in line for line in told)
    assert f"{tmp_path}/\\x1b[32m/results.json, results.csv, files.csv" in told
    pages = [line.strip() for line in told if line.endswith("report.html")]
    assert len(pages) == 1
    assert results(capsys, "report", out) == pages
