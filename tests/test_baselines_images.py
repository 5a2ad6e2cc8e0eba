"""Methods that judge whole images, against scikit-learn on the same features."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from padim_jax.baselines import Dn2Settings, MahalanobisAdSettings, dn2, mahalanobis_ad
from tests.baseline_models import BACKBONE, CONFIG, GOOD, TEST, activations, pooled


@pytest.mark.parametrize(("taps", "k"), [(None, 2), (("fine", "coarse"), 5)])
def test_dn2_is_the_mean_distance_to_the_nearest_images(taps: tuple[str, ...] | None, k: int) -> None:
    settings = Dn2Settings(replace(CONFIG, taps=taps), n_images=k)
    found = dn2.score(dn2.fit(BACKBONE, [GOOD], settings), TEST).image_score
    good, test = (
        np.concatenate([pooled(part) for part in (activations(x) if taps is None else activations(x)[::2])], axis=1)
        if taps
        else pooled(activations(x)[-1])
        for x in (GOOD, TEST)
    )
    wanted = NearestNeighbors(n_neighbors=k).fit(good).kneighbors(test)[0].mean(axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("n", [3, 9])  # fewer images than channels, too
def test_mahalanobis_ad_sums_the_distances_of_all_levels(n: int) -> None:
    settings = MahalanobisAdSettings(CONFIG)
    found = mahalanobis_ad.score(mahalanobis_ad.fit(BACKBONE, [GOOD[:n]], settings), TEST).image_score
    wanted = np.zeros(len(TEST))
    for good, test in zip(activations(GOOD[:n]), activations(TEST), strict=True):
        fitted = LedoitWolf().fit(pooled(good))
        inverse = np.linalg.inv(fitted.covariance_ * n / (n - 1))  # scikit-learn divides by n
        wanted += [mahalanobis(x, fitted.location_, inverse) for x in pooled(test)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_images_that_are_all_equal_have_no_covariance() -> None:
    message = "mahalanobis_ad.fit: the covariance of fine over 4 images could not be factored; look for images that are"
    with pytest.raises(FloatingPointError, match=message):
        mahalanobis_ad.fit(BACKBONE, [np.repeat(GOOD[:1], 4, axis=0)], MahalanobisAdSettings(CONFIG))


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dn2\.fit: 9 images, wanted 10 or more good ones"):
        dn2.fit(BACKBONE, [GOOD], Dn2Settings(CONFIG, n_images=10))
