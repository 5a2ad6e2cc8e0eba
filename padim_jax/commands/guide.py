"""``padim guide``."""

import re
from pathlib import Path

import click

from padim_jax.commands.terminal import show_page, tell

GUIDE = Path(__file__).parent.parent / "guide"
_TOPIC = re.compile(r"^- \[([a-z-]+)\]\(\1\.md\): (.+)$", re.MULTILINE)


def guide_command(topic: str | None) -> None:
    """Do what ``padim guide`` says it does."""
    pages = topics()
    if topic is None:
        width = max(map(len, pages))
        for name, about in pages.items():
            tell(f"{name:{width}}  {about}")
        tell("")
        tell("padim guide TOPIC shows a page")
    elif topic not in pages:
        raise click.UsageError(f"there is no topic {topic!r}; the topics are {', '.join(pages)}")
    else:
        show_page((GUIDE / f"{topic}.md").read_text(encoding="utf-8"))


def topics() -> dict[str, str]:
    """What each page is about, by topic, in the order of the guide's README.md."""
    return dict(_TOPIC.findall((GUIDE / "README.md").read_text(encoding="utf-8")))
