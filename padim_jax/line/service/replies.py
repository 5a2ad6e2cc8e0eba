"""Answers as JSON, whatever the names in them hold."""

import json
from typing import Any

from padim_jax.lazy import extra

with extra("serve"):
    from starlette import responses


class JSONResponse(responses.JSONResponse):
    """JSON in ASCII: names of files need not be UTF-8, and each of their other bytes has an escape of its own."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
