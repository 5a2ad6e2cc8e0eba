"""The page and what it is made of: a fixed set of files of the package, read once."""

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Any

from padim_jax.lazy import extra

with extra("serve"):
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

_FOLDER = Path(__file__).parent.parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {"/" if path.name == "index.html" else f"/{path.name}": path for path in sorted(_FOLDER.glob("*.*"))}
DOCUMENTATION = "/docs"


def page_routes() -> list[Route]:
    """Routes to the page's files."""
    return [Route(address, _route(path), methods=["GET"]) for address, path in FILES.items()]


def _route(path: Path) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()

    async def page(request: Request) -> Response:
        return Response(content, media_type=_TYPES[path.suffix])

    return page


def documentation(description: dict[str, Any]) -> str:
    """A page that lists what an OpenAPI description has."""
    rows = list[str]()
    for address, operations in description["paths"].items():
        for method, operation in operations.items():
            answers = ", ".join(f"{status} {about['description']}" for status, about in operation["responses"].items())
            parameters = "".join(
                f"<dt><code>{escape(each['name'])}</code></dt><dd>{escape(each['description'])}</dd>"
                for each in operation.get("parameters", ())
            )
            rows.append(
                f"<section><h2><code>{method.upper()} {escape(address)}</code></h2>"
                f"<p>{escape(operation['summary'])}</p><dl>{parameters}</dl><p>{escape(answers)}</p></section>"
            )
    title = escape(description["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{title}</title><link rel="stylesheet" href="/style.css"><body class="docs"><main><h1>{title}</h1>'
        f"<p>{escape(description['info']['description'])}</p>{''.join(rows)}</main></body></html>"
    )
