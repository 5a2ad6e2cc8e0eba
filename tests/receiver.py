"""The other end of a webhook."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Receiver(HTTPServer):
    """A server that answers as it is told, then 200; keeps the headers and bodies that it gets."""

    def __init__(self, port: int = 0) -> None:
        self.got, self.answers = list[tuple[dict[str, str], dict[str, Any]]](), list[int]()
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/part"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def end(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def __exit__(self, *error: object) -> None:
        self.end()

    @property
    def items(self) -> list[str]:
        return [body["item"] for _, body in self.got]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        code = self.server.answers.pop(0) if self.server.answers else 200
        self.server.got.append((dict(self.headers), {**body, "answer": code}))
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass
