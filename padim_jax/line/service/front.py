"""What every request passes first: checks, headers, counts and a line in the log."""

import asyncio
import json
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from padim_jax.lazy import extra
from padim_jax.line.service.metrics import Metrics
from padim_jax.line.service.models import NoSuchModel
from padim_jax.line.service.replies import JSONResponse
from padim_jax.line.service.security import HEADERS, Gate, RateLimit
from padim_jax.line.service.uploads import Refusal

with extra("serve"):
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LONGEST_ADDRESS = 4096  # bytes
_MOST_HEADERS = 16 * 1024  # bytes
_REFUSED_IN_PATHS = (b"%2f", b"%5c", b"%00", b"\\")  # names hold none of these
_PATIENCE = 2.0  # seconds for which the rest of a refused body is thrown away, so that its sender hears why
_GONE = 499  # status in the log of a request whose client went away

Log = Callable[[Mapping[str, Any]], None]


class Front:
    """Checks requests before the application sees them, and logs how they ended.

    Args:
      app: the application; its :class:`Refusal` are turned into answers here.
      gate: who may ask.
      rate: how often.
      public: paths that need no token.
      metrics: count.
      log: takes one record a request.
    """

    def __init__(
        self, app: ASGIApp, gate: Gate, rate: RateLimit, public: frozenset[str], metrics: Metrics, log: Log
    ) -> None:
        self._app, self._gate, self._rate, self._public, self._metrics, self._log = (
            *(app, gate, rate),
            *(public, metrics, log),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":  # a start and an end pass; nothing here speaks WebSocket
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        start, status, failure, reason = time.monotonic(), 0, "", ""
        logged = dict[str, Any]()
        scope["app"], scope["state"] = self, {"logged": logged}  # with an app in it, the router raises what it refuses
        is_refused_early, is_received = True, False

        async def receive_on() -> Message:
            nonlocal is_received
            message = await receive()
            is_received = message["type"] != "http.request" or not message.get("more_body")
            return message

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
            is_refused_early = False
            await self._app(scope, receive_on, send_on)
        except (Refusal, HTTPException, NoSuchModel) as error:
            refusal = error if isinstance(error, Refusal) else _in_words(error, scope)
            reason, failure = refusal.reason, str(refusal)
            self._metrics.count("padim_refused_total", reason=reason)
            if reason != "slow" and not is_received:
                await _drain(scope, receive)
            await _answer(refusal)(scope, receive, send_on)
        except ClientDisconnect:
            status = status or _GONE
        except Exception as error:  # the service goes on; the log says what failed
            failure = "".join(traceback.format_exception(error))
            if not status:
                text = "the service failed at this request; its log says at what"
                await JSONResponse({"error": text}, 500)(scope, receive, send_on)
        finally:
            seconds, route = time.monotonic() - start, _route(scope, is_refused_early)
            self._metrics.count("padim_requests_total", route=route, status=str(status))
            self._metrics.observe("padim_request_seconds", seconds, route=route)
            client = scope.get("client") or ("", 0)
            record = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "client": client[0],
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "seconds": round(seconds, 4),
            }
            record |= {"refused": reason} if reason else {}
            record |= {"error": failure} if failure else {}
            self._log(record | logged)

    def _check(self, scope: Scope) -> None:
        raw = scope.get("raw_path") or b""
        if len(raw) + len(scope.get("query_string", b"")) > _LONGEST_ADDRESS:
            raise Refusal(414, "address", f"the address is longer than {_LONGEST_ADDRESS} bytes")
        if any(part in raw.lower() for part in _REFUSED_IN_PATHS) or not scope["path"].isprintable():
            raise Refusal(400, "address", "the path holds an encoded slash, a backslash or what can't be printed")
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > _MOST_HEADERS:
            raise Refusal(431, "header", f"the headers take more than {_MOST_HEADERS} bytes")
        for name in ("host", "origin", "authorization", "content-type"):
            if len(headers.getlist(name)) > 1:
                raise Refusal(400, "header", f"the header {name} is there more than once")
        self._gate.check_host(headers)
        self._gate.check_origin(scope["method"], scope.get("scheme", "http"), headers)
        self._rate.check((scope.get("client") or ("", 0))[0])
        if scope["path"] not in self._public:
            self._gate.check_token(headers)


def _in_words(error: HTTPException | NoSuchModel, scope: Scope) -> Refusal:
    """What the router says of a request."""
    if isinstance(error, NoSuchModel):
        return Refusal(404, "model", str(error))
    if error.status_code == 405:
        text = f"{scope['method'][:20]} is not done here; {(error.headers or {}).get('Allow', '')} is"
        return Refusal(405, "method", text, error.headers)
    return Refusal(error.status_code, "path", f"nothing is at {scope['path'][:200]}; GET /openapi.json lists what is")


def _answer(refusal: Refusal) -> Response:
    # its connection ends, as the rest of the request may still be on the way
    headers = {"connection": "close", **refusal.headers}
    return JSONResponse({"error": str(refusal)}, refusal.status, headers=headers)


async def read_body(
    request: Request, most: int, seconds: float, take: Callable[[int], None] = lambda size: None
) -> bytes:
    """The body of a request, within limits of bytes and time.

    Args:
      request: whose body is not read yet.
      most: bytes.
      seconds: within which it has to arrive.
      take: told of the bytes that it takes, before it is read where it announces them; may raise a refusal.

    Raises:
      Refusal: it is larger, or does not arrive in time.
    """
    announced = int(request.headers.get("content-length", "0"))  # the server has checked that it is a number
    if announced > most:
        raise Refusal(413, "body", f"the body has {announced} bytes, wanted at most {most}")
    take(announced)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refusal(413, "body", f"the body has more than {most} bytes")
                if len(body) > announced:
                    take(len(body))
    except TimeoutError as error:
        raise Refusal(408, "slow", f"the body did not arrive within {seconds:g} seconds") from error
    return bytes(body)


def parse_json(body: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
      Refusal: no JSON, or none of an object.
    """
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "json", f"the body is no JSON: {error}"[:300]) from error
    if not isinstance(found, dict):
        raise Refusal(400, "json", f"the body is a {type(found).__name__}, wanted an object")
    return found


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


async def _drain(scope: Scope, receive: Receive) -> None:
    """Throw away what is left of a body for a moment: an answer is lost where the connection ends before that."""
    headers = Headers(scope=scope)
    if "expect" in headers or not ({"content-length", "transfer-encoding"} & set(headers.keys())):
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except TimeoutError:
        return


def _route(scope: Scope, is_refused_early: bool) -> str:
    """The route's name, of which there are few; paths that nobody serves are one."""
    endpoint = scope.get("endpoint")
    return "refused" if is_refused_early else getattr(endpoint, "__name__", "none").strip("_")
