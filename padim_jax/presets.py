"""Named settings: the paper's models, its ablations, and ours."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from padim_jax.backbones import BACKBONES
from padim_jax.config import PadimConfig


@dataclass(frozen=True)
class Preset:
    """A backbone with settings.

    Attributes:
      name: as ``padim evaluate --preset`` takes it.
      about: what it is, in one line.
      backbone: one of ``BACKBONES``.
      members: the settings of each model; the maps of several models are summed (the paper's Table I).
      candidates: settings of which one is chosen by the images of each fit (:func:`padim_jax.choose`), the first of
        them ``members[0]``; nothing where nothing is chosen.
    """

    name: str
    about: str
    backbone: str
    members: tuple[PadimConfig, ...]
    candidates: tuple[PadimConfig, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether the seed matters: some member keeps only a part of its channels, or projects them at random."""
        return any(_draws(self.backbone, member) for member in self.members)

    def with_seed(self, seed: int) -> tuple[PadimConfig, ...]:
        """``members`` with another seed for their channels."""
        return tuple(replace(member, seed=seed) for member in self.members)


def _draws(backbone: str, config: PadimConfig) -> bool:
    spec = BACKBONES[backbone]
    total = sum(tap.channels for tap in spec.select(config.taps))
    n_channels = spec.default_channels if config.n_channels is None else config.n_channels
    return config.projection == "semi-orthogonal" or (config.projection == "random-channels" and n_channels < total)


def preset(name: str) -> Preset:
    """The preset called ``name``, as ``--preset`` takes it; ``ValueError`` lists the valid names.

    >>> plus = padim.preset("lite0-plus")
    >>> plus.backbone, plus.members[0].neighbourhood  # what to give padim.fit
    ('efficientnet_lite0', 3)
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


_PAPER = PadimConfig(interpolation="bicubic")  # arXiv 2011.08785, section IV-B
_OURS = PadimConfig(image_size=224)  # the whole image: a defect at its edge is one too
# what benchmarks/lite0_local.py found to help on misaligned parts and to do no harm on aligned ones
_LOCAL = replace(_OURS, neighbourhood=3, projection="semi-orthogonal")
# what benchmarks/sharper.py found to help where positions alone say little: parts that are turned, few images
_POOLED = replace(_LOCAL, covariance="pooled", ridge="auto")
# and with which it found the highest image AUROC that one choice for all parts has; at a threshold some lose
_PLUS = replace(_POOLED, anomaly_map="combined")
# what all components have in common counts as one image, as a unit-information prior has it (Kass & Wasserman 1995)
_SHARED = replace(_LOCAL, positions="shared", n_components=16, covariance="pooled", prior_images=1.0)
# the one that found most on average comes first, because it is kept where a folder's images can't tell
_STANDARDISED = replace(_POOLED, anomaly_map="standardised")
_CANDIDATES = (_STANDARDISED, _POOLED, replace(_STANDARDISED, align="rigid"))


def _ablations(
    prefix: str, backbone: str, base: PadimConfig, n_random: tuple[int, ...], n_components: tuple[int, ...]
) -> list[Preset]:
    """The paper's Tables I and II on one backbone: taps alone and together, channels drawn or projected."""
    taps = BACKBONES[backbone].select(None)
    total = sum(tap.channels for tap in taps)
    single_taps = tuple(replace(base, taps=(tap.name,), n_channels=tap.channels) for tap in taps)
    all_taps = replace(base, n_channels=total)
    components = replace(base, projection="principal-components")
    return [
        *(
            Preset(
                f"{prefix}-{tap.name}", f"Table I: {tap.name} alone, its {tap.channels} channels", backbone, (member,)
            )
            for tap, member in zip(taps, single_taps, strict=True)
        ),
        Preset(f"{prefix}-sum", "Table I: sum of the single taps' maps", backbone, single_taps),
        Preset(f"{prefix}-all", f"Tables I and II: the taps jointly, all {total} channels", backbone, (all_taps,)),
        *(
            Preset(f"{prefix}-rd{d}", f"Table II: {d} random channels", backbone, (replace(base, n_channels=d),))
            for d in n_random
        ),
        *(
            Preset(
                f"{prefix}-pca{d}",
                f"Table II: {d} principal components",
                backbone,
                (replace(components, n_channels=d),),
            )
            for d in n_components
        ),
    ]


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("lite0", "EfficientNet-Lite0, 100 channels: small, fast, no download", "efficientnet_lite0", (_OURS,)),
        Preset("lite0-plus", "the highest image AUROC of the fixed presets", "efficientnet_lite0", (_PLUS,)),
        Preset("lite0-local", "for parts that lie a little differently each time", "efficientnet_lite0", (_LOCAL,)),
        Preset("lite0-pooled", "for parts that are turned, and for few images", "efficientnet_lite0", (_POOLED,)),
        Preset("lite0-shared", "for parts that lie anywhere, at any angle", "efficientnet_lite0", (_SHARED,)),
        Preset(
            "auto",
            "chosen by the good images: lite0-pooled, with standardised maps, also of images turned back, or without",
            "efficientnet_lite0",
            _CANDIDATES[:1],
            _CANDIDATES,
        ),
        Preset("r18-rd100", "the paper's PaDiM-R18-Rd100", "resnet18", (replace(_PAPER, n_channels=100),)),
        Preset("wr50-rd550", "the paper's PaDiM-WR50-Rd550", "wide_resnet50_2", (replace(_PAPER, n_channels=550),)),
        Preset("efficientnet-b5", "the paper's PaDiM-EfficientNet-B5, all channels", "efficientnet_b5", (_PAPER,)),
        *_ablations("r18", "resnet18", _PAPER, n_random=(200,), n_components=(100, 200)),
        *_ablations("lite0", "efficientnet_lite0", _OURS, n_random=(), n_components=(100,)),
    )
}
