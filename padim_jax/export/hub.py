"""Models and exports to and from the Hugging Face Hub, by its own client.

What is pushed was checked before, and what is pulled is checked before it lies where it was asked for: anybody may have
filled a repository. Only files that a model or an export has are taken from it, by names that lead nowhere else, and
their sizes are known beforehand. Nothing of it is executed or unpickled.
"""

import glob
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.manifest import MANIFEST
from padim_jax.artifact.ownership import MARKER
from padim_jax.export.certificate import CERTIFICATE
from padim_jax.export.describe import ExportError
from padim_jax.export.folder import replaced
from padim_jax.export.model_card import CARD, digest_on, examine, is_own_file
from padim_jax.lazy import extra
from padim_jax.runs.inputs import Place

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CACHE = ".cache"  # which the client leaves beside what it downloads
_OF_THE_HUB = ".gitattributes"  # which the Hub puts into each new repository
_MOST_SAID = 300  # characters of what the Hub says


def push(folder: Place, repo: str, *, public: bool = False) -> str:
    """Put a model or an export into a repository of the Hugging Face Hub, in one commit, with a card about it.

    The repository is made where there is none, and is private unless ``public``. What padim pushed there before is
    replaced; earlier commits keep it. Nobody else's files are.

    Args:
      folder: of a model, or of an export.
      repo: its name, "owner/name".
      public: whether everybody may see it.

    Returns:
      The commit, 40 hexadecimal digits.

    Raises:
      ArtifactError, ExportError: a folder that is neither, or that is damaged.
      OSError: no token; a repository that can't be written, holds something else, or is public unasked.
      ModuleNotFoundError: the extra ``hub`` is missing.
    """
    hub, place = _import_hub(), Path(folder)
    found = examine(place)
    if hub.get_token() is None:
        raise OSError("push: there is no token for the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN")
    api = hub.HfApi(library_name="padim_jax")
    with _in_words("push", repo):
        api.create_repo(repo, private=not public, exist_ok=True)
        info = api.model_info(repo)
    names = {file.rfilename for file in info.siblings or ()} - {_OF_THE_HUB}
    if not info.private and not public:
        raise OSError(
            f"push: {repo} is public: everybody would see the model; ask for that with --public (public=True)"
        )
    if names and not names & {MANIFEST, CERTIFICATE}:
        raise OSError(f"push: {repo} holds other things ({min(names)}); choose a new repository")
    earlier = sorted(name for name in names - {*found.files} if is_own_file(name))
    operations = [
        *(hub.CommitOperationDelete(name, is_folder=False) for name in earlier),
        *(hub.CommitOperationAdd(name, place / name) for name in found.files),
        hub.CommitOperationAdd(CARD, found.card.encode()),
    ]
    message = f"padim push: {found.kind} {found.digest[:12]}"
    with _in_words("push", repo):  # refused where somebody else has committed meanwhile
        return str(api.create_commit(repo, operations, commit_message=message, parent_commit=info.sha).oid)


def pull(repo: str, out: Place, *, revision: str | None = None, note: Callable[[str], None] = lambda text: None) -> str:
    """Bring a model or an export from a repository of the Hugging Face Hub into a folder, once all of it is checked.

    It is downloaded beside ``out``, read as ``load`` and ``padim verify`` read what anybody may have made, and moved in
    one step; where anything is wrong, nothing is left.

    Args:
      repo: its name, "owner/name".
      out: folder to write; an earlier export there is replaced, and nothing else.
      revision: a branch, a tag or a commit; None for the newest. A commit names the very files.
      note: called with what will be downloaded, before it is.

    Returns:
      The commit, 40 hexadecimal digits.

    Raises:
      ArtifactError: no model or export, or one that is damaged or not that of its card.
      NotOurs: ``out`` holds something else.
      OSError: a repository that can't be read; too little space.
      ModuleNotFoundError: the extra ``hub`` is missing.
    """
    hub = _import_hub()
    with replaced(Path(out), "pull") as folder:
        with _in_words("pull", repo):
            info = hub.HfApi(library_name="padim_jax").model_info(repo, revision=revision, files_metadata=True)
        commit, sizes = str(info.sha), {file.rfilename: file.size for file in info.siblings or ()}
        sizes = {name: size for name, size in sizes.items() if name == CARD or is_own_file(name)}
        _check_announced(repo, commit, sizes, shutil.disk_usage(folder).free)
        note(f"{repo} at {commit}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.2f} MB")
        with _in_words("pull", repo):
            taken = [glob.escape(name) for name in sizes]
            hub.snapshot_download(
                repo, revision=commit, local_dir=folder, allow_patterns=taken, library_name="padim_jax"
            )
        shutil.rmtree(folder / _CACHE, ignore_errors=True)
        _check_downloaded(repo, folder, sizes)
        named = digest_on((folder / CARD).read_text("utf-8", "replace")) if CARD in sizes else None
        (folder / CARD).unlink(missing_ok=True)
        try:
            found = examine(folder)
        except (ArtifactError, ExportError) as error:
            raise ArtifactError(f"pull: {str(error).replace(str(folder), repo)}") from error
        if named not in (None, found.digest):
            raise ArtifactError(
                f"pull: {repo} holds model {found.digest[:12]}, and its card is of {named[:12]}; ask whoever pushed it"
            )
        if found.kind == "model":
            (folder / MARKER).unlink()  # before it is moved: its manifest says whose it is
    return commit


def _check_announced(repo: str, commit: str, sizes: Mapping[str, int | None], free: int) -> None:
    if not _COMMIT.fullmatch(commit) or None in sizes.values():
        raise OSError(f"pull: {repo}: the Hub does not say which commit it is, or how large its files are")
    if not sizes.keys() & {MANIFEST, CERTIFICATE}:
        raise ArtifactError(f"pull: {repo} holds neither {MANIFEST} nor {CERTIFICATE}, which padim push puts there")
    if (total := sum(size or 0 for size in sizes.values())) > free:
        raise OSError(f"pull: {repo} takes {total / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free; choose another disk")


def _check_downloaded(repo: str, folder: Path, sizes: Mapping[str, int | None]) -> None:
    for name, size in sizes.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
            raise ArtifactError(f"pull: {repo}: {name} did not come as the Hub announced it; pull again")


@contextmanager
def _in_words(call: str, repo: str) -> Iterator[None]:
    """Say which call failed on which repository, whatever the client raises."""
    try:
        yield
    except Exception as error:  # of HTTP, of a name that can't be, of a repository that is gone
        said = " ".join(str(error).split())[:_MOST_SAID] or type(error).__name__
        raise OSError(
            f"{call}: {repo}: {said}. Is the name right, and may your token (hf auth login, or HF_TOKEN) "
            f"{'see' if call == 'pull' else 'write'} it?"
        ) from error


def _import_hub() -> Any:
    with extra("hub"):
        import huggingface_hub
    return huggingface_hub
