"""``padim push`` and ``padim pull``."""

from pathlib import Path

from padim_jax.commands.terminal import say, tell
from padim_jax.export import pull, push


def push_command(folder: Path, repo: str, public: bool) -> None:
    """Do what ``padim push`` says it does."""
    commit = push(folder, repo, public=public)
    tell(f"{repo}: {folder}, commit {commit}")


def pull_command(repo: str, out: Path, revision: str | None) -> None:
    """Do what ``padim pull`` says it does."""
    commit = pull(repo, out, revision=revision, note=say)
    tell(f"{out}: {repo} at {commit}, every file checked")
