"""What the service understands, as OpenAPI 3.1 describes it; a test compares it with the routes."""

from collections.abc import Iterable
from typing import Any

from padim_jax.line.records import COLUMNS, VERDICTS

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": ["number", "null"]}
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}}}
_REFUSED = {
    "400": "the request is malformed",
    "401": "the token is missing or wrong",
    "403": "a page of another site asked",
    "404": "there is no such thing",
    "409": "it can't be done as things are",
    "413": "it is larger than allowed",
    "415": "another content type",
    "422": "no image can be read",
    "429": "more requests than one client may send",
    "503": "the queue, or the memory for requests, is full; see Retry-After",
}
_TYPES: dict[str, Schema] = {
    "sequence": {"type": "integer"},
    "score": _NUMBER,
    "p_value": _NUMBER,
    "verdict": {"enum": list(VERDICTS)},
    "regions": {"type": ["array", "null"], "items": {"type": "object"}},
}
_DECISION: Schema = {
    "type": "object",
    "description": "A decision; those of an image that can't be read has item, source, verdict and reason alone.",
    "properties": {name: _TYPES.get(name, {"type": ["string", "null"]}) for name in COLUMNS}
    | {"is_new": {"type": "boolean"}, "seconds": {"type": "object"}},
}
_IMAGE = {"schema": {"type": "string", "format": "binary"}}


def openapi(version: str) -> dict[str, Any]:
    """The description, for a service of this version."""
    filters = {
        "verdict": "only decisions of this verdict",
        "model": "only those by this model",
        "source": "only those on images of this source",
        "since": "only from this day or time on, in ISO 8601",
        "until": "only before this day or time",
        "corrected": "true for those that people corrected, false for the others",
        "after": "only those with a higher sequence",
        "before": "only those with a lower sequence",
        "limit": "how many at most, up to 500",
    }
    rates = {
        "false_alarm_rate": "share of good images that may be called bad",
        "look_rate": "share of good images that may not be called good",
        "limit": "how many decisions to look at, up to 1000",
    }
    scoring = {
        "source": "what the camera is called; http where it is not given",
        "item": "what the part is called; the file's name, or the digest of its bytes, where it is not given",
        "map": "png or npz: answer with the map instead of JSON",
    }
    body = {
        "content": {
            "image/*": _IMAGE,
            "application/octet-stream": _IMAGE,
            "multipart/form-data": {"schema": {"type": "object", "additionalProperties": _IMAGE["schema"]}},
        },
        "required": True,
    }
    correction = {
        "verdict": {"enum": ["good", "look", "bad"]},
        "who": {"type": "string", "maxLength": 100},
        "note": {"type": "string", "maxLength": 2000},
        "seen": {
            "type": "integer",
            "minimum": 0,
            "description": "number of the correction that stood when the person looked, 0 for none; where another one "
            "stands by now, the answer is 409",
        },
    }
    change = ("X-Padim",)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "padim serve",
            "version": version,
            "description": "Images in, verdicts out. Errors are JSON with one member, error, in words. Requests that "
            "change something want the content type application/json and the header X-Padim: 1.",
        },
        "components": {
            "schemas": {"Decision": _DECISION},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/models": {"get": _get("The models, their digests and the p-values of their verdicts.")},
            "/models/{name}/score": {
                "post": _operation(
                    "Judge an image, or several as the files of a form, and record the decisions.",
                    _parameters(("name",), scoring),
                    "the decision, or as images those of a form",
                    _REFUSED,
                    body,
                )
            },
            "/models/{name}/preview": {
                "get": _get(
                    "What other rates would have done to the last decisions of a model as it is now.",
                    _parameters(("name",), rates),
                    ("400", "404"),
                )
            },
            "/models/{name}/learning": {
                "post": _change(
                    "Compute the model with the parts that people called good, and what it would change.",
                    _parameters(("name",), {}, change),
                    {"who": correction["who"]},
                )
            },
            "/models/{name}/learning/apply": {
                "post": _change(
                    "Make the change of the model that was proposed last.",
                    _parameters(("name",), {}, change),
                    {"who": correction["who"], "proposal": _TEXT},
                )
            },
            "/models/{name}/learning/undo": {
                "post": _change(
                    "Bring the model back as it was before its last change, if it still is the one based_on names.",
                    _parameters(("name",), {}, change),
                    {"who": correction["who"], "based_on": _TEXT},
                )
            },
            "/models/{name}/learning/undoable": {
                "get": _get(
                    "What undo would do: the change that it takes back, or null for one made outside the service.",
                    _parameters(("name",), {}),
                    ("404",),
                )
            },
            "/models/{name}/forgetting": {
                "post": _change(
                    "Compute the model without the photos of some decisions, and what that would change.",
                    _parameters(("name",), {}, change),
                    {"who": correction["who"], "decisions": {"type": "array", "items": _TEXT}},
                )
            },
            "/models/{name}/forgetting/files": {
                "post": _operation(
                    "Compute the model without some of the files it was fitted on, and what that would change.",
                    _parameters(("name",), {"who": "the person"}, change),
                    "done",
                    {status: text for status, text in _REFUSED.items() if status not in ("429", "503")},
                    body,
                )
            },
            "/decisions": {"get": _get("Decisions, the newest first.", _parameters((), filters), ("400",))},
            "/decisions/{id}": {
                "get": _get("One decision and all corrections of it.", _parameters(("id",), {}), ("404",))
            },
            "/decisions/{id}/photo": {
                "get": _get("Its photo, where photos are kept.", _parameters(("id",), {}), ("404",))
            },
            "/decisions/{id}/overlay": {
                "get": _get("Its map, transparent, to lie over the photo.", _parameters(("id",), {}), ("404",))
            },
            "/decisions/{id}/corrections": {
                "post": _change("Say what a decision should have been.", _parameters(("id",), {}, change), correction)
            },
            "/corrections/{number}/undo": {
                "post": _change("Undo a correction.", _parameters(("number",), {}, change), {"who": correction["who"]})
            },
            "/drift": {
                "get": _get(
                    "Whether the images of each source of each model have drifted: in what, where and since when. "
                    "source is null where some are followed together, and source_name is what to show in either case."
                )
            },
            "/healthz": {"get": _get("Whether the process serves at all; needs no token.")},
            "/readyz": {"get": _get("Whether models are loaded and compiled; needs no token.", (), ("503",))},
            "/metrics": {"get": _get("Numbers of the service, as Prometheus reads them.")},
            "/openapi.json": {"get": _get("This description; needs no token.")},
        },
    }


def _parameters(path: Iterable[str], query: dict[str, str], headers: Iterable[str] = ()) -> list[Schema]:
    found: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT, "description": f"the {name}"} for name in path
    ]
    found += [{"name": name, "in": "query", "schema": _TEXT, "description": about} for name, about in query.items()]
    return found + [
        {"name": name, "in": "header", "required": True, "schema": {"const": "1"}, "description": "1"}
        for name in headers
    ]


def _operation(
    summary: str, parameters: Iterable[Schema], done: str, refused: dict[str, str], body: Schema | None = None
) -> Schema:
    answers: dict[str, Schema] = {"200": {"description": done}}
    answers |= {status: {"description": text, "content": _ERROR} for status, text in refused.items()}
    operation: Schema = {"summary": summary, "parameters": list(parameters), "responses": answers}
    return operation if body is None else operation | {"requestBody": body}


def _get(summary: str, parameters: Iterable[Schema] = (), refused: Iterable[str] = ()) -> Schema:
    return _operation(summary, parameters, "found", {status: _REFUSED[status] for status in refused})


def _change(summary: str, parameters: Iterable[Schema], properties: dict[str, Schema]) -> Schema:
    required = [name for name in properties if name not in ("note", "based_on", "seen")]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    body = {"content": {"application/json": {"schema": schema}}, "required": True}
    refused = {status: _REFUSED[status] for status in ("400", "401", "403", "404", "409", "415")}
    return _operation(summary, parameters, "done", refused, body)
