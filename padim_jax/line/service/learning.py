"""The routes by which a model learns from corrections: proposed, looked at, made, and undone."""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from padim_jax.artifact.folder import undo
from padim_jax.lazy import extra
from padim_jax.line.learning import Changed, Kept, NothingToLearn, Proposal, apply, propose
from padim_jax.line.service.decisions import change_of, text_of
from padim_jax.line.service.models import Models
from padim_jax.line.service.photos import Photos
from padim_jax.line.service.replies import JSONResponse
from padim_jax.line.service.security import Gate
from padim_jax.line.service.uploads import Refusal
from padim_jax.line.store import Store

with extra("serve"):
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response

_RECENT = 1000
_FORESEEN = (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError)


class Learning:
    """The routes that change models.

    Args:
      store: of the decisions.
      models: that learn.
      photos: of the decisions; None where none are kept.
      gate: of what may change something.
      is_allowed: whether the service was started to change models at all.
      batch_size: images computed at once.
    """

    def __init__(
        self, store: Store, models: Models, photos: Photos | None, gate: Gate, *, is_allowed: bool, batch_size: int
    ) -> None:
        self._store, self._models, self._photos, self._gate = store, models, photos, gate
        self._is_allowed, self._batch_size, self._busy = is_allowed, batch_size, threading.Lock()
        self._proposal: tuple[str, Proposal] | None = None

    async def propose(self, request: Request) -> Response:
        """Compute what the model would be with the corrections, and what it would change."""
        await self._asked(request)

        def work() -> dict[str, Any]:
            with self._alone():
                self._proposal = None
                name = request.path_params["name"]
                path = self._models.folder(name)
                corrected, lost = self._kept(name, True)
                recent, _ = self._kept(name, None)
                missing = f"{lost} corrections are left out: the photos of their decisions are not kept any more"
                try:
                    made = propose(path, corrected, recent, self._models.rates, batch_size=self._batch_size)
                except NothingToLearn as error:
                    raise NothingToLearn(f"{error}; {missing}" if lost else str(error)) from error
                if lost:
                    made = replace(made, remarks=(*made.remarks, f"{missing} (--keep-photos N keeps more)"))
                self._proposal = secrets.token_hex(16), made
                return made.record() | {"proposal": self._proposal[0]}

        return JSONResponse(await self._done(work))

    async def apply(self, request: Request) -> Response:
        """Make the change that was proposed last."""
        body = await self._asked(request, "proposal")
        wanted = text_of(body, "proposal", 64, needed=True)

        def work() -> dict[str, Any]:
            with self._alone():
                found, path = self._proposal, self._models.folder(request.path_params["name"])
                if found is None or found[0] != wanted or found[1].path != path:
                    raise Changed("learn: this change is not the one that was proposed last; propose it again")
                self._proposal = None
                apply(found[1])
                return found[1].record()

        return JSONResponse(await self._done(work))

    async def undo(self, request: Request) -> Response:
        """Bring the model back as it was before its last change; once more, and the change is there again."""
        await self._asked(request)

        def work() -> dict[str, Any]:
            with self._alone():
                self._proposal = None
                manifest = undo(self._models.folder(request.path_params["name"]))
                return {"images": len(manifest.get("images") or ())}

        return JSONResponse(await self._done(work))

    def _kept(self, name: str, corrected: bool | None) -> tuple[list[Kept], int]:
        """The last decisions of a model whose photos are kept, and how many others there are among them."""
        photos = self._photos
        if photos is None:
            raise Refusal(409, "photos", "no photos are kept to learn from; padim serve --keep-photos N keeps some")
        found = self._store.decisions(model=name, corrected=corrected, limit=_RECENT, newest_first=True)
        decisions, kept = list(found), list[Kept]()
        for decision in decisions:
            with suppress(KeyError):  # not kept, or not any more
                kept.append(Kept(decision, photos.path(decision)))
        return kept, len(decisions) - len(kept)

    async def _asked(self, request: Request, *names: str) -> dict[str, Any]:
        body = await change_of(self._gate, request, ("who", *names))
        who = text_of(body, "who", 100, needed=True)
        self._models.check(request.path_params["name"])
        if not self._is_allowed:
            raise Refusal(403, "learning", "this service does not change models; padim serve --learn does")
        request.state.logged |= {"who": who, "model": request.path_params["name"]}
        return body

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
