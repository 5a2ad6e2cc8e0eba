"""The methods by name: what each is, what it can't do, and its settings, fit and score, imported when they are used."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from padim_jax.baselines import settings as records
from padim_jax.baselines import trained_settings as trained
from padim_jax.baselines.settings import BaselineSettings, rules_of, shared_settings
from padim_jax.config import PadimConfig

if TYPE_CHECKING:
    from padim_jax.baselines.training_host import TrainingHost

TRAINED_SIZE = 128  # pixels


@dataclass(frozen=True)
class Method:
    """One of the methods that PaDiM is compared with.

    Attributes:
      name: as commands take it.
      about: what it is, in one line.
      paper: its number in arXiv, or its place in the proceedings where it has none.
      settings: the record of its settings; defaults are the published ones, but of methods that are trained.
      model_name: of the record of a fitted model.
      has_map: whether it gives a map (:class:`padim_jax.method.records.Scores`), or a score of the image alone
        (:class:`padim_jax.baselines.records.ImageScores`).
      draws: whether the seed matters.
      refusals: why commands such as "update" can't take its models (:func:`padim_jax.baselines.manifest.refuse`).
      uses_backbone: whether it takes features of a frozen network; the others train one of their own, and leave the
        ``backbone`` that ``fit`` is given unused, which may be None.

    >>> from padim_jax import baselines
    >>> method = baselines.method("spade")
    >>> settings = method.settings(config=baselines.shared_settings(config), n_images=5)
    >>> model = method.fit(backbone, [good_images], settings)
    >>> method.score(model, test_images).anomaly_map.shape
    (2, 32, 48)
    """

    name: str
    about: str
    paper: str
    settings: type[BaselineSettings]
    model_name: str
    has_map: bool
    draws: bool
    refusals: Mapping[str, str]
    uses_backbone: bool = True

    def fit(
        self, backbone: Any, batches: Iterable[Any], settings: Any = None, *, host: "TrainingHost | None" = None
    ) -> Any:
        """Fit a model, a pytree, on good images.

        Args:
          backbone: from :func:`padim_jax.load_backbone`; methods that train a network leave it unused.
          batches: uint8 RGB arrays (n, height, width, 3) of ``settings.config.crop_size``; read once.
          settings: of this method; None for the defaults.
          host: of a training: keeps the unfinished, is told of it, and may stop it.

        Raises:
          ValueError: a ``host`` for a method that trains nothing.
          TypeError, ValueError, FloatingPointError: as the method's own ``fit``.
        """
        if host is None:
            return self._module.fit(backbone, batches, settings)
        if self.uses_backbone:
            raise ValueError(f"{self.name}: host={host!r}, but the method trains no network; leave it out")
        return self._module.fit(backbone, batches, settings, host=host)

    @property
    def score(self) -> Callable[..., Any]:
        """``score(model, images)``: what the model says about images."""
        return self._module.score

    @property
    def model(self) -> type[Any]:
        """The record of a fitted model, which :mod:`padim_jax.baselines.storing` makes anew."""
        return getattr(self._module, self.model_name)

    def title(self, own: Mapping[str, Any]) -> str:
        """The name, with values of the method's own settings that are not the defaults."""
        values = ",".join(f"{name}={value}" for name, value in sorted(own.items()))
        return f"{self.name}:{values}" if values else self.name

    def default(self, name: str) -> Any:
        """The default of one of the method's own settings."""
        return self.settings.__dataclass_fields__[name].default

    @property
    def published(self) -> dict[str, Any]:
        """Values of the method's own settings in its paper, where they are not the defaults."""
        if not issubclass(self.settings, trained.TrainedSettings):
            return {}
        record = self.settings.published()
        values = {name: getattr(record, name) for name in rules_of(self.settings)}
        return {name: value for name, value in values.items() if value != self.default(name)}

    @property
    def source(self) -> str:
        """Where the paper is."""
        return f"arXiv {self.paper}" if self.paper[0].isdigit() else self.paper

    def shared(self, config: PadimConfig, given: Mapping[str, Any]) -> PadimConfig:
        """How images are read by this method, of settings of PaDiM with those ``given`` in their place.

        A method that trains a network sees the whole image at :data:`TRAINED_SIZE` pixels where ``given`` has no size:
        it learns in minutes there, and in hours at the size of PaDiM's.

        Raises:
          ValueError: naming a setting that only PaDiM has.
        """
        if unknown := [name for name in given if name not in self.settings.shared]:
            raise ValueError(
                f"PadimConfig: {unknown[0]}={given[unknown[0]]!r}, a setting of PaDiM that {self.name} does not have; "
                "leave it out, or evaluate the method by itself"
            )
        own = shared_settings(config, self.settings)
        if not self.uses_backbone and "image_size" not in given and "crop_size" not in given:
            own = replace(own, image_size=TRAINED_SIZE, crop_size=TRAINED_SIZE)
        return replace(own, **given)

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"padim_jax.baselines.{self.name.replace('-', '_')}")


def method(name: str) -> Method:
    """The method called ``name``; ``ValueError`` lists the valid names."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def parse_method(text: str) -> tuple[Method, dict[str, Any]]:
    """A method with values of its own settings from ``NAME:SETTING=VALUE,SETTING=VALUE``.

    Of a method that is trained, ``published`` stands for the settings of its paper.

    >>> parse_method("patchcore:share=0.25,n_neighbours=1")[1]
    {'share': 0.25, 'n_neighbours': 1}
    >>> parse_method("ae:published,steps=500,epochs=none")[1]["width"]
    32

    Raises:
      ValueError: an unknown method or setting, or a value that breaks its rule; lists the valid names.
    """
    name, _, rest = text.partition(":")
    found, own = method(name), dict[str, Any]()
    rules, parts = rules_of(found.settings), [*filter(None, rest.split(","))]
    if "published" in parts and issubclass(found.settings, trained.TrainedSettings):
        own = found.published
        parts.remove("published")
    for part in parts:
        key, _, value = part.partition("=")
        if key not in rules:
            names = ", ".join(rules) or "none of its own"
            raise ValueError(f"--method {text}: {name} has no setting {key!r}; it has {names}")
        own[key] = rules[key].normalise(_value(value))
        if not rules[key].is_valid(own[key]):
            raise ValueError(f"--method {text}: {key}={value}: wanted {rules[key].rule}")
    return found, {key: value for key, value in own.items() if value != found.default(key)}


def _value(text: str) -> Any:
    """A number where the text is one, None for "none", else the text."""
    if text.lower() == "none":
        return None
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _refusals(kept: str) -> dict[str, str]:
    """What none of these methods can do; ``kept`` says what their models keep of the images."""
    anew = f"it keeps {kept}; fit it anew on the images that are to count"
    return dict.fromkeys(("update", "merge", "forget"), anew) | {"compact": f"it keeps {kept}, and has no smaller form"}


_WEIGHTS = "a network's weights, learnt from all images together"

METHODS: Mapping[str, Method] = {
    found.name: found
    for found in (
        Method(
            "spade",
            "the nearest images, then their nearest patches",
            "2005.02357",
            records.SpadeSettings,
            "Spade",
            has_map=True,
            draws=False,
            refusals=_refusals("every image's activations"),
        ),
        Method(
            "dn2",
            "mean distance to the nearest images",
            "2002.10445",
            records.Dn2Settings,
            "Dn2",
            has_map=False,
            draws=False,
            refusals=_refusals("one vector of every image"),
        ),
        Method(
            "mahalanobis-ad",
            "one Gaussian of whole images per layer, distances summed",
            "2005.14140",
            records.MahalanobisAdSettings,
            "MahalanobisAd",
            has_map=False,
            draws=False,
            refusals=_refusals("factored covariances, not the moments"),
        ),
        Method(
            "patchcore",
            "the nearest of a few representative patches",
            "2106.08265",
            records.PatchCoreSettings,
            "PatchCore",
            has_map=True,
            draws=True,
            refusals=_refusals("a coreset of the patches of all images together"),
        ),
        Method(
            "dfm",
            "what principal components of a layer leave unexplained",
            "1909.11786",
            records.DfmSettings,
            "Dfm",
            has_map=True,
            draws=False,
            refusals=_refusals("principal components of all images together"),
        ),
        Method(
            "ae",
            "what an autoencoder fails to reconstruct",
            "1807.02011",
            trained.AeSettings,
            "Ae",
            has_map=True,
            draws=True,
            refusals=_refusals(_WEIGHTS),
            uses_backbone=False,
        ),
        Method(
            "vae",
            "what a variational autoencoder fails to reconstruct",
            "1911.08616",
            trained.VaeSettings,
            "Vae",
            has_map=True,
            draws=True,
            refusals=_refusals(_WEIGHTS),
            uses_backbone=False,
        ),
        Method(
            "ganomaly",
            "how far an image's code is from that of its reconstruction",
            "1805.06725",
            trained.GanomalySettings,
            "Ganomaly",
            has_map=False,
            draws=True,
            refusals=_refusals(_WEIGHTS),
            uses_backbone=False,
        ),
        Method(
            "deep-svdd",
            "distance to the centre of a ball that a network draws good images into",
            "PMLR 80:4393-4402",
            trained.DeepSvddSettings,
            "DeepSvdd",
            has_map=False,
            draws=True,
            refusals=_refusals(_WEIGHTS),
            uses_backbone=False,
        ),
        Method(
            "patch-svdd",
            "the nearest good patches, in a space learnt from where patches lie",
            "2006.16067",
            trained.PatchSvddSettings,
            "PatchSvdd",
            has_map=True,
            draws=True,
            refusals=_refusals(
                "a network's weights, learnt from all images together, and the vectors of their patches"
            ),
            uses_backbone=False,
        ),
    )
}
