"""The settings of the methods that train a network of their own; without JAX, so that commands can read their rules.

The defaults learn the look of a part in about a minute on two CPU cores at 64 pixels, in a few at 128; ``published``
gives the settings of each paper, which are meant for a GPU and for images of the paper's size.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from padim_jax.baselines.settings import SHARED, BaselineSettings, count_field
from padim_jax.config.rules import choice, is_int, is_number, setting, to_float

Loss = Literal["ssim", "l2"]
Window = Literal["gaussian", "uniform"]
Likelihood = Literal["gaussian", "bernoulli"]
VaeMap = Literal["reconstruction", "gradient", "attention"]


def _optional_count(default: int | None, help_text: str) -> Any:
    return setting(default, lambda v: v is None or (is_int(v) and v >= 1), "a positive integer or None", help_text)


def _number(default: float, help_text: str, *, above: float | None = None, most: float | None = None) -> Any:
    """A number from 0 on, or above ``above``, and up to ``most`` where it is given."""

    def is_valid(value: object) -> bool:
        if not is_number(value):
            return False
        is_enough = value >= 0 if above is None else value > above  # type: ignore[operator]
        return is_enough and (most is None or value <= most)  # type: ignore[operator]

    rule = "a number, 0 or more" if above is None else f"a number above {above:g}"
    rule += "" if most is None else f", at most {most:g}"
    return setting(default, is_valid, rule, help_text, normalise=to_float)


@dataclass(frozen=True)
class TrainedSettings(BaselineSettings):
    """What the settings of all trained methods have in common; hashable, checked when made.

    The learning rate rises from 0 during the warm-up and then falls to 0 along half a cosine (AdamW,
    arXiv 1711.05101).

    Attributes:
      config: how images are read, the ``sigma`` of maps, and the ``seed`` of all that is drawn: the first weights, the
        images held out, the order of the others, and noise.
      steps: how many batches are learnt from at most; None where ``epochs`` says it.
      epochs: how often each image is learnt from at most; None where ``steps`` says it.
      batch_size: images of a step; all of them where there are fewer.
      learning_rate: the highest one, after the warm-up.
      warm_up: share of the steps in which the learning rate rises.
      clip: longest gradient, as a norm over all parameters; longer ones are shortened to it.
      weight_decay: of AdamW.
      held_out: share of the good images, drawn by the seed, that are not learnt from but tell when to stop; at least
        one image. 0 for none: training then takes all its steps and keeps the last weights, else the best ones.
      look_every: steps between two looks at the images held out.
      patience: so many looks in a row without a lower loss end the training.

    Raises:
      ValueError: as :class:`BaselineSettings`; both or none of ``steps`` and ``epochs``.
    """

    shared: ClassVar[tuple[str, ...]] = tuple(name for name in SHARED if name not in ("taps", "precision"))
    first_decay: ClassVar[float] = 0.9  # of AdamW's mean of gradients, β₁

    steps: int | None = _optional_count(300, "Learn from at most so many batches.")
    epochs: int | None = _optional_count(None, "Learn from each image at most so often.")
    batch_size: int = count_field(16, "Learn from so many images at a time.")
    learning_rate: float = _number(1e-3, "Highest learning rate.", above=0)
    warm_up: float = _number(0.05, "Share of the steps in which the learning rate rises.", most=1)
    clip: float = _number(1.0, "Longest gradient; longer ones are shortened.", above=0)
    weight_decay: float = _number(1e-5, "How much weights are drawn to 0.")
    held_out: float = _number(0.1, "Share of the good images that tell when to stop.", most=0.5)
    look_every: int = count_field(25, "Steps between two looks at the images held out.")
    patience: int = count_field(8, "Stop after so many looks without a lower loss.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"{type(self).__name__}: steps={self.steps} and epochs={self.epochs}, wanted one of them, and None for "
                "the other"
            )

    @property
    def without_seed(self) -> Self:
        """These, as the seed 0 has them: programs that depend on the others are compiled once for all seeds."""
        return replace(self, config=replace(self.config, seed=0))

    @classmethod
    def published(cls, **own: Any) -> Self:
        """The settings of the paper; ``own`` ones, such as ``config``, take their place.

        Raises:
          ValueError: as the settings themselves.
        """
        return cls(**cls._published() | own)

    @classmethod
    def _published(cls) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class AeSettings(TrainedSettings):
    """Settings of the convolutional autoencoder (arXiv 1807.02011).

    The paper's network, for images of 128×128, has ``width`` 32; the default is as deep and a quarter as wide.

    Attributes:
      loss: "ssim", which compares windows of the image with those of its reconstruction, or "l2", which compares
        pixels; maps are drawn by the same.
      window: of SSIM, 11 pixels each way: "gaussian" (σ 1.5) or "uniform", as in the paper.
      width: channels of the first convolution; those of the others are multiples of it.
      latent: d, how many numbers an image is squeezed into.

    Raises:
      ValueError: as :class:`TrainedSettings`.
    """

    method: ClassVar[str] = "ae"

    loss: Loss = choice("ssim", Loss, "Compare images by structural similarity or by pixels.")
    window: Window = choice("gaussian", Window, "Weights of the windows of structural similarity.")
    width: int = count_field(8, "Channels of the first convolution.")
    latent: int = count_field(64, "Numbers that an image is squeezed into.")
    learning_rate: float = _number(2e-3, "Highest learning rate.", above=0)

    @classmethod
    def _published(cls) -> dict[str, Any]:
        return {"window": "uniform", "width": 32, "latent": 100, "batch_size": 128, "learning_rate": 2e-4} | {
            "steps": None,
            "epochs": 200,
        }


@dataclass(frozen=True)
class VaeSettings(TrainedSettings):
    """Settings of the variational autoencoder (arXiv 1911.08616).

    Attributes:
      map: what is drawn: "reconstruction", "gradient" or "attention", see :func:`padim_jax.baselines.vae.score`.
      likelihood: of pixels: "gaussian", or "bernoulli", as in the paper.
      noise: standard deviation of "gaussian" pixels, whose values go from 0 to 1.
      expansion: weight of the loss that widens the attention to all of a good image; the paper has 0.01.
      width: channels of the first convolution; those of the next ones are twice and four times as many.
      latent: how many numbers each cell of 8×8 pixels is squeezed into.

    Raises:
      ValueError: as :class:`TrainedSettings`; "attention" without ``expansion``.
    """

    method: ClassVar[str] = "vae"

    map: VaeMap = choice("reconstruction", VaeMap, "What maps are drawn of.")
    likelihood: Likelihood = choice("gaussian", Likelihood, "How pixels are distributed around the reconstruction.")
    noise: float = _number(0.1, "Standard deviation of Gaussian pixels, of values from 0 to 1.", above=0)
    expansion: float = _number(0.0, "Weight of the loss that widens the attention.")
    width: int = count_field(16, "Channels of the first convolution.")
    latent: int = count_field(8, "Numbers that each cell of 8×8 pixels is squeezed into.")
    learning_rate: float = _number(2e-3, "Highest learning rate.", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.map == "attention" and not self.expansion:
            raise ValueError(
                "VaeSettings: map='attention' with expansion=0, which teaches the network to attend to nothing; set "
                "expansion=0.01, or another map"
            )

    @classmethod
    def _published(cls) -> dict[str, Any]:
        return {"map": "attention", "likelihood": "bernoulli", "expansion": 0.01, "width": 64, "latent": 100} | {
            "learning_rate": 1e-4,
            "steps": None,
            "epochs": 150,
        }


@dataclass(frozen=True)
class GanomalySettings(TrainedSettings):
    """Settings of GANomaly (arXiv 1805.06725), whose images have 32×32 pixels and whose network is 64 wide.

    Attributes:
      adversarial: weight of the loss by what the discriminator sees.
      contextual: weight of the loss by pixels.
      encoding: weight of the loss by codes.
      width: channels of the first convolution; each of the next ones has twice as many.
      latent: numbers of a code.

    Raises:
      ValueError: as :class:`TrainedSettings`.
    """

    method: ClassVar[str] = "ganomaly"
    first_decay: ClassVar[float] = 0.5

    adversarial: float = _number(1.0, "Weight of the loss by what the discriminator sees.")
    contextual: float = _number(50.0, "Weight of the loss by pixels.")
    encoding: float = _number(1.0, "Weight of the loss by codes.")
    width: int = count_field(8, "Channels of the first convolution.")
    latent: int = count_field(50, "Numbers of a code.")
    learning_rate: float = _number(2e-3, "Highest learning rate.", above=0)
    clip: float = _number(10.0, "Longest gradient; longer ones are shortened.", above=0)

    @classmethod
    def _published(cls) -> dict[str, Any]:
        return {"width": 64, "latent": 100, "batch_size": 64, "learning_rate": 2e-4, "weight_decay": 0.0} | {
            "held_out": 0.0,
            "steps": None,
            "epochs": 15,
        }


@dataclass(frozen=True)
class DeepSvddSettings(TrainedSettings):
    """Settings of Deep SVDD (Ruff et al., ICML 2018), whose images have 32×32 pixels and whose network is 32 wide.

    Attributes:
      width: channels of the first convolution; those of the next ones are twice and four times as many.
      latent: d, how many numbers an image becomes.

    Raises:
      ValueError: as :class:`TrainedSettings`.
    """

    method: ClassVar[str] = "deep-svdd"

    width: int = count_field(8, "Channels of the first convolution.")
    latent: int = count_field(32, "Numbers that an image becomes.")
    steps: int | None = _optional_count(200, "Learn from at most so many batches.")

    @classmethod
    def _published(cls) -> dict[str, Any]:
        return {"width": 32, "latent": 128, "batch_size": 200, "learning_rate": 1e-4, "weight_decay": 5e-7} | {
            "held_out": 0.0,
            "steps": None,
            "epochs": 150,
        }


@dataclass(frozen=True)
class PatchSvddSettings(TrainedSettings):
    """Settings of Patch SVDD (arXiv 2006.16067), whose images have 256×256 pixels.

    Attributes:
      patch_size: side of the large patches in pixels, a multiple of 4; the small ones have half of it.
      large_stride: pixels from one large patch to the next where images are scored, at most the side of a patch.
      small_stride: likewise, of small patches.
      pairs: how many pairs of patches of each size are drawn from an image in a step, for each of the two losses.
      svdd_weight: λ, of the loss by near patches.
      width: channels of the first convolution; each of the next ones has twice as many.
      latent: d, numbers of a patch.

    Raises:
      ValueError: as :class:`TrainedSettings`; images smaller than two large patches; a stride above a patch's side.
    """

    method: ClassVar[str] = "patch-svdd"

    patch_size: int = setting(
        32, lambda v: is_int(v) and v >= 8 and v % 4 == 0, "a multiple of 4, 8 or more", "Side of large patches."
    )
    large_stride: int = count_field(8, "Pixels from one large patch to the next.")
    small_stride: int = count_field(4, "Pixels from one small patch to the next.")
    pairs: int = count_field(4, "Pairs of patches drawn from an image in a step.")
    svdd_weight: float = _number(1e-3, "Weight of the loss by near patches.")
    width: int = count_field(16, "Channels of the first convolution.")
    latent: int = count_field(32, "Numbers of a patch.")

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Side and stride of the large patches, and of the small ones."""
        return (self.patch_size, self.large_stride), (self.patch_size // 2, self.small_stride)

    def __post_init__(self) -> None:
        super().__post_init__()
        if 2 * self.patch_size > min(self.config.crop):
            raise ValueError(
                f"PatchSvddSettings: patch_size={self.patch_size} with crop_size={self.config.crop}, wanted images of "
                "two patches each way or more; lower patch_size, or raise crop_size"
            )
        for name, (side, stride) in zip(("large_stride", "small_stride"), self.sides, strict=True):
            if stride > side:
                raise ValueError(f"PatchSvddSettings: {name}={stride}, wanted {side} or less, the side of a patch")

    @classmethod
    def _published(cls) -> dict[str, Any]:
        return {"patch_size": 64, "large_stride": 16, "small_stride": 4, "width": 32, "latent": 64, "pairs": 1} | {
            "batch_size": 64,
            "learning_rate": 1e-4,
            "steps": None,
            "epochs": 300,
        }
