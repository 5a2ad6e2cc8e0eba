"""What is written of a scored image beside its row: a heat map, a mask, its map; each writes itself."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import numpy as np
from PIL import Image

from padim_jax.config import PadimConfig
from padim_jax.images import UnreadableImage, mask_to_original, to_original
from padim_jax.images.ahead import CORES, map_ahead
from padim_jax.images.decode import Note
from padim_jax.images.geometry import seen_part
from padim_jax.images.image import read_photo
from padim_jax.method.calibration import Calibration, pixel_colour_scale
from padim_jax.method.pictures import picture
from padim_jax.method.records import Padim
from padim_jax.runs.baseline import Baseline
from padim_jax.runs.regions import good_level, mask_above
from padim_jax.runs.rows import Row
from padim_jax.runs.score import ScoredImage
from padim_jax.runs.spool import ResultSpool
from padim_jax.runs.watch import ignore_note

Pixels = Literal["crop", "original"]  # of what the network saw, or of the image file
LONGEST_SIDE = 768  # pixels of a photo in a heat map
_PNG = {"format": "PNG", "compress_level": 1, "compress_type": zlib.Z_RLE}  # as small as by level 3, in half the time

T = TypeVar("T")


class Output:
    """Files of one kind, one for each result, in a folder of their own.

    Attributes:
      folder: name of the folder below that of the results.
      suffix: of the files' names.
    """

    folder: ClassVar[str]
    suffix: ClassVar[str]

    def open(self, results: Path, rows: Sequence[Row]) -> AbstractContextManager[object]:
        """Begin below the folder ``results``, where an earlier run has left what belongs to ``rows``."""
        return nullcontext()

    def write(self, target: Path, item: ScoredImage) -> None:
        """Write the file of one result; threads do so at once."""

    def add(self, item: ScoredImage) -> None:
        """Record a result; called in order, after :meth:`write`."""


@dataclass(frozen=True)
class Heatmaps(Output):
    """Pictures of results, as :func:`write_heatmap` makes them; its arguments are the fields."""

    config: PadimConfig
    scale: tuple[float, float]
    threshold: float | None = None
    note: Note = ignore_note

    folder: ClassVar[str] = "heatmaps"
    suffix: ClassVar[str] = ".png"

    def write(self, target: Path, item: ScoredImage) -> None:
        """Write one picture."""
        write_heatmap(target, item, self.scale, config=self.config, threshold=self.threshold, note=self.note)


class LateHeatmaps(Output):
    """Pictures whose colours follow from all results of a run, so that these are kept in a file until the last.

    Args:
      model: whose results they are.
      note: as :class:`Heatmaps` has it.
    """

    folder, suffix = Heatmaps.folder, Heatmaps.suffix

    def __init__(self, model: Padim | Baseline, note: Note = ignore_note) -> None:
        self._config, self._note = model.config, note
        self._roi = None if model.roi is None else np.asarray(model.roi)
        self._spool: ResultSpool | None = None

    @contextmanager
    def open(self, results: Path, rows: Sequence[Row]) -> Iterator[None]:
        """Continue the file that an earlier run left."""
        path = results / "spool"
        path.touch()
        with path.open("r+b", buffering=0) as file:
            self._spool = ResultSpool(file, self._config.top_share, self._roi)
            self._spool.restore([(row.path, row.notes) for row in rows], self._config.crop)
            yield

    def add(self, item: ScoredImage) -> None:
        """Keep one result."""
        assert self._spool is not None
        self._spool.add(item)

    def draw(self, place: Callable[[Path], Path]) -> Iterator[ScoredImage]:
        """Draw all results on one scale, each where ``place`` says of its path; gives each once it is drawn."""
        assert self._spool is not None
        pictures = Heatmaps(self._config, self._spool.scale(), note=self._note)
        return write_each(self._spool, lambda item: pictures.write(place(item.path), item))


@dataclass(frozen=True)
class Masks(Output):
    """Which pixels lie above ``threshold``, as PNG files of 0 and 255.

    Attributes:
      config: what the images were read with.
      threshold: in units of the maps.
      pixels: whose the mask's are.
      floor: as of :func:`padim_jax.runs.regions.mask_above`.
    """

    config: PadimConfig
    threshold: float
    pixels: Pixels
    floor: float | None = None

    folder: ClassVar[str] = "masks"
    suffix: ClassVar[str] = ".png"

    def write(self, target: Path, item: ScoredImage) -> None:
        """Write one mask."""
        mask = mask_above(item.anomaly_map, self.threshold, self.floor)
        if self.pixels == "original":
            mask = mask_to_original(mask, item.size, self.config)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(target, format="PNG")


@dataclass(frozen=True)
class Maps(Output):
    """Maps as float TIFF files; in the image's own pixels NaN where the crop never looked.

    Attributes:
      config: what the images were read with.
      pixels: whose the map's are.
    """

    config: PadimConfig
    pixels: Pixels

    folder: ClassVar[str] = "maps"
    suffix: ClassVar[str] = ".tif"

    def write(self, target: Path, item: ScoredImage) -> None:
        """Write one map."""
        distances = item.anomaly_map
        if self.pixels == "original":
            distances = to_original(distances, item.size, self.config)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(distances.astype(np.float32)).save(target, format="TIFF")


def choose_outputs(
    model: Padim | Baseline,
    *,
    heatmaps: bool = True,
    colour_range: tuple[float, float] | None = None,
    masks: Pixels | None = None,
    tight_masks: bool = False,
    maps: Pixels | None = None,
    note: Note = ignore_note,
) -> list[Output]:
    """The outputs that a run asks for.

    Args:
      model: whose results they show.
      heatmaps: pictures.
      colour_range: values at the ends of their colours. Default: the calibration's, or where there is none, what
        suits all results; of other methods than PaDiM there are no pictures then.
      masks: pixels of masks; None for no masks.
      tight_masks: of each region, mark only what reaches half of its peak.
      maps: pixels of the maps as float TIFF files; None for no maps.
      note: told where a photo could not be read again.

    Raises:
      ValueError: masks of a model that is not calibrated; masks or maps of a method that judges whole images.
    """
    calibration, config, outputs = model.calibration, model.config, list[Output]()
    if isinstance(model, Baseline) and not model.method.has_map:
        if masks is not None or maps is not None:
            raise ValueError(f"{model.method.name} judges whole images: it has no maps to write, and no masks")
        return outputs
    scale, threshold = colour_range, None
    if isinstance(model, Baseline) and calibration is None and scale is None:
        heatmaps = False  # the colours of PaDiM's follow from image scores, which may be of something else here
    if calibration is not None:
        own, threshold = _colours(model, calibration)
        scale = own if scale is None else scale
    if heatmaps:
        outputs.append(LateHeatmaps(model, note) if scale is None else Heatmaps(config, scale, threshold, note))
    if masks is not None:
        if calibration is None:
            raise ValueError("masks take a calibrated model, for its pixel threshold; calibrate it first")
        floor = good_level(calibration) if tight_masks else None
        outputs.append(Masks(config, float(calibration.pixel_threshold), masks, floor))
    if maps is not None:
        outputs.append(Maps(config, maps))
    return outputs


def _colours(model: Padim | Baseline, calibration: Calibration) -> tuple[tuple[float, float], float]:
    """Values at the ends of the colours, and the one that is outlined."""
    if isinstance(model, Baseline):  # whose image scores may be of something else than maps
        return pixel_colour_scale(calibration), float(calibration.pixel_threshold)
    return (float(calibration.colour_scale[0]), float(calibration.colour_scale[1])), float(calibration.threshold)


def write_heatmap(
    target: Path,
    item: ScoredImage,
    scale: tuple[float, float],
    *,
    config: PadimConfig | None = None,
    threshold: float | None = None,
    note: Note = ignore_note,
) -> None:
    """Write the picture of one result as PNG, making folders as needed.

    Args:
      target: to write.
      item: the result.
      scale: values at the ends of the colours.
      config: what the image was read with: the photo is read again, to be shown larger than the network saw it. None
        shows what the network saw.
      threshold: outlined, and marked on the colour scale.
      note: told where the photo could not be read again, so that what the network saw is shown.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    verdict = item.verdict
    decision = f"   {verdict}, p = {item.p_value:.3g}" if verdict else ""
    title = f"score {item.score:.4g}{decision}   {item.path.name}"
    photo, (left, top) = item.image, (0, 0)
    (bottom, right) = item.anomaly_map.shape
    if config is not None:
        try:
            photo = read_photo(item.path, config, LONGEST_SIDE)
        except UnreadableImage as error:  # it was there when it was scored
            note(item.path, f"its heat map shows what the network saw, for it could not be read again ({error.reason})")
        else:
            left, top, right, bottom = map(int, seen_part(item.size, config).crop)
    visible_map = item.anomaly_map[top:bottom, left:right]
    row, column = np.unravel_index(int(np.argmax(visible_map)), visible_map.shape)
    summit = (row + 0.5) * photo.shape[0] / visible_map.shape[0], (column + 0.5) * photo.shape[1] / visible_map.shape[1]
    drawn = picture(photo, visible_map, scale, title, threshold=threshold, summit=summit)
    drawn.save(target, **_PNG)


def write_each(items: Iterable[T], write: Callable[[T], None]) -> Iterator[T]:
    """Give ``items`` on, in order, each once ``write`` is done with it; threads write while the next are computed."""
    for item, future in map_ahead(write, items, 2 * CORES, eager=True, name="write"):
        future.result()
        yield item
