"""The route that judges images."""

import asyncio
import time
from dataclasses import asdict

from padim_jax.lazy import extra
from padim_jax.line.judge import Photo
from padim_jax.line.schema import StoreError
from padim_jax.line.service.answers import map_format, scored
from padim_jax.line.service.bodies import Bodies, Held
from padim_jax.line.service.decisions import known
from padim_jax.line.service.front import read_body
from padim_jax.line.service.limits import FORM_COPIES, ServiceLimits
from padim_jax.line.service.models import Models
from padim_jax.line.service.replies import JSONResponse
from padim_jax.line.service.uploads import Names, Refusal, check_readable, read_photos
from padim_jax.line.service.worker import Answer, QueueFull, Stopped, Worker

with extra("serve"):
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response

_AGAIN = {"retry-after": "1"}  # seconds; a queue of images empties in about that


class Scoring:
    """The routes to models.

    Args:
      models: that judge.
      worker: computes.
      limits: of requests.

    Attributes:
      in_hand: requests that are being received, wait or are computed.
      bodies: bytes that they take.
    """

    def __init__(self, models: Models, worker: Worker, limits: ServiceLimits) -> None:
        self._models, self._worker, self._limits, self.in_hand = models, worker, limits, 0
        self.bodies = Bodies(limits.in_hand)

    def listed(self, request: Request) -> Response:
        """The models."""
        return JSONResponse({"models": [asdict(state) for state in self._models.states()]})

    async def score(self, request: Request) -> Response:
        """Judge the images of a request."""
        start, name = time.monotonic(), request.path_params["name"]
        self._models.check(name)
        names, wanted = Names.of(known(request, ("source", "item", "map"))), map_format(request)
        if self.in_hand >= self._limits.queue:
            raise Refusal(503, "queue", f"{self.in_hand} requests are in hand already; try again later", _AGAIN)
        self.in_hand += 1
        try:
            content_type = request.headers.get("content-type", "")
            is_form = content_type.lower().startswith("multipart/")
            with self.bodies.holding() as held:
                photos = await self._photos(request, content_type, names, held, FORM_COPIES if is_form else 1)
                if wanted is not None and len(photos) > 1:
                    raise Refusal(400, "query", f"a map is of one image, and {len(photos)} came")
                await run_in_threadpool(check_readable, photos, self._limits)
                answers = await self._judge(name, photos)
        finally:
            self.in_hand -= 1
        verdicts = ",".join(answer.judged.decision.verdict for answer in answers)
        request.state.logged |= {"model": name, "verdicts": verdicts}
        response = scored(answers, is_many=is_form, wanted=wanted)
        response.headers["server-timing"] = f"total;dur={1000 * (time.monotonic() - start):.1f}"
        return response

    async def _photos(self, request: Request, content_type: str, names: Names, held: Held, copies: int) -> list[Photo]:
        limits = self._limits
        body = await read_body(request, limits.body, limits.receive, lambda size: held.take(copies * size))
        photos = await run_in_threadpool(read_photos, content_type, body, names, limits)
        held.take(sum(len(photo.content or b"") for photo in photos))  # what the form took besides is free again
        return photos

    async def _judge(self, name: str, photos: list[Photo]) -> list[Answer]:
        try:
            futures = self._worker.put(name, photos)
        except QueueFull as error:
            raise Refusal(503, "queue", f"{error}; try again later", _AGAIN) from error
        except Stopped as error:
            raise Refusal(503, "stopping", str(error), _AGAIN) from error
        found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        answers = list[Answer]()
        for one in found:
            if isinstance(one, Answer):
                answers.append(one)
            elif isinstance(one, StoreError | Stopped):
                raise Refusal(503, "stopping" if isinstance(one, Stopped) else "store", str(one), _AGAIN) from one
            elif isinstance(one, LookupError):  # its model went away meanwhile
                raise one
            else:
                raise Refusal(503, "model", f"the model {name!r} can't be used: {one}") from one
        return answers
