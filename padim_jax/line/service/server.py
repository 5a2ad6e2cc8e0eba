"""A service on a port, from its start to a graceful end."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from padim_jax.lazy import extra
from padim_jax.line.observer import Observer
from padim_jax.line.service.app import Parts, make_app
from padim_jax.line.service.connections import Listener, make_room, patient, refusals
from padim_jax.line.service.drift import DriftNews
from padim_jax.line.service.front import Log
from padim_jax.line.service.limits import ServiceLimits
from padim_jax.line.service.metrics import Metrics
from padim_jax.line.service.models import Models
from padim_jax.line.service.photos import Photos
from padim_jax.line.service.security import Gate, is_loopback, read_token
from padim_jax.line.service.worker import Worker
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates

with extra("serve"):
    import uvicorn

_REFUSED = "padim_refused_total"
_IDLE = 30  # seconds for which an idle connection is held
_END = 60  # seconds that requests in hand have to finish


@dataclass(frozen=True)
class Binding:
    """Where a service listens, and who may ask.

    Attributes:
      host, port: to listen at; port 0 takes a free one.
      token_file: of the token that clients have to show; None for none, which only a loopback address may have.
      certificate, key: PEM files for TLS; None for plain HTTP.
      host_names: names that clients may know the service by, beside addresses and localhost.

    Raises:
      ValueError: an address beyond this machine without a token, or a certificate without a key or the reverse.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    host_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and self.token_file is None:
            raise ValueError(
                f"--host {self.host}: other machines reach it, so anybody on the network could read and change the "
                "decisions; give --token-file (and --tls-cert and --tls-key where the network is not trusted), or "
                "leave it at 127.0.0.1"
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("--tls-cert and --tls-key go together: one is given, the other is not")

    @property
    def gate(self) -> Gate:
        """Who may ask.

        Raises:
          ValueError: as :func:`padim_jax.line.service.security.read_token`.
        """
        token = None if self.token_file is None else read_token(self.token_file)
        return Gate(token, is_local=is_loopback(self.host), hosts=self.host_names)


@dataclass(frozen=True)
class Service:
    """What to serve.

    Attributes:
      models: a model, or a folder of models.
      store: of the decisions.
      binding: where to listen.
      limits: of requests.
      rates: of the verdicts.
      memory: bytes that loaded models may take.
      batch_size: most images computed at once.
      keep_photos: how many photos of the last decisions to keep; 0 for none.
      learn: whether people may change models from the page.
    """

    models: Path
    store: Path
    binding: Binding
    limits: ServiceLimits
    rates: Rates
    memory: int
    batch_size: int = 16
    keep_photos: int = 0
    learn: bool = False


def serve(
    service: Service,
    *,
    log: Log,
    remark: Callable[[str], None] = lambda text: None,
    ready: Callable[[str], None] = lambda address: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Serve until asked to end; requests that are in hand then are finished.

    Args:
      service: what to serve.
      log: takes one record a request.
      remark: told in a sentence what is worth knowing.
      ready: told the address once models are loaded and compiled.
      stopped: asked again and again whether to end.

    Raises:
      ArtifactError: no model, or none that can be used.
      ValueError: no token in its file.
      StoreError: the store can't be opened.
      OSError: the port is taken, or a folder can't be written.
    """
    gate, metrics, limits = service.binding.gate, Metrics(), service.limits
    with ExitStack() as stack:
        size = service.batch_size
        models = Models(service.models, service.memory, service.rates, batch_size=size, remark=remark)
        store = stack.enter_context(Store.open(service.store))
        photos = None
        if service.keep_photos:
            photos = Photos(service.store.with_name(f"{service.store.name}.photos"), service.keep_photos)
            stack.callback(photos.close)
        keep = None if photos is None else photos.keep
        options = {"queue": limits.queue, "batch_size": size, "metrics": metrics, "keep": keep, "remark": remark}
        worker = Worker(models, store, **options)
        room = make_room(remark)
        refused = refusals(partial(metrics.count, _REFUSED, reason="connections"), remark)
        listener = stack.enter_context(Listener(_listen(service.binding), room.files, refused))
        observer = Observer(store, DriftNews(remark).tell, remark)
        stack.callback(observer.end)
        app = make_app(Parts(models, store, worker, photos, gate, limits, metrics, log, size, service.learn, observer))
        worker.start()
        stack.callback(worker.stop)
        address = f"{'http' if service.binding.key is None else 'https'}://{_name(listener)}/"
        protocol = patient(limits.receive, partial(metrics.count, _REFUSED, reason="not taken"))
        config = _config(service.binding, app, protocol, room.most)
        asyncio.run(_serve(config, listener, worker, lambda: ready(address), stopped))
    if worker.failure is not None:
        raise worker.failure


class _Server(uvicorn.Server):
    """A server that leaves signals to the command."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    config: uvicorn.Config,
    listener: socket.socket,
    worker: Worker,
    ready: Callable[[], None],
    stopped: Callable[[], bool],
) -> None:
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    is_told = False
    while not serving.done():
        if worker.is_ready and not is_told:
            ready()
            is_told = True
        if stopped() or worker.failure is not None:
            server.should_exit = True
        await asyncio.wait([serving], timeout=0.1)
    await serving


def _config(binding: Binding, app: object, protocol: type[asyncio.Protocol], most: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type] - an ASGI application
        http=protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nobody may say that he is another
        server_header=False,
        date_header=False,
        limit_concurrency=most,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=_END,
        h11_max_incomplete_event_size=16 * 1024,
        ssl_certfile=binding.certificate,
        ssl_keyfile=binding.key,
    )


def _listen(binding: Binding) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in binding.host else socket.AF_INET
        return socket.create_server((binding.host.strip("[]"), binding.port), family=family, backlog=256)
    except OSError as error:
        why = (error.strerror or str(error)).split(" (")[0]  # asyncio's words name the address once more
        raise OSError(f"serve: can't listen at {binding.host}:{binding.port} ({why}); choose another --port") from error


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
