"""A cheap camera: JPEGs one after another over HTTP, which can go away and come back."""

import http.server
import io
import itertools
import socket
import threading
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image


class MjpegCamera:
    """Shows its frames again and again at ``http://127.0.0.1:PORT/stream.mjpg``, while it is on.

    Attributes:
      port: the same each time it is on.
      interval: seconds between frames.
      status: of HTTP.
      is_frozen: whether it accepts connections and sends nothing.
    """

    def __init__(self, frames: Sequence[np.ndarray], interval: float = 0.02) -> None:
        self._frames, self.interval, self.status, self.is_frozen = [_jpeg(one) for one in frames], interval, 200, False
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._server: http.server.ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream.mjpg"

    def on(self) -> None:
        camera, self._is_on = self, True

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(camera.status)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for content in itertools.cycle(camera._frames):
                        while camera.is_frozen and camera._is_on:
                            time.sleep(0.01)
                        if not camera._is_on or camera.status != 200:
                            return
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
                        self.wfile.write(head.encode() + content + b"\r\n")
                        time.sleep(camera.interval)
                except OSError:
                    return

            def log_message(self, format: str, *args: object) -> None:
                pass

        http.server.ThreadingHTTPServer.allow_reuse_address = True
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def off(self) -> None:
        self._is_on = False
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()
