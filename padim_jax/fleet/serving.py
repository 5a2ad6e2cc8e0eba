"""Score with many models: each loaded when an image asks for it, all within a budget of bytes, on one network."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image

from padim_jax.artifact import load, resident_bytes
from padim_jax.config import PadimConfig
from padim_jax.images import UnreadableImage, read_image
from padim_jax.images.decode import Note
from padim_jax.images.image import centre_crop, resize
from padim_jax.method.checks import check_images
from padim_jax.method.programs import judge
from padim_jax.method.records import Padim, Scores
from padim_jax.method.scoring import score
from padim_jax.runs.regions import RegionSearch
from padim_jax.runs.result_folder import Failed
from padim_jax.runs.score import ScoredImage, fill_up, filled_size, score_files
from padim_jax.runs.watch import Advance

T = TypeVar("T")
Item = TypeVar("Item")

WINDOW = 256  # images of a stream that are looked at together, so that those of one model are scored in batches
_FORESEEN = (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError)  # of one model: RuntimeError is XLA's


class Fleet:
    """Models by name, of which those used last are kept loaded.

    Models of equal settings run one compiled program, and models of equal weights share one network.

    Attributes:
      folder: of the models, each in a folder of its name, as ``padim fit-many`` writes them.
      budget: bytes that loaded models may take, their shared networks apart.
      loads: how often a model was loaded.

    >>> padim.save(model, folder / "camera-1")
    >>> fleet = padim.fleet.Fleet(folder, budget=2**30)
    >>> fleet.model("camera-1").embedding.grid
    (8, 12)
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder, self.budget, self.loads = folder, budget, 0
        self._loaded: OrderedDict[str, tuple[Padim, int]] = OrderedDict()
        self._configs: dict[str, PadimConfig] = {}
        self._scales: dict[str, tuple[float, float] | None] = {}
        self._thresholds: dict[str, float | None] = {}

    @property
    def held(self) -> int:
        """Bytes that loaded models take."""
        return sum(size for _, size in self._loaded.values())

    def model(self, name: str) -> Padim:
        """The model called ``name``, loaded if it is not; those not used for longest make room for it.

        Raises:
          ValueError: it alone takes more than the budget.
          ArtifactError: as :func:`padim_jax.load`.
        """
        if name not in self._loaded:
            size = resident_bytes(self.folder / name)
            if size > self.budget:
                raise ValueError(
                    f"Fleet: model {name!r} takes {size / 1e6:.1f} MB, more than the budget of "
                    f"{self.budget / 1e6:.1f} MB; raise it, or padim compact the model"
                )
            while self._loaded and self.held + size > self.budget:
                self._loaded.popitem(last=False)
            model = load(self.folder / name)
            calibration = model.calibration
            self._loaded[name], self._configs[name] = (model, size), model.config
            self._scales[name], self._thresholds[name] = None, None
            if calibration is not None:
                low, high = calibration.colour_scale
                self._scales[name], self._thresholds[name] = (float(low), float(high)), float(calibration.threshold)
            self.loads += 1
        self._loaded.move_to_end(name)
        return self._loaded[name][0]

    def colour_scale(self, name: str) -> tuple[float, float] | None:
        """Values at the ends of the heat maps' colours of a model that was loaded; None if it is not calibrated."""
        return self._scales[name]

    def threshold(self, name: str) -> float | None:
        """Score above which images of a model that was loaded are anomalous; None if it is not calibrated."""
        return self._thresholds[name]

    def config(self, name: str) -> PadimConfig:
        """Settings of a model that was loaded."""
        return self._configs[name]

    def score(
        self,
        stream: Iterable[tuple[str, UInt8[Array | np.ndarray, "height width 3"] | str | os.PathLike[str]]],
        *,
        batch_size: int = 16,
        window: int = WINDOW,
        note: Note | None = None,
    ) -> Iterator[tuple[str, Scores]]:
        """Score a mixed stream, each image by the model it names.

        Args:
          stream: names of models, and images: files, or uint8 RGB arrays. An array of the model's ``config.crop_size``
            is taken as it is, one of another size is resized and cropped as files are.
          batch_size: most images of one model to compute at once.
          window: images to wait for, so that those of one model come together; 1 waits for none.
          note: of files, as of :func:`padim_jax.images.load_batches`.

        Yields:
          In the stream's order, the name and the :class:`padim_jax.Scores` of one image, on the host.

        Raises:
          TypeError, ValueError: as :func:`padim_jax.score`; as :meth:`model`; a size below 1.
          UnreadableImage: a file that can't be read (a ``ValueError``).
          ArtifactError: as :meth:`model`.
        """
        _check_sizes("Fleet.score", batch_size, window)

        def score_images(name: str, images: Sequence[Array | np.ndarray | str | os.PathLike[str]]) -> list[Scores]:
            model = self.model(name)
            calibration, uncalibrated, results = model.calibration, replace(model, calibration=None), list[Scores]()
            for first in range(0, len(images), batch_size):
                batch = np.stack([_read_pixels(model, image, note) for image in images[first : first + batch_size]])
                scores = jax.device_get(score(uncalibrated, fill_up(batch, filled_size(len(batch), batch_size))))
                if calibration is not None:
                    scores = judge(calibration, scores)
                results += [jax.tree.map(lambda a, i=i: a[i : i + 1], scores) for i in range(len(batch))]
            return results

        yield from self._route(stream, window, score_images)

    def score_files(
        self,
        routes: Iterable[tuple[str, Path]],
        *,
        batch_size: int = 16,
        window: int = WINDOW,
        failed: Failed | None = None,
        advance: Advance = lambda count: None,
        note: Note | None = None,
        regions: RegionSearch | None = None,
    ) -> Iterator[tuple[str, ScoredImage]]:
        """Score image files, each by the model it is given with.

        :func:`padim_jax.runs.score.score_files` does the same with one model.

        Args:
          routes: names of models and files.
          batch_size: as of :meth:`score`.
          window: as of :meth:`score`.
          failed: told of every file that gets no score: it can't be read, its model can't be loaded, or gives no finite
            score. None raises instead.
          advance: told of every file.
          note: as of :func:`padim_jax.images.load_batches`.
          regions: as of :func:`padim_jax.runs.score.score_files`.

        Yields:
          In the routes' order, the name and the result of each file that has one.

        Raises:
          ValueError: a size below 1.
          UnreadableImage, ValueError, ArtifactError, FloatingPointError: what ``failed`` would be told.
        """
        _check_sizes("Fleet.score_files", batch_size, window)

        def score_paths(name: str, paths: Sequence[Path]) -> list[ScoredImage | None]:
            images = list(dict.fromkeys(paths))
            results: dict[Path, ScoredImage] = {}
            reasons: dict[Path, Exception] = {}

            def unreadable(error: UnreadableImage) -> None:
                reasons[error.path] = error

            try:
                model = self.model(name)
                options = {"batch_size": batch_size, "note": note, "regions": regions}
                for item in score_files(model, images, unreadable=unreadable, **options):
                    results[item.path] = item
            except _FORESEEN as error:
                reasons |= {path: error for path in images if path not in results and path not in reasons}
            advance(len(paths))
            for path in paths:
                if path in reasons and failed is None:
                    raise reasons[path]
                if path in reasons and failed is not None:
                    failed(name, path, reasons[path])
            return [results.get(path) for path in paths]

        for name, item in self._route(routes, window, score_paths):
            if item is not None:
                yield name, item

    def _route(
        self, stream: Iterable[tuple[str, Item]], window: int, score_items: Callable[[str, Sequence[Item]], Sequence[T]]
    ) -> Iterator[tuple[str, T]]:
        """Results in order, a window at a time: of loaded models first, so that none of them is loaded twice for it."""
        waiting = iter(stream)
        while items := list(islice(waiting, window)):
            places: dict[str, list[int]] = {}
            for index, (name, _) in enumerate(items):
                places.setdefault(name, []).append(index)
            results: dict[int, T] = {}
            for name in sorted(places, key=lambda name: name not in self._loaded):
                values = score_items(name, [items[index][1] for index in places[name]])
                results |= dict(zip(places[name], values, strict=True))
            for index, (name, _) in enumerate(items):
                yield name, results.pop(index)


def _read_pixels(
    model: Padim, image: Array | np.ndarray | str | os.PathLike[str], note: Note | None
) -> UInt8[np.ndarray, "height width 3"]:
    """An image as the model's network sees it."""
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), model.config, note=note)
    pixels = np.asarray(image)
    quantifier = any if model.config.resize == "pad" else all
    fits = quantifier(size >= crop for size, crop in zip(pixels.shape[:2], model.config.crop, strict=False))
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not fits:
        check_images("Fleet.score", pixels[None], model.config)
    if pixels.shape[:2] == model.config.crop:
        return pixels
    photo = resize(Path("an image given to Fleet.score"), Image.fromarray(pixels), model.config)
    return np.asarray(centre_crop(photo, model.config))


def _check_sizes(call: str, batch_size: int, window: int) -> None:
    for name, size in (("batch_size", batch_size), ("window", window)):
        if size < 1:
            raise ValueError(f"{call}: {name}={size}, wanted 1 or more images")
