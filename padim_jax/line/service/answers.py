"""What a request to score is answered with: decisions as JSON, or a map as PNG or NPZ."""

import io
import json
from typing import Any, Literal

import numpy as np
from PIL import Image

from padim_jax.lazy import extra
from padim_jax.line.judge import Loaded
from padim_jax.line.service.replies import JSONResponse
from padim_jax.line.service.uploads import Refusal
from padim_jax.line.service.worker import Answer, is_readable
from padim_jax.method.pictures import overlay
from padim_jax.runs.score import ScoredImage

with extra("serve"):
    from starlette.requests import Request
    from starlette.responses import Response

MapFormat = Literal["png", "npz"]
_BY_ACCEPT: dict[str, MapFormat] = {"image/png": "png", "application/x-npz": "npz"}
_TYPES: dict[MapFormat, str] = {"png": "image/png", "npz": "application/x-npz"}


def map_format(request: Request) -> MapFormat | None:
    """Which map a request wants instead of JSON: by ``?map=``, or as the first type that it accepts.

    Raises:
      Refusal: another one.
    """
    asked = request.query_params.get("map")
    if asked is None:
        first = request.headers.get("accept", "").split(",")[0].split(";")[0].strip().lower()
        return _BY_ACCEPT.get(first)
    if asked not in _TYPES:
        raise Refusal(400, "query", f"map={asked[:40]!r}, wanted png or npz")
    return asked


def one(answer: Answer) -> dict[str, Any]:
    """An image's decision as JSON has it."""
    record = answer.decision.record() if is_readable(answer.judged) else unreadable(answer)
    seconds = {"waited": round(answer.waited, 6), "computed": round(answer.computed, 6)}
    return record | {"is_new": answer.is_new, "seconds": seconds}


def unreadable(answer: Answer) -> dict[str, Any]:
    """What is said of an image that could not be read, which gets no decision."""
    found = answer.judged.decision
    return {"item": found.item, "source": found.source, "verdict": "unreadable", "reason": reason(answer)}


def reason(answer: Answer) -> str:
    """Why an image could not be read."""
    found = answer.judged.decision
    if found.verdict == "unreadable" and found.reason:
        return found.reason
    return "the file was cut short: it has not the end that its format wants"


def scored(answers: list[Answer], *, is_many: bool, wanted: MapFormat | None) -> Response:
    """The answer to a request to score.

    Args:
      answers: of its images, in order.
      is_many: whether they came as a form.
      wanted: the map instead of JSON.

    Raises:
      Refusal: no image could be read, or the map of several images or of one without a score is wanted.
    """
    if not any(is_readable(answer.judged) for answer in answers):
        text = "; ".join(f"{answer.judged.decision.item}: {reason(answer)}" for answer in answers)
        raise Refusal(422, "unreadable", text[:1000])
    if wanted is None:
        records = [one(answer) for answer in answers]
        return JSONResponse({"images": records} if is_many else records[0])
    (answer,) = answers
    if answer.judged.result is None:
        raise Refusal(422, "unreadable", f"the image has no map: {reason(answer)}")
    content = _picture(answer.state, answer.judged.result) if wanted == "png" else _arrays(answer, answer.judged.result)
    decision = answer.decision
    headers = {
        "x-padim-decision": decision.id,
        "x-padim-verdict": decision.verdict,
        "x-padim-score": repr(decision.score),
        "x-padim-p-value": repr(decision.p_value),
    }
    return Response(content, media_type=_TYPES[wanted], headers=headers)


def _picture(state: Loaded, result: ScoredImage) -> bytes:
    """The image as the network saw it, with its map over it."""
    calibration = state.model.calibration
    assert calibration is not None  # a model without one gives no verdicts
    low, high = calibration.colour_scale
    stream = io.BytesIO()
    Image.fromarray(overlay(result.image, result.anomaly_map, (float(low), float(high)))).save(stream, "PNG")
    return stream.getvalue()


def _arrays(answer: Answer, result: ScoredImage) -> bytes:
    """The map at crop size, float32, and the decision as JSON."""
    stream = io.BytesIO()
    text = np.array(json.dumps(one(answer)))
    np.savez(stream, anomaly_map=result.anomaly_map.astype(np.float32), decision=text)
    return stream.getvalue()
