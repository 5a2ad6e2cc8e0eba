"""Files changed at random, and programs that read them: run as ``python -m tests.mutations WHAT FOLDER SEED COUNT``.

Each prints a line for every file that broke its promise and for nothing else; ``case`` in the folder holds the last file
tried, so that a crash can be traced.
"""

import io
import json
import re
import resource
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from PIL import Image

from padim_jax.config import PadimConfig
from tests import torch_files
from tests.image_files import chunk, exif, png, tiff

MOST_MEMORY = 1536  # MiB beyond what the process took before
_EXTREMES = [0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


def mutate(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """One to three changes: bits, bytes, lengths, cuts, parts of ``other``."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not changed:
            break
        # headers matter most
        place = int(rng.integers(min(len(changed), 200) if rng.random() < 0.6 else len(changed)))
        length = int(rng.integers(1, 40))
        match rng.integers(9):
            case 0:
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place : place + length] = rng.bytes(length)
            case 2 | 3:
                size, order = [(1, "B"), (2, "H"), (4, "I")][rng.integers(3)]
                value = _EXTREMES[rng.integers(len(_EXTREMES))] % 256**size
                changed[place : place + size] = struct.pack(("<" if rng.random() < 0.5 else ">") + order, value)
            case 4:
                del changed[place:]
            case 5:
                del changed[place : place + length]
            case 6:
                changed[place:place] = changed[place : place + length]
            case 7:
                changed[:place] = other[:place]
            case 8:
                begin = int(rng.integers(len(other)))
                changed[place : place + length] = other[begin : begin + length]
    return bytes(changed)


def summed(content: bytes) -> bytes:
    """A PNG whose checksums are right again, so that a change reaches the decoder."""
    done, place = content[:8], 8
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        body = content[place + 8 : place + 8 + length]
        done += struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        place += 12 + length
    return done


def announcing(rng: np.random.Generator, content: bytes) -> bytes:
    """A PNG, one of whose parts says that it is longer than it is."""
    places, place = [], 8
    while place + 12 <= len(content):
        places.append(place)
        place += 12 + struct.unpack_from(">I", content, place)[0]
    at = places[rng.integers(len(places))]
    return content[:at] + struct.pack(">I", [0xFFFF, 0x7F000000, 0xFF000000][rng.integers(3)]) + content[at + 4 :]


def random_pickle(rng: np.random.Generator) -> bytes:
    """Instructions of state dicts in any order, some of them repeated thousands of times."""
    pieces = [b")", b"\x85", b"\x86", b"(", b"t", b"]", b"a", b"e", b"}", b"s", b"u", b"N", b"K\x01", b"X\1\0\0\0a"]
    pieces += [b"q\0", b"h\0", b"ccollections\nOrderedDict\n", b"R", b"b", b"Q", b"ctorch._utils\n_rebuild_tensor_v2\n"]
    pieces += [b"}" + b")" + b"\x85" * 3000 + b"Ns", b"]" * 2000 + b"a" * 1999]
    drawn = rng.integers(len(pieces), size=rng.integers(1, 30))
    return b"\x80\2" + b"".join(pieces[one] * int(rng.choice([1, 1, 1, 5, 3000])) for one in drawn) + b"."


def images() -> dict[str, bytes]:
    """A small file of every kind that is read."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 56, 3), np.uint8)
    deep = rng.integers(0, 65536, (40, 56, 3), np.uint16)
    frames = [Image.fromarray(np.roll(pixels, index, 1)) for index in range(3)]

    def saved(kind: str, image: Image.Image = frames[0], **options: Any) -> bytes:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    film: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "rgb.png": png(pixels, before=chunk(b"eXIf", exif(6)) + chunk(b"zTXt", b"t\0\0" + zlib.compress(b"text"))),
        "deep.png": png(deep),
        "deep-grey.png": png(deep[..., 0]),
        "alpha.png": png(np.dstack([pixels, pixels[..., 0]])),
        "palette.png": saved("PNG", frames[0].quantize(16), transparency=3),
        "film.png": saved("PNG", **film),
        "plain.jpg": saved("JPEG", exif=turned),
        "progressive.jpg": saved("JPEG", progressive=True),
        "cmyk.jpg": saved("JPEG", frames[0].convert("CMYK")),
        "plain.bmp": saved("BMP"),
        "palette.bmp": saved("BMP", frames[0].quantize(16)),
        "plain.gif": saved("GIF"),
        "film.gif": saved("GIF", **film),
        "plain.tif": tiff(pixels),
        "deep.tif": tiff(deep, 6),
        "float.tif": tiff(deep[..., 0].astype(np.float32)),
        "alpha-deep.tif": tiff(np.dstack([deep, deep[..., 0]]), extra=2),
        "pages.tif": saved("TIFF", **film),
        "lzw.tif": saved("TIFF", compression="tiff_lzw"),
        "deflate.tif": saved("TIFF", Image.fromarray(deep[..., 0]), compression="tiff_adobe_deflate"),
        "jpeg.tif": saved("TIFF", compression="jpeg"),
        "big.tif": saved("TIFF", big_tiff=True),
        "lossy.webp": saved("WEBP", exif=turned),
        "lossless.webp": saved("WEBP", lossless=True),
        "film.webp": saved("WEBP", **film),
        "plain.ppm": b"P3 8 6 255\n" + b" ".join(b"%d" % value for value in pixels[:6, :8].ravel()),
        "deep-plain.ppm": b"P3 8 6 65535\n" + b" ".join(b"%d" % value for value in deep[:6, :8].ravel()),
        "raw.ppm": saved("PPM"),
        "deep.ppm": b"P6 56 40 65535\n" + deep.astype(">u2").tobytes(),
    }


def weights() -> dict[str, bytes]:
    """A small file of weights in every format."""
    state = {f"layer.{index}": np.arange(6, dtype=np.float32).reshape(2, 3) + index for index in range(4)}
    return {
        "zip.pth": torch_files.zip_format(state),
        "legacy.pth": torch_files.legacy_format(state),
        "some.safetensors": safetensors.numpy.save(state),
    }


def _try(path: Path, use: Callable[[Path], object], allowed: type[Exception]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        use(path)
    except allowed as error:
        if str(path) not in str(error):
            print(f"{path.name}: an error that does not name it: {error}")
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        print(f"{path.name}: {type(error).__name__}: {error}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > MOST_MEMORY:
        print(f"{path.name}: {grown:.0f} MiB")


def _cases(folder: Path, seed: int, count: int, originals: dict[str, bytes]) -> Iterator[Path]:
    rng, names = np.random.default_rng(seed), list(originals)
    for index in range(count):
        name, other = names[index % len(names)], names[rng.integers(len(names))]
        content = mutate(rng, originals[name], originals[other])
        if name.endswith(".png"):
            content = announcing(rng, originals[name]) if rng.random() < 0.15 else content
            content = summed(content) if rng.random() < 0.7 else content
        if name.endswith(".pth") and rng.random() < 0.2:
            zipped, pickled = name.startswith("zip"), random_pickle(rng)
            content = torch_files.zip_of(pickled, {}) if zipped else torch_files.legacy_header() + pickled
        path = folder / f"{index}-{name}"
        path.write_bytes(content)
        (folder / "case").write_text(path.name)
        yield path
        path.unlink()


def read_images(folder: Path, seed: int, count: int) -> None:
    """Each gives pixels or ``UnreadableImage``, by every way of reading."""
    import cv2  # noqa: F401 - loaded now, so that its memory counts as nobody's

    from padim_jax.images import UnreadableImage, read_image, read_roi
    from padim_jax.images.image import measure
    from padim_jax.images.survey import survey

    def stop(error: UnreadableImage) -> None:
        raise error

    eight = PadimConfig(image_size=(20, 28), crop_size=(16, 24))
    sixteen = PadimConfig(image_size=(20, 28), crop_size=(16, 24), value_range=(0, 65535), resize="pad")

    def roi(path: Path) -> None:
        try:
            read_roi(path, eight)
        except ValueError as error:
            if isinstance(error, UnreadableImage) or "leaves nothing to look at" not in str(error):
                raise

    uses: list[Callable[[Path], object]] = [
        measure,
        lambda path: list(survey([path], stop)),
        lambda path: read_image(path, eight, note=lambda path, text: None),
        lambda path: read_image(path, sixteen, note=lambda path, text: None),
        roi,
    ]
    for path in _cases(folder, seed, count, images()):
        for use in uses:
            _try(path, use, UnreadableImage)


def read_weights(folder: Path, seed: int, count: int) -> None:
    """Each gives finite memory's worth of arrays or ``CheckpointError``."""
    from weights_conversion import CheckpointError, read_checkpoint

    for path in _cases(folder, seed, count, weights()):
        _try(path, read_checkpoint, CheckpointError)


def load_models(folder: Path, seed: int, count: int, manifests: bool) -> None:
    """Each is refused with ``ArtifactError``, or loads and scores exactly as the original in ``folder/original`` does."""
    import padim_jax as padim

    original = folder / "original"
    config = padim.load(original).config
    pictures = np.random.default_rng(0).integers(0, 256, (2, *config.crop, 3), np.uint8)
    wanted = np.asarray(padim.score(padim.load(original), pictures).anomaly_map)
    rng = np.random.default_rng(seed)
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    changed = [name for name in files if (name.name == "model.json") == manifests]

    def use(path: Path) -> None:
        found = np.asarray(padim.score(padim.load(path), pictures).anomaly_map)
        if not np.array_equal(found, wanted):
            print(f"{path.name}: it was taken and scores differently")

    for index in range(count):
        name = changed[rng.integers(len(changed))]
        path = folder / f"{index}-{name.name}"
        shutil.copytree(original, path)
        (folder / "case").write_text(path.name)
        content = (original / name).read_bytes()
        if manifests and rng.random() < 0.5:
            (path / name).write_text(edit_number(rng, content.decode()))
        elif rng.random() < 0.1:
            (path / name).unlink()
        else:
            (path / name).write_bytes(mutate(rng, content, (original / files[rng.integers(len(files))]).read_bytes()))
        _try(path, use, padim.ArtifactError)
        shutil.rmtree(path)


def edit_number(rng: np.random.Generator, text: str) -> str:
    """One number of a JSON file replaced by another."""
    found = list(re.finditer(r"(?<=[:\[,\s])-?\d+(\.\d+)?([eE][-+]?\d+)?(?=[,\]}\s])", text))
    one = found[rng.integers(len(found))]
    instead = ["0", "-1", "1e308", "1e999", "NaN", "9" * 30, "2147483648", "0.5", "null", str(int(rng.integers(100)))]
    changed = text[: one.start()] + instead[rng.integers(len(instead))] + text[one.end() :]
    return changed if changed != text else json.dumps({"not": "a model"})


if __name__ == "__main__":
    what, where, seed, count = sys.argv[1:]
    programs: dict[str, Callable[[Path, int, int], None]] = {
        "images": read_images,
        "weights": read_weights,
        "arrays": partial(load_models, manifests=False),
        "manifests": partial(load_models, manifests=True),
    }
    programs[what](Path(where), int(seed), int(count))
