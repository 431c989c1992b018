"""What speed.py times of ours: one small function a row, each giving a Work. A later model adds its own."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sizes import BOTTOM, TOP

from vqvae_jax import config as configs
from vqvae_jax.autoencoders import AUTOENCODERS
from vqvae_jax.networks.fast import plain
from vqvae_jax.parts import Parts, build_network
from vqvae_jax.priors import PRIORS
from vqvae_jax.priors.draw import draw, draw_group
from vqvae_jax.quantizers import QUANTIZERS
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.stages import task_of
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import Condition, Level, Model, Pick

OPTIMIZER = {
    "learning_rate": 1e-3,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "clip": 0.0,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "schedule": "constant",
}
LOSS_WEIGHTS = {"reconstruction": 1.0, "feature": 1.0, "codebook": 1.0, "commitment": 0.25}


class Work(NamedTuple):
    """What is timed: state = step(state, *inputs), again and again."""

    step: Callable[..., Any]
    state: Any
    inputs: tuple[Any, ...]
    flops: float  # what a look at the plain layers says is needed
    moved: float  # bytes that must come from memory and go back
    program: Callable[[], Any]  # lowers what is compiled, anew each time


def autoencoder_step(
    batch: int, dtype: str, *, size: int, channels: int, levels: int, width: int, codes: int, parts: int = 1
) -> Work:
    """A training step of the reference's autoencoder on uint8 images: losses, Adam, revival, metrics."""
    quantizers = tuple(QUANTIZERS["vq"](codes, width) for _ in range(levels))
    autoencoder = AUTOENCODERS["hierarchical"](quantizers, levels, width, channels, dtype=jnp.dtype(dtype))
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, channels), np.uint8)
    task = AutoencodeTask(autoencoder, make_optimizer(OPTIMIZER, 1000), LOSS_WEIGHTS, accumulate=parts)
    return _training(task, {"image": images})


def recipe_step(batch: int, dtype: str, *, config: str, size: int, overrides: tuple[str, ...] = ()) -> Work:
    """A training step of a recipe's autoencoder when all of its losses are in force, but without frozen nets."""
    fields = configs.read(config, (f"--config.train.dtype={dtype}", *overrides))
    fields["loss_weights"].pop("perceptual", None)
    facts = {"image_size": size, "channels": 3, "label_names": [], "label_counts": []}
    task = task_of(Parts(fields, facts), configs.AUTOENCODER, 1000)
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    late = task.phase(getattr(task, "start", 0) + 1)
    return _training(task, {"image": images}, late)


def prior_step(batch: int, dtype: str, *, parts: int = 1, **fields: Any) -> Work:
    """A training step of a prior on maps, of codes or of numbers."""
    prior, rng = _prior(dtype, **fields), np.random.default_rng(0)
    (level,), form = prior.maps, (batch, *prior.maps[0].form)
    numbers = rng.normal(size=form) if level.vocab_size is None else rng.integers(0, level.vocab_size, form)
    task = PriorTask(prior, slice(0, 1), make_optimizer(OPTIMIZER, 1000), accumulate=parts)
    return _training(task, {"tokens": (numbers.astype(level.dtype),)})


def sampling(count: int, dtype: str, **fields: Any) -> Work:
    """So many maps drawn from a prior with fresh weights."""
    prior = _prior(dtype, **fields)
    model = _fresh(prior)
    step = lambda keys, model: _next(keys, *draw(prior, Pick(), model, keys, Condition()))  # noqa: E731
    keys = jax.random.split(jax.random.key(0), count)
    program = lambda: draw_group.lower(prior, Pick(), model, keys, Condition(), None, None)  # noqa: E731
    return Work(step, keys, (model,), *_sampling_needs(prior, model, count), program)


def forward(count: int, dtype: str, **fields: Any) -> Work:
    """One pass of a prior over so many whole maps: without caches, each pixel takes one."""
    prior = _prior(dtype, **fields)
    tokens = jnp.zeros((count, *prior.shape), jnp.int32)
    params = _fresh(prior).params

    def step(tokens: Any, params: Any) -> Any:
        return (tokens + jnp.argmax(prior.apply({"params": params}, tokens, Condition()), -1)) % prior.vocab_size

    needed = _flops(step, tokens, params), float(sum(x.nbytes for x in jax.tree.leaves(params)))
    return _jitted(step, tokens, (params,), *needed)


def hierarchy(count: int, dtype: str) -> Work:
    """256 px images from nothing: the reference's top and bottom priors, then its decoder."""
    top, bottom = _prior(dtype, **TOP), _prior(dtype, **BOTTOM)
    under = Condition(None, (jnp.zeros((1, *top.shape), jnp.int32),))
    models = _fresh(top), _fresh(bottom, under)
    quantizers = tuple(QUANTIZERS["vq"](512, 128) for _ in range(2))
    autoencoder = AUTOENCODERS["hierarchical"](quantizers, 2, 128, 3, dtype=jnp.dtype(dtype))
    codebooks = filled(autoencoder.init_codebooks, jax.random.key(0))
    variables = filled(autoencoder.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)), codebooks)
    decode = jax.jit(lambda maps: autoencoder.apply(variables, maps, codebooks, method="decode"))

    def step(keys: Any, models: Any) -> Any:
        above = draw(top, Pick(), models[0], keys, Condition())
        below = draw(bottom, Pick(), models[1], keys, Condition(None, above))
        return _next(keys, decode(above + below))

    keys = jax.random.split(jax.random.key(0), count)
    below = Condition(None, (jnp.zeros((count, *top.shape), jnp.int32),))
    program = lambda: draw_group.lower(bottom, Pick(), models[1], keys, below, None, None)  # noqa: E731
    needs = _sampling_needs(top, models[0], count), _sampling_needs(bottom, models[1], count, under)
    flops, moved = (sum(column) for column in zip(*needs, strict=True))
    return Work(step, keys, (models,), flops, moved, program)


def nearest_code(vectors: int, dim: int, codes: int) -> Work:
    """The nearest of so many codes for each vector."""
    z = jax.random.normal(jax.random.key(0), (vectors, dim))
    table = jax.random.normal(jax.random.key(1), (codes, dim))
    step = lambda z, table: z + 1e-9 * cb.nearest(z, table)[:, None]  # noqa: E731
    return _jitted(step, z, (table,), 2.0 * vectors * dim * codes, 4.0 * dim * (vectors + codes))


def plain_nearest_code(vectors: int, dim: int, codes: int) -> Work:
    """The same as one product and argmin, as one would write it."""
    z = jax.random.normal(jax.random.key(0), (vectors, dim))
    table = jax.random.normal(jax.random.key(1), (codes, dim))
    argmin = lambda z, table: jnp.argmin(jnp.sum(table**2, -1)[None] - 2 * z @ table.T, -1)  # noqa: E731
    step = lambda z, table: z + 1e-9 * argmin(z, table)[:, None]  # noqa: E731
    return _jitted(step, z, (table,), 2.0 * vectors * dim * codes, 4.0 * dim * (vectors + codes))


def ema_update(vectors: int, dim: int, codes: int) -> Work:
    """Counts, sums, averages and revival of an EMA codebook, its indices given."""
    quantizer = QUANTIZERS["ema"](codes, dim)
    z = jax.random.normal(jax.random.key(0), (vectors, dim))
    indices = jax.random.randint(jax.random.key(1), (vectors,), 0, codes)
    step = lambda codebook, z, indices: quantizer.moved(codebook, z, indices, jax.random.key(2))[0]  # noqa: E731
    return _jitted(step, quantizer.init(jax.random.key(3)), (z, indices), 0.0, 4.0 * vectors * dim)


def filled(function: Callable[..., Any], *inputs: Any) -> Any:
    """Arrays like those that an initializer gives, without compiling its hundreds of draws.

    Kernels and codes are normal, divided by the root of what they sum over; scales are 1, all else 0.
    """
    numbers = np.random.default_rng(0)

    def fill(path: Any, like: Any) -> Any:
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        name = jax.tree_util.keystr(path)
        if "opt_state" in name or like.ndim < 2:
            return np.full(like.shape, float("scale" in name and "opt_state" not in name), like.dtype)
        return (numbers.standard_normal(like.shape) / np.prod(like.shape[:-1]) ** 0.5).astype(like.dtype)

    return jax.device_put(jax.tree_util.tree_map_with_path(fill, jax.eval_shape(function, *inputs)))


def _prior(dtype: str, **fields: Any) -> Any:
    """A prior over one map, of codes or of numbers."""
    return _diffusion(dtype, **fields) if "network" in fields else _coded(dtype, **fields)


def _diffusion(dtype: str, shape: tuple[int, int], channels: int, network: dict[str, Any], **fields: Any) -> Any:
    built = build_network(network, channels, jnp.dtype(dtype))
    maps = (Level("map", shape, None, channels),)
    return PRIORS["diffusion"](maps=maps, network=built, dtype=jnp.dtype(dtype), **fields)


def _coded(
    dtype: str, name: str, vocab_size: int, shape: tuple[int, int], coarse_sizes: tuple[int, ...] = (), **fields: Any
) -> Any:
    """Each of the maps above half of the next."""
    sizes, count = (*coarse_sizes, vocab_size), len(coarse_sizes)
    levels = [Level(f"map {i}", (shape[0] >> count - i, shape[1] >> count - i), n) for i, n in enumerate(sizes)]
    return PRIORS[name](maps=(levels[-1],), above=tuple(levels[:-1]), dtype=jnp.dtype(dtype), **fields)


def _fresh(prior: Any, condition: Condition = Condition()) -> Model:
    """A prior with weights as before training."""
    tokens, keys = jnp.zeros((1, *prior.maps[0].form), prior.maps[0].dtype), jax.random.split(jax.random.key(0), 1)
    init = lambda key: prior.init(key, (tokens,), condition, keys, method="loss")  # noqa: E731
    return Model(filled(init, jax.random.key(0))["params"], {})


def _training(task: Any, batch: dict[str, Any], phase: Any = None) -> Work:
    """A task's jitted step, as the training loop makes it."""
    batch = jax.device_put(batch)
    state = filled(task.init, jax.random.key(0), batch)
    size = sum(x.nbytes for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
    whole = dataclasses.replace(task, accumulate=1)  # without what is computed again
    flops = _flops(lambda state, batch: whole.train_step(state, batch, None, phase), state, batch)
    step = lambda state, batch: task.train_step(state, batch, None, phase)[0]  # noqa: E731
    return _jitted(step, state, (batch,), flops, 2.0 * size)


def _jitted(step: Callable[..., Any], state: Any, inputs: tuple[Any, ...], flops: float, moved: float) -> Work:
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, *inputs))
    program = lambda: jax.jit(lambda *a: step(*a), donate_argnums=0).lower(*like)  # noqa: E731
    return Work(jax.jit(step, donate_argnums=0), state, inputs, flops, moved, program)


def _next(keys: Any, drawn: Any) -> Any:
    """Other keys, which wait for what was drawn."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, jnp.sum(drawn).astype(jnp.int32))


def _flops(function: Callable[..., Any], *inputs: Any) -> float:
    """As XLA counts them before it changes anything, of plain layers, of a loop one pass; NaN where there is no CPU."""
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return math.nan
    with plain(), jax.default_device(host):
        return (jax.jit(lambda *inputs: function(*inputs)).lower(*like).cost_analysis() or {}).get("flops", math.nan)


def _one_pass(prior: Any) -> tuple[str, tuple[Any, ...]]:
    """What a prior that draws in steps calls in each of them, and with what of one map."""
    (level,) = prior.maps
    if level.vocab_size is None:
        return "foretell", (jnp.zeros((1, *level.form)), jnp.zeros(1))
    return "logits", (jnp.zeros((1, math.prod(level.shape)), jnp.int32),)


def _sampling_needs(prior: Any, model: Model, count: int, condition: Condition = Condition()) -> tuple[float, float]:
    """(FLOP, bytes): each position computed once, the weights that a pixel needs read once a pixel; of a prior that
    draws in steps all positions once a step."""
    shape, variables = (1, *prior.maps[0].shape), {"params": model.params}
    if steps := getattr(prior, "sample_steps", 0):
        method, given = _one_pass(prior)
        flops = _flops(lambda *given: prior.apply(variables, *given, condition, method=method), *given)
        return count * steps * flops, float(steps * sum(x.nbytes for x in jax.tree.leaves(model.params)))
    tokens = jnp.zeros(shape, jnp.int32)
    flops = _flops(lambda params: prior.apply({"params": params}, tokens, condition), model.params)
    once_a_row = ("vertical_conv", "vert_to_horiz", "cond_layer", "coarse_stack", "embed")
    read = sum(
        x.nbytes
        for path, x in jax.tree_util.tree_leaves_with_path(model.params)
        if not any(part in jax.tree_util.keystr(path) for part in once_a_row)
    )
    return count * flops, float(read * tokens.size)
