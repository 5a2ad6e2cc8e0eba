"""The service as an ASGI application."""

from dataclasses import dataclass
from importlib.metadata import version

from padim_jax.lazy import extra
from padim_jax.line.observer import Observer
from padim_jax.line.service.decisions import Decisions
from padim_jax.line.service.drift import Drifts
from padim_jax.line.service.forgetting import Forgetting
from padim_jax.line.service.front import Front, Log
from padim_jax.line.service.learning import Learning
from padim_jax.line.service.limits import ServiceLimits
from padim_jax.line.service.metrics import CONTENT_TYPE, Metrics
from padim_jax.line.service.models import Models
from padim_jax.line.service.openapi import openapi
from padim_jax.line.service.pages import DOCUMENTATION, FILES, documentation, page_routes
from padim_jax.line.service.photos import Photos
from padim_jax.line.service.proposals import Proposals
from padim_jax.line.service.replies import JSONResponse
from padim_jax.line.service.scoring import Scoring
from padim_jax.line.service.security import Gate, RateLimit
from padim_jax.line.service.worker import Worker
from padim_jax.line.store import Store

with extra("serve"):
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route, Router

_PUBLIC = frozenset({*FILES, "/healthz", "/readyz", "/openapi.json", DOCUMENTATION})  # nothing of a line is in these


@dataclass(frozen=True)
class Parts:
    """What a service is made of.

    Attributes:
      models: that judge.
      store: of decisions.
      worker: computes.
      photos: kept; None where none are.
      gate: who may ask.
      limits: of requests.
      metrics: counts.
      log: takes one record a request.
      batch_size: images computed at once.
      learns: whether models may be changed.
      observer: looks for drift.
    """

    models: Models
    store: Store
    worker: Worker
    photos: Photos | None
    gate: Gate
    limits: ServiceLimits
    metrics: Metrics
    log: Log
    batch_size: int
    learns: bool
    observer: Observer


def make_app(parts: Parts) -> Front:
    """The application, whose worker the caller starts and stops."""
    scoring = Scoring(parts.models, parts.worker, parts.limits)
    proposals = Proposals(
        *(parts.store, parts.models, parts.photos, parts.gate),
        is_allowed=parts.learns,
        batch_size=parts.batch_size,
    )
    learning, forgetting = Learning(proposals), Forgetting(proposals, parts.limits)
    decisions = Decisions(parts.store, parts.models, parts.photos, parts.gate, parts.metrics)
    drifts = Drifts(parts.observer)
    description = openapi(version("padim-jax"))
    page = documentation(description)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readiness(request: Request) -> Response:
        is_ready = parts.worker.is_ready
        return JSONResponse({"status": "ready" if is_ready else "loading and compiling"}, 200 if is_ready else 503)

    async def metrics(request: Request) -> Response:
        numbers = {
            "padim_queue_length": len(parts.worker),
            "padim_requests_in_hand": scoring.in_hand,
            "padim_request_bytes_in_hand": scoring.bodies.held,
            "padim_models_loaded": parts.models.loaded,
            "padim_ready": int(parts.worker.is_ready),
        }
        gauges = {name: {(): value} for name, value in numbers.items()} | drifts.gauges()
        return PlainTextResponse(parts.metrics.text(gauges), headers={"content-type": CONTENT_TYPE})

    async def description_(request: Request) -> Response:
        return JSONResponse(description)

    async def docs(request: Request) -> Response:
        return Response(page, media_type="text/html")

    routes = [
        Route("/models", scoring.listed),
        Route("/models/{name}/score", scoring.score, methods=["POST"]),
        Route("/models/{name}/preview", decisions.previewed),
        Route("/models/{name}/learning", learning.propose, methods=["POST"]),
        Route("/models/{name}/learning/apply", proposals.apply, methods=["POST"]),
        Route("/models/{name}/learning/undoable", proposals.undoable),
        Route("/models/{name}/learning/undo", proposals.undo, methods=["POST"]),
        Route("/models/{name}/forgetting", forgetting.decisions, methods=["POST"]),
        Route("/models/{name}/forgetting/files", forgetting.files, methods=["POST"]),
        Route("/decisions", decisions.listed),
        Route("/decisions/{id}", decisions.shown),
        Route("/decisions/{id}/photo", decisions.photo),
        Route("/decisions/{id}/overlay", decisions.overlay),
        Route("/decisions/{id}/corrections", decisions.correct, methods=["POST"]),
        Route("/corrections/{number:int}/undo", decisions.undo, methods=["POST"]),
        Route("/drift", drifts.listed),
        Route("/healthz", health),
        Route("/readyz", readiness),
        Route("/metrics", metrics),
        Route("/openapi.json", description_),
        Route(DOCUMENTATION, docs),
        *page_routes(),
    ]
    router = Router(routes, redirect_slashes=False)
    rate = RateLimit(parts.limits.rate)
    return Front(router, parts.gate, rate, _PUBLIC, parts.metrics, parts.log)
