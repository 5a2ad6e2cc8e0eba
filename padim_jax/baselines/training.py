"""The loop that trains a network: the same weights from the same seed, whatever the order of images and interruptions.

Step i learns from images that are drawn by the seed and i alone, with a key that is, too: a training that goes on from
a checkpoint comes to the weights of one that was never stopped, to the last bit on one machine. Products have the
precision that is usual on the device, which is less than that of float32 on a GPU or a TPU.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from padim_jax.baselines.networks import Network, Parameters
from padim_jax.baselines.scratch import ScratchImages
from padim_jax.baselines.trained_settings import TrainedSettings
from padim_jax.baselines.training_checkpoint import Progress, TrainingStopped
from padim_jax.baselines.training_host import TrainingHost
from padim_jax.lazy import extra

S = TypeVar("S", bound=TrainedSettings)
Loss = Callable[[Parameters, Mapping[str, Array], Array, Array], Array]
_BEAT = 10  # steps between two calls of callbacks
_DRAW, _SPLIT, _ORDER, _NOISE, _LOOK = range(5)  # what keys are for


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """What a method trains, and towards what; hashable, and the static argument of the program of a step.

    Attributes:
      settings: what it is trained with.
    """

    settings: S

    @property
    def network(self) -> Network:
        """How the network is made."""
        raise NotImplementedError

    def loss(self, parameters: Parameters, constants: Mapping[str, Array], images: Array, key: Array) -> Array:
        """Loss of each image, float32 (b,), from uint8 images (b, height, width, 3)."""
        raise NotImplementedError

    def losses(self) -> Mapping[str, Loss]:
        """Losses by the beginning of the paths that they train, each of which moves its own part alone.

        One of all paths, "", unless a method trains parts against each other. The first one tells when to stop.
        """
        return {"": self.loss}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    """What a step changes.

    Attributes:
      parameters: by path.
      moments: of the optimiser, for each loss.
      loss: float32 (), of the last step.
      total: float32 (), of the losses since the last look.
      broken: int32 (), the first step whose loss or gradient was not finite; -1 where there is none.
    """

    parameters: dict[str, Array]
    moments: dict[str, Any]
    loss: Float[Array, ""]
    total: Float[Array, ""]
    broken: Int[Array, ""]


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Attributes:
      parameters: by path.
      history: see :class:`padim_jax.baselines.records.TrainedModel`.
      constants: what losses took as given.
    """

    parameters: dict[str, Array]
    history: Float[Array, "t c"]
    constants: dict[str, Array]


def least_images(settings: TrainedSettings) -> int:
    """How many good images there have to be: two to learn from, and one held out where the settings ask for that."""
    return 3 if settings.held_out else 2


def train(
    call: str,
    recipe: Recipe[Any],
    images: ScratchImages,
    host: TrainingHost | None = None,
    constants: Callable[[dict[str, Array], Int[np.ndarray, " m"]], dict[str, Array]] | None = None,
) -> Trained:
    """Train a network on good images.

    Args:
      call: who asks, for errors.
      recipe: what is trained.
      images: good ones.
      host: keeps the unfinished training, is told of it, and may stop it; None for nobody.
      constants: gives arrays by name which losses take as given, from the first parameters and the rows of the images
        that are learnt from; None for no such arrays.

    Raises:
      FloatingPointError: naming the step whose loss was not finite.
      TrainingStopped: ``host.stopped`` said so; the checkpoint, where there is one, is written.
      ModuleNotFoundError: Optax is not installed.
    """
    host = TrainingHost() if host is None else host
    settings, checkpoint = recipe.settings, host.checkpoint
    keys = [jax.random.fold_in(jax.random.key(settings.config.seed), use) for use in range(5)]
    held_out, kept = _split(keys[_SPLIT], len(images), settings.held_out)
    size = min(settings.batch_size, len(kept))
    steps = settings.steps or -(-(settings.epochs or 1) * len(kept) // size)
    program = _Program(replace(recipe, settings=settings.without_seed), steps)
    parameters = recipe.network.draw(keys[_DRAW])
    given = {} if constants is None else constants(parameters, kept)
    state, progress, identity = program.begin(parameters), Progress({}, [], 0, 0, None), ""
    if checkpoint is not None:
        identity = checkpoint.identity(settings, images.digest)
        state, progress = checkpoint.read(identity, state, parameters, host.note) or (state, progress)
    order = _Order(keys[_ORDER], kept, size)
    before, is_over = (time.monotonic(), progress.step), progress.is_over(steps, settings.patience)
    while not is_over:
        number = progress.step
        state = _step(program, state, given, images[order.batch(number)], keys[_NOISE], np.int32(number))
        progress = replace(progress, step=number + 1)
        if progress.step % settings.look_every == 0 or progress.step == steps:
            _check(call, settings, state)
            looked = _look(program, state.parameters, given, images, held_out, size, keys[_LOOK])
            if looked is not None and not np.isfinite(looked):
                raise _not_finite(
                    call, settings, f"the loss of the images held out is not finite after step {number + 1}"
                )
            progress, state = _after_look(settings, progress, state, looked)
        is_over = progress.is_over(steps, settings.patience)
        is_beat = progress.step % _BEAT == 0 or is_over
        has_to_stop = is_beat and not is_over and host.stopped()
        if is_beat:
            _check(call, settings, state)
            now = time.monotonic(), progress.step  # the check has waited for the step
            speed = (now[1] - before[1]) * size / max(now[0] - before[0], 1e-9)
            host.advance(progress.step, steps, float(state.loss), speed)
            before = now
        if checkpoint is not None and (is_over or has_to_stop or checkpoint.is_due(progress.step)):
            _check(call, settings, state)
            checkpoint.write(identity, state, progress)
        if has_to_stop:
            where = f"kept in {checkpoint.folder}: call it again to go on" if checkpoint else "and nothing is kept"
            raise TrainingStopped(f"{call}: stopped after {progress.step} of at most {steps} steps, {where}")
    if progress.step < steps:
        host.note(
            f"stopped after {progress.step} of at most {steps} steps: the loss of the {len(held_out)} images held out "
            f"was lowest {settings.patience} looks before"
        )
    history = jnp.asarray(progress.history, jnp.float32)
    return Trained(dict(progress.best) if len(held_out) else state.parameters, history, given)


def _split(key: Array, n: int, share: float) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " m"]]:
    count = min(max(1, round(share * n)), n - 2) if share else 0  # two are left to learn from, at least
    drawn = _permutation(key, n)
    return np.sort(drawn[:count]), np.sort(drawn[count:])


def _permutation(key: Array, n: int) -> Int[np.ndarray, " n"]:
    return np.argsort(np.asarray(jax.random.bits(key, (n,))), kind="stable")


class _Order:
    """Which rows each step learns from: all of them in an order drawn anew, again and again."""

    def __init__(self, key: Array, rows: Int[np.ndarray, " m"], size: int) -> None:
        self._key, self._rows, self._size = key, rows, size
        self._round = functools.lru_cache(maxsize=2)(self._draw)

    def batch(self, number: int) -> Int[np.ndarray, " b"]:
        places = np.arange(number * self._size, (number + 1) * self._size)
        rounds, place = np.divmod(places, len(self._rows))
        return np.asarray([self._round(int(a))[b] for a, b in zip(rounds, place, strict=True)])

    def _draw(self, number: int) -> Int[np.ndarray, " m"]:
        return self._rows[_permutation(jax.random.fold_in(self._key, number), len(self._rows))]


@dataclass(frozen=True)
class _Program:
    """What the program of a step depends on; hashable."""

    recipe: Recipe[Any]
    steps: int

    def begin(self, parameters: dict[str, Array]) -> _State:
        parts = {part: self.optimiser.init(_own(parameters, part)) for part in self.recipe.losses()}
        return _State(parameters, parts, jnp.float32(0), jnp.float32(0), jnp.int32(-1))

    @property
    def optimiser(self) -> Any:
        with extra("train"):
            import optax
        settings = self.recipe.settings
        rise = round(settings.warm_up * self.steps)
        rate = optax.warmup_cosine_decay_schedule(
            settings.learning_rate / max(rise, 1), settings.learning_rate, rise, max(self.steps, rise + 1)
        )
        return optax.chain(
            optax.clip_by_global_norm(settings.clip),
            optax.adamw(rate, b1=settings.first_decay, weight_decay=settings.weight_decay),
        )


def _own(parameters: Mapping[str, Array], part: str) -> dict[str, Array]:
    return {path: leaf for path, leaf in parameters.items() if path.startswith(part)}


@functools.partial(jax.jit, static_argnames="program")
def _step(
    program: _Program, state: _State, constants: Mapping[str, Array], images: Array, key: Array, number: Array
) -> _State:
    key = jax.random.fold_in(key, number)
    parameters, moments, losses, is_finite = dict(state.parameters), {}, [], jnp.bool_(True)
    for part, loss in program.recipe.losses().items():

        def mean(own: dict[str, Array], loss: Callable[..., Array] = loss) -> Array:
            return jnp.mean(loss({**state.parameters, **own}, constants, images, key))

        own = _own(state.parameters, part)
        value, gradient = jax.value_and_grad(mean)(own)
        with jax.numpy_dtype_promotion("standard"):  # Optax takes powers of floats by integers
            changes, moments[part] = program.optimiser.update(gradient, state.moments[part], own)
        parameters |= jax.tree.map(jnp.add, own, changes)
        losses.append(value)
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)]
        is_finite &= jnp.isfinite(value) & jnp.isfinite(sum(squares[1:], squares[0]))
    broken = jnp.where(is_finite | (state.broken >= 0), state.broken, number)
    return _State(parameters, moments, losses[0], state.total + losses[0], broken)


@functools.partial(jax.jit, static_argnames="program")
def _judge(
    program: _Program, parameters: Parameters, constants: Mapping[str, Array], images: Array, key: Array
) -> Array:
    return next(iter(program.recipe.losses().values()))(parameters, constants, images, key)


def _look(
    program: _Program,
    parameters: Parameters,
    constants: Mapping[str, Array],
    images: ScratchImages,
    rows: Int[np.ndarray, " k"],
    size: int,
    key: Array,
) -> float | None:
    """Mean loss of the images held out, with the same noise at each look; None where there are none."""
    losses = []
    for number, (batch, n) in enumerate(images.batches(size, rows)):
        found = _judge(program, parameters, constants, batch, jax.random.fold_in(key, number))
        losses.append(np.asarray(found)[:n])
    return float(np.concatenate(losses).astype(np.float64).mean()) if losses else None


def _after_look(
    settings: TrainedSettings, progress: Progress, state: _State, looked: float | None
) -> tuple[Progress, _State]:
    since = progress.step - (int(progress.history[-1][0]) if progress.history else 0)
    row = [float(progress.step), float(state.total) / since] + ([] if looked is None else [looked])
    progress = replace(progress, history=[*progress.history, row])
    if looked is not None and (progress.best_loss is None or looked < progress.best_loss):
        progress = replace(progress, best=state.parameters, best_loss=looked, waited=0)
    elif looked is not None:
        progress = replace(progress, waited=progress.waited + 1)
    return progress, replace(state, total=jnp.float32(0))


def _check(call: str, settings: TrainedSettings, state: _State) -> None:
    """Raise ``FloatingPointError`` where the loss or the gradient of a step was not finite."""
    if (step := int(state.broken)) >= 0:
        raise _not_finite(call, settings, f"the loss or its gradient is not finite at step {step + 1}")


def _not_finite(call: str, settings: TrainedSettings, what: str) -> FloatingPointError:
    return FloatingPointError(
        f"{call}: {what}; lower learning_rate={settings.learning_rate:g} or clip={settings.clip:g}, or raise warm_up="
        f"{settings.warm_up:g}"
    )
