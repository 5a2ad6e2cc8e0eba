"""``padim guide``: the pages that are installed with the package."""

import re
import sys

import click
import pytest

from padim_jax.cli import main
from padim_jax.commands.guide import GUIDE, topics

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in GUIDE.glob("*.md") if path.stem != "README"}


def test_without_a_topic_every_page_is_listed_with_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide"]) == 0
    listed = dict(re.findall(r"^([a-z-]+) {2,}(\S.+)$", capsys.readouterr().out, re.MULTILINE))
    assert listed == topics()
    assert listed.keys() == PAGES.keys()


@pytest.mark.parametrize("topic", PAGES)
def test_a_page_has_a_title_and_no_line_beyond_a_terminal(topic: str) -> None:
    lines = PAGES[topic].splitlines()
    assert re.match(r"# \w", lines[0])
    code = re.sub(r"^```.*?^```", "", PAGES[topic], flags=re.MULTILINE | re.DOTALL)
    long = [line for line in code.splitlines() if len(line) > 104 and "|" not in line and "](http" not in line]
    assert not long


def test_in_a_pipe_a_page_is_plain_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide", "thresholds"]) == 0
    assert capsys.readouterr().out == PAGES["thresholds"]


def test_on_a_terminal_a_page_is_rendered_in_a_pager(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "echo_via_pager", pages.append)
    assert main(["guide", "thresholds"]) == 0
    (page,) = pages
    assert "Three ways to a threshold" in page
    assert "\x1b[" in page  # styles
    assert "\n## " not in page  # the mark of a heading


def test_an_unknown_topic_is_wrong_use_and_lists_the_topics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide", "nothing"]) == 2
    said = capsys.readouterr().err
    assert "padim guide: there is no topic 'nothing'" in said
    assert ", ".join(topics()) in said
