"""From the body of a request to images that may be decoded: sizes are looked at first."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from padim_jax.images import UnreadableImage
from padim_jax.images.decode import open_header
from padim_jax.images.folder import digest_of
from padim_jax.line.judge import Photo
from padim_jax.line.service.limits import ServiceLimits
from padim_jax.line.service.multipart import BadForm, read_files

SOURCE = "http"  # of images whose request names no other
_LONGEST = 200  # characters of a name
_NO_FORM = ("application/octet-stream", "")


class Refusal(Exception):
    """A request that is refused.

    Attributes:
      status: of HTTP.
      reason: a word for the count of refused requests.
      headers: of the answer.
    """

    def __init__(self, status: int, reason: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})


@dataclass(frozen=True)
class Names:
    """What a request calls its images.

    Attributes:
      source: the camera.
      item: the part; empty for the file's name, or where it has none, the digest of its bytes.
    """

    source: str
    item: str

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Names":
        """The names in a request's address.

        Raises:
          Refusal: one that is too long or can't be printed.
        """
        for name in ("source", "item"):
            value = query.get(name, "")
            if len(value) > _LONGEST or not value.isprintable():
                text = f"{name} has {len(value)} characters, wanted at most {_LONGEST} that can be printed"
                raise Refusal(400, "query", text)
        return cls(query.get("source") or SOURCE, query.get("item", ""))


def read_photos(content_type: str, body: bytes, names: Names, limits: ServiceLimits) -> list[Photo]:
    """Images of a request, none of which announces more pixels than it may.

    Args:
      content_type: of the request.
      body: of the request.
      names: of source and item.
      limits: of pixels and images.

    Raises:
      Refusal: another content type; no image; more pixels or images than allowed.
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        try:
            files = [(file.name, file.content) for file in read_files(content_type, body, limits.images)]
        except BadForm as error:
            raise Refusal(413 if " parts;" in str(error) else 400, "form", str(error)) from error
    elif kind.startswith("image/") or kind in _NO_FORM:
        files = [("", body)]
    else:
        raise Refusal(
            415, "content type", f"content type {kind[:80]!r}, wanted image/…, application/octet-stream or multipart"
        )
    if names.item and len(files) > 1:
        raise Refusal(400, "query", f"item names one image, and {len(files)} came; give each file its name instead")
    return [_photo(names, name, content, limits) for name, content in files]


def check_readable(photos: Sequence[Photo], limits: ServiceLimits) -> None:
    """Look at the sizes that images announce.

    Raises:
      Refusal: one with more pixels than allowed; or all of them no images.
    """
    reasons = list[str]()
    for photo in photos:
        try:
            opened = open_header(photo.path, io.BytesIO(photo.content or b""))
        except UnreadableImage as error:
            reasons.append(f"{photo.item}: {error.reason}")
            if "megapixels" in error.reason:
                raise Refusal(413, "pixels", reasons[-1]) from error
            continue
        pixels = opened.width * opened.height
        if pixels > limits.pixels:
            text = f"{photo.item} has {pixels / 1e6:.1f} megapixels, wanted at most {limits.pixels / 1e6:.1f}"
            raise Refusal(413, "pixels", text)
    if len(reasons) == len(photos):
        raise Refusal(422, "unreadable", "; ".join(reasons)[:1000])


def _photo(names: Names, name: str, content: bytes, limits: ServiceLimits) -> Photo:
    if not content:
        raise Refusal(400, "empty", "an image of 0 bytes" + (f": {name}" if name else ""))
    item = names.item or (name if name.isprintable() else "") or digest_of(content)
    return Photo(names.source, item, Path(item), content=content)
