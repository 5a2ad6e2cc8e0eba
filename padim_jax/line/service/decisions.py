"""What people see of decisions and say about them: lists, photos, corrections, and what other rates would have done."""

import math
from collections.abc import Mapping
from typing import Any, cast

from padim_jax.lazy import extra
from padim_jax.line.history import history
from padim_jax.line.preview import preview
from padim_jax.line.records import VERDICTS, Correction, Decision, Verdict
from padim_jax.line.service.front import parse_json, read_body
from padim_jax.line.service.metrics import Metrics
from padim_jax.line.service.models import Models
from padim_jax.line.service.photos import Photos
from padim_jax.line.service.replies import JSONResponse
from padim_jax.line.service.security import Gate
from padim_jax.line.service.uploads import Refusal
from padim_jax.line.store import Overtaken, Store
from padim_jax.line.verdict import NoVerdicts, Rates

with extra("serve"):
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response

_MOST = 500  # decisions in one answer
_PREVIEWED = 1000
_BODY = 64 * 1024  # bytes of a correction
_SECONDS = 10.0
_TEXT = 2000  # characters of a note
_FILTERS = ("verdict", "model", "source", "since", "until", "corrected", "after", "before", "limit")


class Decisions:
    """The routes to decisions; each takes a request and gives its answer.

    Args:
      store: of the decisions.
      models: for what other rates would do.
      photos: None where none are kept.
      gate: of what may change something.
      metrics: count corrections.
    """

    def __init__(self, store: Store, models: Models, photos: Photos | None, gate: Gate, metrics: Metrics) -> None:
        self._store, self._models, self._photos, self._gate, self._metrics = store, models, photos, gate, metrics

    def listed(self, request: Request) -> Response:
        """Decisions, the newest first."""
        query = known(request, _FILTERS)
        corrected = query.get("corrected")
        try:
            found = self._store.decisions(
                verdict=_verdict("verdict", query["verdict"]) if "verdict" in query else None,
                model=query.get("model"),
                source=query.get("source"),
                since=query.get("since"),
                until=query.get("until"),
                corrected=None if corrected is None else _flag("corrected", corrected),
                after=integer(query, "after", 0, 0, 2**62),
                before=integer(query, "before", 2**62, 0, 2**62),
                limit=integer(query, "limit", 50, 1, _MOST),
                newest_first=True,
            )
            records = [self._record(decision) for decision in found]
        except ValueError as error:
            raise Refusal(400, "query", str(error)) from error
        return JSONResponse({"decisions": records, "counts": self._store.count(model=query.get("model"))})

    def shown(self, request: Request) -> Response:
        """One decision, with all that people said of it, and the changes of its model that were about its image."""
        decision = self._find(request)
        corrections = [vars(correction) for correction in self._store.corrections(decision.id)]
        return JSONResponse(self._record(decision) | {"corrections": corrections, "changes": self._history(decision)})

    def photo(self, request: Request) -> Response:
        """The photo of a decision."""
        content, media_type = self._kept("photo", request)
        return Response(content, media_type=media_type, headers={"cache-control": "private, max-age=3600"})

    def overlay(self, request: Request) -> Response:
        """The picture of its map."""
        content = self._kept("overlay", request)
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    async def correct(self, request: Request) -> Response:
        """Note what a decision should have been, if nobody said something else of it since it was seen."""
        body = await change_of(self._gate, request, ("verdict", "who", "note", "seen"))
        decision = await run_in_threadpool(self._find, request)
        verdict, who = _verdict("verdict", body.get("verdict")), text_of(body, "who", 100, needed=True)
        if verdict == "unreadable":
            raise Refusal(400, "json", "verdict='unreadable', wanted good, look or bad")
        note = text_of(body, "note", _TEXT)
        seen = body.get("seen")
        if "seen" in body and not (type(seen) is int and 0 <= seen <= 2**62):
            raise Refusal(400, "json", "seen wants the number of the correction that was seen, 0 for none")

        def correct() -> Correction:
            return self._store.correct(decision.id, verdict, who=who, note=note, seen=seen)

        try:
            made = await run_in_threadpool(correct)
        except Overtaken as error:
            raise Refusal(409, "overtaken", str(error)) from error
        self._metrics.count("padim_corrections_total", verdict=verdict)
        return _correction(made)

    async def undo(self, request: Request) -> Response:
        """Undo a correction."""
        body = await change_of(self._gate, request, ("who",))
        who, number = text_of(body, "who", 100, needed=True), request.path_params["number"]
        if number > 2**62:
            raise Refusal(404, "path", f"there is no correction {number}")
        try:
            return _correction(await run_in_threadpool(lambda: self._store.undo(number, who=who)))
        except KeyError as error:
            raise Refusal(404, "path", str(error.args[0])) from error
        except ValueError as error:
            raise Refusal(409, "undone", str(error)) from error

    def previewed(self, request: Request) -> Response:
        """What other rates would have done to the last decisions of a model."""
        query = known(request, ("false_alarm_rate", "look_rate", "limit"))
        name, limit = request.path_params["name"], integer(query, "limit", _PREVIEWED, 1, _PREVIEWED)
        loaded = self._models.current(name)
        if loaded is None:
            raise Refusal(409, "not loaded", f"the model {name!r} is not loaded; it is once an image asks for it")
        try:
            rates = Rates(_rate(query, "false_alarm_rate", 0.01), _rate(query, "look_rate", 0.05))
            decider = loaded.decider.at(loaded.model.calibration, rates)
        except (NoVerdicts, ValueError) as error:
            raise Refusal(400, "query", str(error)) from error
        found = self._store.decisions(model=name, limit=limit, newest_first=True)
        told = {"bad_up_to": decider.bad_up_to, "look_up_to": decider.look_up_to, "step": decider.step}
        return JSONResponse(preview(found, decider, loaded.digest).record() | told | {"remark": decider.remark})

    def _record(self, decision: Decision) -> dict[str, Any]:
        number = None if decision.correction is None else decision.correction.number
        has_photo = self._photos is not None and self._photos.has(decision)
        more = {"correction": number, "has_photo": has_photo, "is_in_model": self._models.knows(decision)}
        return decision.record() | more

    def _history(self, decision: Decision) -> list[dict[str, Any]]:
        """How the image of a decision came into its model and out of it."""
        digest, all_of = decision.image_digest, self._store.changes
        changes = all_of.of_image(decision.model, digest) if digest else []
        if not changes:
            return []
        is_in_model = self._models.holds(decision.model, digest)
        if all_of.of_image(decision.model, digest) != changes:
            is_in_model = None  # it was changed just now
        return history(digest, changes, is_in_model)

    def _find(self, request: Request) -> Decision:
        try:
            return self._store.decision(request.path_params["id"])
        except KeyError as error:
            raise Refusal(404, "path", "there is no such decision") from error

    def _kept(self, what: str, request: Request) -> Any:
        decision = self._find(request)
        if self._photos is None:
            raise Refusal(404, "path", "no photos are kept; padim serve --keep-photos N keeps the last N")
        try:
            return getattr(self._photos, what)(decision)
        except KeyError as error:
            raise Refusal(404, "path", str(error.args[0])) from error


async def change_of(gate: Gate, request: Request, names: tuple[str, ...]) -> dict[str, Any]:
    """The members of a request that changes something.

    Raises:
      Refusal: as of :meth:`padim_jax.line.service.security.Gate.check_change`; no JSON, or another member.
    """
    gate.check_change(request.headers)
    body = parse_json(await read_body(request, _BODY, _SECONDS))
    if other := set(body) - set(names):
        raise Refusal(400, "json", f"unknown {sorted(other)[0][:40]!r}, wanted {', '.join(names)}")
    return body


def known(request: Request, names: tuple[str, ...]) -> dict[str, str]:
    """What stands in a request's address, each once.

    Raises:
      Refusal: a name that is not known, or is there twice.
    """
    found = request.query_params
    for name in found:
        if name not in names:
            raise Refusal(400, "query", f"unknown {name[:40]!r} in the address, wanted {', '.join(names)}")
        if len(found.getlist(name)) > 1:
            raise Refusal(400, "query", f"{name} is in the address more than once")
    return dict(found)


def integer(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A number in a request's address.

    Raises:
      Refusal: none, or one out of bounds.
    """
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise Refusal(400, "query", f"{name}={text[:40]!r}, wanted an integer from {least} to {most}")
    return int(text)


def _rate(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise Refusal(400, "query", f"{name}={text[:40]!r}, wanted a number above 0 and below 1")
    return value


def _flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise Refusal(400, "query", f"{name}={text[:40]!r}, wanted true or false")
    return text == "true"


def _verdict(name: str, value: object) -> Verdict:
    if value not in VERDICTS:
        raise Refusal(400, "query", f"{name}={str(value)[:40]!r}, wanted one of {', '.join(VERDICTS)}")
    return cast(Verdict, value)


def text_of(body: Mapping[str, Any], name: str, most: int, *, needed: bool = False) -> str:
    """A text in the body of a request.

    Raises:
      Refusal: something else; one that is longer than ``most`` characters, or empty where it is needed.
    """
    value = body.get(name, "")
    is_text = isinstance(value, str) and (value.replace("\n", "").isprintable())  # what is not can't be stored
    if not is_text or len(value) > most or (needed and not value.strip()):
        raise Refusal(400, "json", f"{name} wants a text of {1 if needed else 0} to {most} characters")
    return value


def _correction(made: Correction) -> Response:
    return JSONResponse(vars(made))
