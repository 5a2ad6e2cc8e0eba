"""What the settings say of positions: which Gaussian each cell of the grid is held against."""

from padim_jax.config import PadimConfig
from padim_jax.gaussians.arrangement import Arrangement, OwnGaussians, SharedGaussians
from padim_jax.method.embedding import Embedding


def arrangement_of(config: PadimConfig) -> Arrangement:
    """How the cells of the grid and the Gaussians belong together."""
    return SharedGaussians(config.n_components) if config.positions == "shared" else OwnGaussians()


def n_gaussians(config: PadimConfig, embedding: Embedding) -> int:
    """How many Gaussians a model has: one for each cell of the grid, or the components that all share."""
    return arrangement_of(config).n_gaussians(embedding.n_positions)
