"""One Gaussian at each of p positions: the mathematics, which knows no image, no network and no setting."""
