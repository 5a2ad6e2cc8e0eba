"""The routes by which images are to be taken out of a model: those of decisions, or files that somebody sends.

They propose, and :mod:`padim_jax.line.service.proposals` does it. A file that was sent is kept only while the change is
computed, in ``STORE.received``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from padim_jax.lazy import extra
from padim_jax.line.forgetting import Named, Removal, propose
from padim_jax.line.judge import Photo
from padim_jax.line.service.decisions import known
from padim_jax.line.service.front import read_body
from padim_jax.line.service.limits import ServiceLimits
from padim_jax.line.service.proposals import Proposals
from padim_jax.line.service.received import Received
from padim_jax.line.service.uploads import Names, Refusal, check_readable, read_photos

with extra("serve"):
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response


class Forgetting:
    """Proposes to take images out.

    Args:
      proposals: where it is kept until somebody says that it is to be made.
      limits: of what is sent.

    Raises:
      OSError: files that an earlier service has received, and left, can't be removed.
    """

    def __init__(self, proposals: Proposals, limits: ServiceLimits) -> None:
        self._proposals, self._limits, self._is_receiving = proposals, limits, False
        self._received = Received(proposals.store.path.with_name(f"{proposals.store.path.name}.received"))

    async def decisions(self, request: Request) -> Response:
        """Compute what the model would be without the photos of some decisions, and what that changes."""
        body = await self._proposals.asked(request, "decisions")
        ids = body.get("decisions")
        if not (isinstance(ids, list) and all(isinstance(one, str) for one in ids) and ids):
            raise Refusal(400, "json", "decisions wants a list of ids of decisions, one or more")
        if len(ids) > self._limits.images:
            raise Refusal(413, "images", f"{len(ids)} decisions, wanted at most {self._limits.images} at a time")
        return await self._proposals.propose(
            request, lambda name, path: self._propose(name, path, self._find(name, ids))
        )

    async def files(self, request: Request) -> Response:
        """Compute what the model would be without some files, and what that changes."""
        self._proposals.gate.check_own(request.headers)
        self._proposals.check(request, known(request, ("who",)))
        if self._is_receiving:  # one at a time: nothing is computed meanwhile, and each takes memory
            raise Refusal(409, "busy", "other files are being received; try again later", {"retry-after": "5"})
        self._is_receiving = True
        try:
            body = await read_body(request, self._limits.body, self._limits.receive)
            kind = request.headers.get("content-type", "")
            photos = await run_in_threadpool(read_photos, kind, body, Names("", ""), self._limits)
            await run_in_threadpool(check_readable, photos, self._limits)
            return await self._proposals.propose(request, lambda name, path: self._forget(name, path, photos))
        finally:
            self._is_receiving = False

    def _forget(self, name: str, path: Path, photos: Sequence[Photo]) -> Removal:
        with self._received.files([photo.content or b"" for photo in photos]) as files:
            gone = [Named(photo.item, photo.digest, file) for photo, file in zip(photos, files, strict=True)]
            return self._propose(name, path, gone)

    def _find(self, name: str, ids: Sequence[str]) -> list[Named]:
        """The photos of decisions.

        Raises:
          Refusal: no such decision, one by another model, or one whose photo is not kept.
        """
        photos, found = self._proposals.photos, list[Named]()
        if photos is None:
            raise Refusal(409, "photos", "no photos are kept; send the files themselves")
        for id in ids:
            try:
                decision = self._proposals.store.decision(id)
            except KeyError as error:
                raise Refusal(404, "json", f"there is no decision {id[:40]!r}") from error
            if decision.model != name:
                raise Refusal(409, "model", f"{decision.item} was decided by {decision.model}, not by {name}")
            if not photos.has(decision):
                text = f"the photo of {decision.item} is not kept any more; send its file instead"
                raise Refusal(409, "photos", text)
            found.append(Named(decision.item, decision.image_digest, photos.path(decision)))
        return found

    def _propose(self, name: str, path: Path, gone: Sequence[Named]) -> Removal:
        all_of = self._proposals
        photos, changes = all_of.photos, all_of.store.changes
        recent = [] if photos is None else all_of.kept(name, None)[0]

        def learned(calibration: str, state: str) -> Mapping[str, Path | None]:
            digests = changes.learned(name, calibration, state)
            return {digest: photos and photos.file(digest) for digest in digests}

        return propose(path, gone, recent, all_of.models.rates, learned=learned, batch_size=all_of.batch_size)
