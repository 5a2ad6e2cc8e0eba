"""Whether the images that a model is fitted anew on are those that it was fitted on, or others as good.

Fitting anew on other images makes another model: on images with defects, one that finds no such defect. So the files
are compared with those that the model lists, and the others are scored by the model as it was, as ``padim calibrate``
does it with images that the model does not know.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from padim_jax.export.certify import BATCH, outputs_of
from padim_jax.export.describe import ExportError
from padim_jax.images.folder import digest_file
from padim_jax.method.records import Padim
from padim_jax.runs.inputs import Place, image_paths
from padim_jax.runs.plausible import LEAST_P, compare

_SAME_COUNT = 1e-3  # of images: weights are added up in float32


class Named:
    """Images that were named, against those of a fit.

    Args:
      call: that errors name.
      places: the files; None for arrays.
      weights: of the files that the model was fitted on, by digest; None where the model does not list them.

    Raises:
      UnreadableImage: a file that can't be read.
    """

    def __init__(self, call: str, places: Sequence[Place] | None, weights: Mapping[str, float] | None) -> None:
        self._call, self._weights = call, weights
        self._are_arrays = places is None
        self._digests = list[str]()
        if places is not None and weights is not None:
            self._digests = [digest_file(path) for path in image_paths(call, places)]

    def check_good(self, model: Padim, good: Sequence[UInt8[np.ndarray, "n height width 3"]]) -> None:
        """Refuse images that the model was not fitted on where they score much higher than its own good ones.

        The rule is that of a calibration on other images (:mod:`padim_jax.runs.plausible`). Of a model that is not
        calibrated nothing says what good images score, and nothing is refused.

        Args:
          model: before it is fitted anew.
          good: the images, in the files' order.

        Raises:
          ExportError: naming the medians and the p-value.
        """
        if model.calibration is None:
            return
        others = [image for place, image in enumerate(x for batch in good for x in batch) if not self._is_known(place)]
        if not others:
            return
        parts = [np.stack(others[start : start + BATCH]) for start in range(0, len(others), BATCH)]
        scores = np.concatenate([outputs_of(model, part)[0]["image_score"] for part in parts])
        own = np.asarray(model.calibration.scores)
        if (p := compare(scores, own)) < LEAST_P:
            which = "images named" if self._weights is None or self._are_arrays else "images named that are not its own"
            raise ExportError(
                f"{self._call}: the {len(scores)} {which} score much higher by the model than its good images do "
                f"(median {np.median(scores):.4g} against {np.median(own):.4g}; p = {p:.2g} that good images would by "
                "chance): they may hold defects, or come from another camera, light or batch, and the model fitted "
                "anew on them would call such parts good. Name those that it was fitted on; if these are good, "
                "calibrate it on them first (padim calibrate --trust-calibration)"
            )

    def notes(self, before: Padim, after: Padim, total: int) -> list[str]:
        """What became of the images and of their weights, in sentences.

        Args:
          before: the model.
          after: fitted anew.
          total: how many images were named.
        """
        unchecked = ""
        if before.calibration is None and not (self._digests and all(map(self._is_known, range(total)))):
            unchecked = "; whether others are as good was not checked, since the model is not calibrated"
        weights = self._weights or {}
        if self._digests:
            among, missing = sum(map(self._is_known, range(total))), len({*weights} - {*self._digests})
            found = [
                f"{among} of the {total} images named are among those of the fit; {missing} of the fit are missing"
            ]
        else:
            why = "they are arrays" if self._are_arrays else "the model does not list these"
            found = [f"whether the {total} images named are those of the fit is not known, since {why}"]
        found[0] += unchecked
        count, now = float(before.count), float(after.count)
        faded = abs(count - round(count)) > _SAME_COUNT or any(weight < 1 for weight in weights.values())
        if faded or abs(count - now) > _SAME_COUNT:
            why = ", since older ones had faded (padim update --half-life)" if faded else ""
            found.append(
                f"the images of the fit counted as {count:.4g}{why}; the {now:.4g} different ones named count as 1 each"
            )
        return found

    def _is_known(self, place: int) -> bool:
        return bool(self._digests) and self._weights is not None and self._digests[place] in self._weights
