"""``padim serve``."""

import json
from pathlib import Path
from typing import Any

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.commands.terminal import interruption, say, tell, wrong_use
from padim_jax.line.schema import StoreError
from padim_jax.line.service.limits import ServiceLimits
from padim_jax.line.service.server import Binding, Service, serve
from padim_jax.line.verdict import Rates

_MEGA = 10**6


def serve_command(
    models: Path,
    store: Path,
    host: str,
    port: int,
    look_rate: float,
    false_alarm_rate: float | None,
    keep_photos: int,
    learn: bool,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    host_names: tuple[str, ...],
    memory: int,
    queue: int,
    max_body: int,
    max_in_hand: int,
    max_megapixels: float,
    receive_seconds: float,
    client_rate: float | None,
    batch_size: int,
) -> None:
    """Do what ``padim serve`` says it does."""
    with wrong_use(but=(ArtifactError, StoreError, FileExistsError)):
        service = Service(
            models,
            store,
            Binding(host, port, token_file, tls_cert, tls_key, host_names),
            ServiceLimits(
                body=max_body,
                in_hand=max_in_hand,
                pixels=round(max_megapixels * _MEGA),
                receive=receive_seconds,
                queue=queue,
                rate=client_rate,
            ),
            Rates(false_alarm_rate, look_rate),
            memory=memory,
            batch_size=batch_size,
            keep_photos=keep_photos,
            learn=learn,
        )
        with interruption() as stopped:
            serve(
                service,
                log=_log,
                remark=say,
                ready=lambda address: tell(
                    f"ready: {models} at {address}, decisions go to {store}, requests in hand may take "
                    f"{max_in_hand / _MEGA:.0f} MB"
                ),
                stopped=stopped,
            )


def _log(record: Any) -> None:
    say(json.dumps(record, ensure_ascii=True))
