"""The settings of the closed-form methods, with the published defaults; without JAX: commands read their rules."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from padim_jax.config import PadimConfig
from padim_jax.config.rules import Setting, is_int, is_number, setting, to_float

# of one side of a map, whose blur is a matrix side × side, made from side × 8 sigma numbers: 0.8 GB of float64
_MOST_NUMBERS = 10**8

# what a baseline takes of PaDiM's settings: how images are read, seen by the network, and drawn as maps
SHARED = (
    *("image_size", "crop_size", "interpolation", "resize", "value_range"),
    *("taps", "precision", "sigma", "seed"),
)


@dataclass(frozen=True)
class BaselineSettings:
    """What the settings of all methods have in common; hashable, checked when made.

    Attributes:
      config: how images are read (``image_size``, ``crop_size``, ``interpolation``, ``resize``, ``value_range``), the
        ``taps`` of the network and its ``precision``, the ``sigma`` of maps, and the ``seed`` of what is drawn. Its
        other fields are settings of PaDiM's own, and have to be left at their defaults.

    Raises:
      ValueError: naming the field, what was wanted and what came.
    """

    method: ClassVar[str]
    shared: ClassVar[tuple[str, ...]] = SHARED

    config: PadimConfig = field(default_factory=PadimConfig)

    def __post_init__(self) -> None:
        record = type(self).__name__
        for name, rules in rules_of(type(self)).items():
            value = rules.normalise(getattr(self, name))
            object.__setattr__(self, name, value)
            if not rules.is_valid(value):
                raise ValueError(f"{record}: {name}={value!r}, wanted {rules.rule}")
        side, sigma = max(self.config.crop), self.config.sigma
        if side * (side + 8 * sigma) > _MOST_NUMBERS:
            raise ValueError(
                f"{record}: crop_size={self.config.crop_size} with sigma={sigma:g}, wanted side · (side + 8 sigma) of "
                f"at most {_MOST_NUMBERS:.0e}: so many numbers are held as maps are blurred; lower crop_size or sigma"
            )
        default = PadimConfig()
        for entry in dataclasses.fields(self.config):
            value = getattr(self.config, entry.name)
            if entry.name not in self.shared and value != getattr(default, entry.name):
                raise ValueError(
                    f"{record}: config.{entry.name}={value!r} is a setting of PaDiM that {self.method} does not have; "
                    "leave it out"
                )


def shared_settings(config: PadimConfig, record: type[BaselineSettings] = BaselineSettings) -> PadimConfig:
    """What a baseline takes of settings of PaDiM, such as a preset's, with the defaults in place of the others.

    Args:
      config: of PaDiM.
      record: of a method's settings; methods that train a network of their own take no ``taps`` and no ``precision``.
    """
    return PadimConfig(**{name: getattr(config, name) for name in record.shared})


def rules_of(record: type[BaselineSettings]) -> dict[str, Setting]:
    """The rule of each setting that a method has of its own, by name."""
    return {entry.name: entry.metadata["setting"] for entry in dataclasses.fields(record) if entry.name != "config"}


def count_field(default: int | None, help_text: str, default_in_words: str | None = None) -> int:
    """A field that counts something: 1 or more, or, where None is the default, None."""

    def is_valid(value: object) -> bool:
        return (default is None and value is None) or (is_int(value) and value >= 1)  # type: ignore[operator]

    rule = "a positive integer" + (" or None" if default is None else "")
    return setting(default, is_valid, rule, help_text, default_in_words)


def share_field(default: float, help_text: str) -> float:
    """A field that is a share in (0, 1]."""
    return setting(
        default, lambda v: is_number(v) and 0 < v <= 1, "a share above 0 and at most 1", help_text, normalise=to_float
    )


@dataclass(frozen=True)
class SpadeSettings(BaselineSettings):
    """Settings of SPADE (arXiv 2005.02357).

    Attributes:
      n_images: K, how many of the fitted images an image is compared with; None for 50, or all where there are fewer.
      n_patches: κ, how many of their patches each patch is compared with.

    Raises:
      ValueError: as :class:`BaselineSettings`.
    """

    method: ClassVar[str] = "spade"

    n_images: int | None = count_field(None, "How many of the most similar images to compare with.", "50, or all")
    n_patches: int = count_field(1, "How many of their most similar patches to compare each patch with.")


@dataclass(frozen=True)
class Dn2Settings(BaselineSettings):
    """Settings of DN2 (arXiv 2002.10445).

    Attributes:
      n_images: k, how many of the fitted images an image is compared with.

    Raises:
      ValueError: as :class:`BaselineSettings`.
    """

    method: ClassVar[str] = "dn2"

    n_images: int = count_field(2, "How many of the most similar images to compare with.")


@dataclass(frozen=True)
class MahalanobisAdSettings(BaselineSettings):
    """Settings of Mahalanobis-AD (arXiv 2005.14140), which has none of its own: taps are its levels.

    Raises:
      ValueError: as :class:`BaselineSettings`.
    """

    method: ClassVar[str] = "mahalanobis-ad"


@dataclass(frozen=True)
class PatchCoreSettings(BaselineSettings):
    """Settings of PatchCore (arXiv 2106.08265).

    Attributes:
      share: of all patches, in (0, 1], that the coreset keeps; the paper has 0.25, 0.1 and 0.01.
      n_neighbours: b of the image score's weight (equation 7); 1 leaves the score unweighted.
      patch_size: odd side of the square of cells, in each tap's own grid, over which activations are averaged.
      search_dimension: dimension that patches are projected to at random while the coreset is sought; those that have
        no more are searched as they are.

    Raises:
      ValueError: as :class:`BaselineSettings`.
    """

    method: ClassVar[str] = "patchcore"

    share: float = share_field(0.1, "Share of all patches that the coreset keeps.")
    n_neighbours: int = count_field(9, "How many patches near the nearest one weigh an image's score.")
    patch_size: int = setting(
        3,
        lambda v: is_int(v) and v >= 1 and v % 2 == 1,
        "an odd number of cells, 1 or more",
        "Average activations over so many cells each way.",
    )
    search_dimension: int = count_field(128, "Dimension in which the coreset is sought.")


@dataclass(frozen=True)
class DfmSettings(BaselineSettings):
    """Settings of DFM (arXiv 1909.11786).

    Attributes:
      variance: share of the features' variance, in (0, 1], that the principal components keep at least.
      pool: side of the square blocks of cells that features are averaged over; the last ones of a row or column hold
        the cells that are left.

    Raises:
      ValueError: as :class:`BaselineSettings`.
    """

    method: ClassVar[str] = "dfm"

    variance: float = share_field(0.995, "Share of the variance that the principal components keep.")
    pool: int = count_field(4, "Average features over blocks of so many cells each way.")
