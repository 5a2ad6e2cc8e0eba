"""AnomaVision's server, as ``line.py`` measures it beside ours.

Not a benchmark by itself. AnomaVision's package (see ``peers.py``) needs ``pip install fastapi easydict onnxscript``
beside what is listed there, and its wheel holds no server: that is ``apps/api/fastapi_app.py`` in its source
distribution (``pip download --no-deps --no-binary :all: anomavision==3.6.2``), which ``line.py --anomavision`` names.
It serves the model as its documentation has it, exported to ONNX by its own exporter.
anomalib's package has no server; its Studio, which has one, is no package.
"""

import http.client
import importlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peers import import_torch

_START = 120.0  # seconds
_BOUNDARY = "part"
_HEAD = (
    f"--{_BOUNDARY}\r\n"
    'Content-Disposition: form-data; name="file"; filename="part.png"\r\n'
    "Content-Type: image/png\r\n\r\n"
)


def export(side: Any, folder: Path) -> Path:
    """Write a fitted AnomaVision model of ``peers.py`` as its exporter does."""
    folder.mkdir()
    side.torch.save(side.model, folder / "model.pt")
    exporter = importlib.import_module("anomavision.export").ModelExporter
    written = exporter(folder / "model.pt", folder, logging.getLogger("anomavision"), "cpu").export_onnx()
    if written is None:
        raise RuntimeError("AnomaVision could not export its model to ONNX; its log says why")
    return written


@contextmanager
def serving_anomavision(app: Path, model: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """AnomaVision's server, once it is ready, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    names = {"MODEL_DATA_PATH": str(model.parent), "MODEL_FILE": model.name, "DEVICE": "cpu"}
    environment = os.environ | {f"ANOMAVISION_{name}": value for name, value in names.items()}
    log = model.with_suffix(".log")
    command = [sys.executable, __file__, str(app), str(port)]
    with (
        log.open("w") as stream,
        subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, text=True) as process,
    ):
        try:
            _wait(process, port, log)
            yield process, port
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[str], port: int, log: Path) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise RuntimeError(f"AnomaVision's server did not start:\n{log.read_text()}")


def ask_anomavision(content: bytes, connection: http.client.HTTPConnection) -> None:
    """Send one image, and wait for its score, without pictures."""
    body = _HEAD.encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    connection.request("POST", "/predict?include_visualizations=false", body, headers)
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {said.decode()}")


def main() -> int:
    """Serve, in a process whose torchvision can be imported."""
    app, port = Path(sys.argv[1]), int(sys.argv[2])
    import_torch()
    uvicorn: Any = importlib.import_module("uvicorn")
    uvicorn.run(f"{app.stem}:app", app_dir=str(app.parent), host="127.0.0.1", port=port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
