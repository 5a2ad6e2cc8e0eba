"""The change of a model that was proposed last: there is one at a time, and it is made, or undone, by name."""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.folder import undo
from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.artifact.ownership import locked
from padim_jax.lazy import extra
from padim_jax.line.changes import Kind
from padim_jax.line.proposal import Changed, Kept, Proposal, apply
from padim_jax.line.schema import StoreError
from padim_jax.line.service.decisions import change_of, text_of
from padim_jax.line.service.models import Models
from padim_jax.line.service.photos import Photos
from padim_jax.line.service.replies import JSONResponse
from padim_jax.line.service.security import Gate
from padim_jax.line.service.uploads import Refusal
from padim_jax.line.store import Store
from padim_jax.line.undoing import Undoing, thresholds, undoing

with extra("serve"):
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response

_RECENT = 1000
_FORESEEN = (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError)


class Proposals:
    """What is common to all that changes models, and the routes by which a proposed change is made and undone.

    Args:
      store: of the decisions; who changed what is noted in it.
      models: that are changed.
      photos: of the decisions; None where none are kept.
      gate: of what may change something.
      is_allowed: whether the service was started to change models at all.
      batch_size: images computed at once.

    Attributes:
      store, models, photos, gate, batch_size: as given.
    """

    def __init__(
        self, store: Store, models: Models, photos: Photos | None, gate: Gate, *, is_allowed: bool, batch_size: int
    ) -> None:
        self.store, self.models, self.photos, self.gate, self.batch_size = store, models, photos, gate, batch_size
        self._is_allowed, self._busy = is_allowed, threading.Lock()
        self._proposal: tuple[str, Proposal] | None = None

    async def asked(self, request: Request, *names: str) -> dict[str, Any]:
        """The members of a request that changes a model, ``who`` and ``names``.

        Raises:
          Refusal: as :func:`change_of` and :meth:`check`.
          NoSuchModel: no such name.
        """
        body = await change_of(self.gate, request, ("who", *names))
        self.check(request, body)
        return body

    def check(self, request: Request, body: Mapping[str, Any]) -> None:
        """Make sure that somebody is named, that there is the model, and that models may be changed; the log says it.

        Raises:
          Refusal: nobody is named, or the service changes no models.
          NoSuchModel: no such name.
        """
        who, name = text_of(body, "who", 100, needed=True), request.path_params["name"]
        self.models.check(name)
        if not self._is_allowed:
            raise Refusal(403, "learning", "this service does not change models; padim serve --learn does")
        request.state.logged |= {"who": who, "model": name}

    async def propose(self, request: Request, compute: Callable[[str, Path], Proposal]) -> Response:
        """Compute a change, given the model's name and folder, and keep it in the place of the one before."""

        def work() -> dict[str, Any]:
            with self._alone():
                self._proposal = None
                name = request.path_params["name"]
                self._proposal = secrets.token_hex(16), compute(name, self.models.folder(name))
                return self._proposal[1].record() | {"proposal": self._proposal[0]}

        return JSONResponse(await self._done(work))

    async def apply(self, request: Request) -> Response:
        """Make the change that was proposed last."""
        body = await self.asked(request, "proposal")
        wanted, name = text_of(body, "proposal", 64, needed=True), request.path_params["name"]

        def work() -> dict[str, Any]:
            with self._alone():
                found = self._proposal
                if found is None or found[0] != wanted or found[1].path != self.models.folder(name):
                    raise Changed("this change is not the one that was proposed last; propose it again")
                self._proposal, proposal = None, found[1]
                with self._noted(name, proposal.kind, body["who"], proposal.about) as finish:
                    remarks = finish(apply(proposal))
                record = proposal.record()
                return record | {"remarks": [*record["remarks"], *remarks]}

        return JSONResponse(await self._done(work))

    async def undo(self, request: Request) -> Response:
        """Bring the model back as it was before its last change; once more, and the change is there again."""
        body = await self.asked(request, "based_on")
        wanted, name = text_of(body, "based_on", 64), request.path_params["name"]

        def work() -> dict[str, Any]:
            path = self.models.folder(name)
            with self._alone(), locked(path, "undo"):
                self._proposal, found = None, self._undoing(name)
                if wanted not in ("", found.based_on):
                    raise Changed(
                        f"undo: {name} was changed since you looked, so something else would be undone; look again"
                    )
                before, after = thresholds(path)
                about = {"before": found.based_on, "images": (*found.came, *found.went), "gone": found.went}
                with self._noted(name, "undo", body["who"], about) as finish:
                    manifest = undo(path)
                    remarks = finish(manifest_checksum(manifest))
                count = len(manifest.get("images") or ())
                moved = {"threshold": before, "threshold_after": after}
                return {"images": count, "undone": found.record(), "remarks": remarks} | moved

        return JSONResponse(await self._done(work))

    def undoable(self, request: Request) -> Response:
        """What undo would do to a model now; null where nothing can be undone."""
        try:
            found = self._undoing(request.path_params["name"]).record()
        except ArtifactError:
            found = None
        return JSONResponse({"undo": found})

    def _undoing(self, name: str) -> Undoing:
        return undoing(self.models.folder(name), partial(self.store.changes.between, name))

    def kept(self, name: str, corrected: bool | None) -> tuple[list[Kept], int]:
        """The last decisions of a model whose photos are kept, and how many others there are among them.

        Raises:
          Refusal: no photos are kept.
        """
        photos = self.photos
        if photos is None:
            raise Refusal(409, "photos", "no photos are kept to judge again; padim serve --keep-photos N keeps some")
        found = self.store.decisions(model=name, corrected=corrected, limit=_RECENT, newest_first=True)
        decisions, kept = list(found), list[Kept]()
        for decision in decisions:
            with suppress(KeyError):  # not kept, or not any more
                kept.append(Kept(decision, photos.path(decision)))
        return kept, len(decisions) - len(kept)

    @contextmanager
    def _noted(self, name: str, kind: Kind, who: str, about: Mapping[str, Any]) -> Iterator[Callable[[str], list[str]]]:
        """Note who changes a model before it is changed; gives what notes the model that came of it."""
        changes = self.store.changes
        number, is_made = changes.begin(name, kind, who=who, **about), False

        def finish(after: str) -> list[str]:
            nonlocal is_made
            is_made = True
            try:
                changes.finish(number, after)
            except StoreError as error:  # the model is changed all the same
                return [f"the change is made, but the store could not note what came of it: {error}"]
            return []

        try:
            yield finish
        finally:
            if not is_made:
                changes.abandon(number)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise Refusal(409, "busy", "another change is being computed; try again later", {"retry-after": "5"})
        try:
            yield
        finally:
            self._busy.release()

    async def _done(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return await run_in_threadpool(work)
        except _FORESEEN as error:
            raise Refusal(409, "learning", str(error)) from error
