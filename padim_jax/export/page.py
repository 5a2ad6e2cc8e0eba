"""One HTML file that scores photos in a browser: the model, ONNX Runtime Web and the page itself."""

import base64
import gzip
import html
import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from padim_jax.artifact.arrays import first_line
from padim_jax.export.describe import ExportError
from padim_jax.export.examples import Example
from padim_jax.export.runtimes import DATA, FILES

PACKAGE, TESTED = "onnxruntime-web", "1.30.0"
# by what the page calls them: the code that finds its binary where the page puts it, and that binary
RUNTIMES: Mapping[str, tuple[str, str]] = {
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
}
LARGEST = 300 * 2**20  # bytes of a program: browsers end a text before 512 MiB
_MOST = 64 * 2**20  # bytes of a file of the package
_CALL = "export_model: ort_web"


def write_page(
    folder: Path, templates: Path, ort_web: Path, settings: Mapping[str, Any], examples: Sequence[Example]
) -> None:
    """Write ``browser/index.html`` of the program that lies in ``folder``.

    Args:
      folder: of the export.
      templates: where the page's own parts lie.
      ort_web: the package onnxruntime-web, as ``npm pack`` or ``npm install`` brings it: a file or a folder.
      settings: how photos are read and judged.
      examples: that the page checks itself by.

    Raises:
      ExportError: a program too large for a page; another package, or one of another layout.
    """
    program = folder / FILES["onnx"][0]
    size = program.stat().st_size
    if (data := folder / DATA).exists() or size > LARGEST:
        size += data.stat().st_size if data.exists() else 0
        raise ExportError(
            f"export_model: the program has {size / 2**20:.0f} MiB, and a page holds at most {LARGEST / 2**20:.0f}; "
            "compact the model first (padim compact)"
        )
    found = read_ort_web(ort_web)
    blocks = [
        f'<script type="application/octet-stream" id="{name}-{part}">{_packed(found[file])}</script>'
        for name, files in RUNTIMES.items()
        for part, file in zip(("code", "binary"), files, strict=True)
    ]
    record = {
        **settings,
        "padim_jax": version("padim-jax"),
        "ort": json.loads(found["package.json"])["version"],
        "examples": [{"png": _png(example), **example.record("")} for example in examples],
    }
    reading = (templates / "javascript" / "reading.mjs").read_text(encoding="utf-8")
    words = {
        "TITLE": html.escape(str(settings["title"])),
        "SETTINGS": json.dumps(record, allow_nan=False).replace("<", "\\u003c"),
        "MODEL": _packed(program.read_bytes()),
        "RUNTIMES": "\n".join(blocks),
        "READING": re.sub(r"(?m)^export ", "", reading),
        "SCRIPT": (templates / "browser" / "page.mjs").read_text(encoding="utf-8"),
    }
    page = (templates / "browser" / "index.html").read_text(encoding="utf-8")
    parts = re.split(r"@([A-Z]+)@", page)  # once, so that nothing in a part is taken for a name
    text = "".join(words[part] if index % 2 else part for index, part in enumerate(parts))
    (folder / "browser" / "index.html").write_text(text, encoding="utf-8", newline="\n")


def read_ort_web(place: Path) -> dict[str, bytes]:
    """Files of the package onnxruntime-web that a page needs, by name; nothing else of it is read.

    Raises:
      ExportError: another package, or one that lacks a file; says what to do.
    """
    names = ["package.json", *(f"dist/{name}" for files in RUNTIMES.values() for name in files)]
    try:
        found = _read_folder(place, names) if place.is_dir() else _read_packed(place, names)
        facts = json.loads(found["package.json"])
        if facts["name"] != PACKAGE or not re.fullmatch(r"[\w.+-]{1,40}", facts["version"]):
            raise ValueError(f"it is the package {facts['name']!r:.80}")
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ExportError(
            f"{_CALL}: {place} is not the package {PACKAGE} of npm ({first_line(error)}); npm pack {PACKAGE}@{TESTED} "
            "writes it"
        ) from error
    return found


def _read_folder(place: Path, names: Sequence[str]) -> dict[str, bytes]:
    found = {}
    for name in names:
        if (size := (place / name).stat().st_size) > _MOST:
            raise ValueError(f"{name} has {size} bytes")
        found[Path(name).name] = (place / name).read_bytes()
    return found


def _read_packed(place: Path, names: Sequence[str]) -> dict[str, bytes]:
    found = dict[str, bytes]()
    with tarfile.open(place, "r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix("package/")
            if name not in names or not member.isfile():
                continue
            if member.size > _MOST:
                raise ValueError(f"{name} has {member.size} bytes")
            stream = archive.extractfile(member)
            assert stream is not None
            found[Path(name).name] = stream.read()
    if missing := [name for name in names if Path(name).name not in found]:
        raise ValueError(f"it has no {missing[0]}")
    return found


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def _png(example: Example) -> str:
    with io.BytesIO() as stream:
        Image.fromarray(example.pixels).save(stream, "PNG")
        return base64.b64encode(stream.getvalue()).decode()
