"""The files in a multipart body that lies in memory already, within limits; python-multipart reads the format."""

from dataclasses import dataclass, field

from padim_jax.lazy import extra

with extra("serve"):
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

_MOST_HEADERS = 8 * 1024  # bytes of one part's headers


class BadForm(ValueError):
    """A multipart body that can't be read, or holds too much."""


@dataclass(frozen=True)
class File:
    """A file of a form.

    Attributes:
      name: as the client has it, without folders; a label, and no path.
      content_type: as the client has it.
      content: its bytes.
    """

    name: str
    content_type: str
    content: bytes


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)


class _Reader:
    """Collects parts as the parser finds them."""

    def __init__(self, most: int) -> None:
        self.most, self.parts, self.is_done = most, list[_Part](), False
        self._name, self._value, self._size = bytearray(), bytearray(), 0

    def begin(self) -> None:
        if len(self.parts) == self.most:
            raise BadForm(f"more than {self.most} parts; send the others in another request")
        self.parts.append(_Part())
        self._size = 0

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def header_end(self) -> None:
        self.parts[-1].headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].content += data[start:end]

    def end(self) -> None:
        self.is_done = True

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > _MOST_HEADERS:
            raise BadForm(f"the headers of a part take more than {_MOST_HEADERS} bytes")


def read_files(content_type: str, body: bytes, most: int) -> list[File]:
    """The files of a form, in their order; every part has to be one.

    Args:
      content_type: of the request, with the boundary.
      body: of the request.
      most: parts at most.

    Raises:
      BadForm: no boundary; a damaged or unfinished body; a part that is no file; more parts; no part.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise BadForm("the content type names no boundary of 1 to 70 characters")
    reader = _Reader(most)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.begin,
                "on_header_field": reader.header_field,
                "on_header_value": reader.header_value,
                "on_header_end": reader.header_end,
                "on_part_data": reader.data,
                "on_end": reader.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadForm(f"the multipart body is damaged: {error}") from error
    if not reader.is_done:
        raise BadForm("the multipart body ends before its last boundary")
    if not reader.parts:
        raise BadForm("the multipart body has no part")
    return [_file(part) for part in reader.parts]


def _file(part: _Part) -> File:
    _, options = parse_options_header(part.headers.get(b"content-disposition", b""))
    if b"filename" not in options:
        name = options.get(b"name", b"").decode("utf-8", "replace")
        raise BadForm(f"the part {name!r} is no file; send images as files, and settings in the address")
    name = options[b"filename"].decode("utf-8", "replace").replace("\\", "/").rsplit("/", 1)[-1]
    content_type = part.headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip().lower()
    return File(name[:200], content_type, bytes(part.content))
