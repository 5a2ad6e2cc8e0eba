"""The route by which a model learns from corrections: it proposes; :mod:`padim_jax.line.service.proposals` does it."""

from dataclasses import replace
from pathlib import Path

from padim_jax.artifact.manifest import manifest_checksum, read_manifest
from padim_jax.lazy import extra
from padim_jax.line.learning import Lesson, NothingToLearn, propose
from padim_jax.line.service.proposals import Proposals

with extra("serve"):
    from starlette.requests import Request
    from starlette.responses import Response


class Learning:
    """Proposes what corrections teach.

    Args:
      proposals: where it is kept until somebody says that it is to be made.
    """

    def __init__(self, proposals: Proposals) -> None:
        self._proposals = proposals

    async def propose(self, request: Request) -> Response:
        """Compute what the model would be with the corrections, and what it would change."""
        await self._proposals.asked(request)
        return await self._proposals.propose(request, self._compute)

    def _compute(self, name: str, path: Path) -> Lesson:
        all_of = self._proposals
        corrected, lost = all_of.kept(name, True)
        recent, _ = all_of.kept(name, None)
        missing = f"{lost} corrections are left out: the photos of their decisions are not kept any more"
        changes, state = all_of.store.changes, manifest_checksum(read_manifest(path))
        taken_out = changes.taken_out(name) | changes.taken_out_elsewhere(name, state)
        options = {"taken_out": taken_out, "batch_size": all_of.batch_size}
        try:
            made = propose(path, corrected, recent, all_of.models.rates, **options)
        except NothingToLearn as error:
            raise NothingToLearn(f"{error}; {missing}" if lost else str(error)) from error
        if lost:
            made = replace(made, remarks=(*made.remarks, f"{missing} (--keep-photos N keeps more)"))
        return made
