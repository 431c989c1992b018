"""Pure functions of codes: nearest, straight-through, usage, revival, k-means.

Everything here is float32 whatever the network computes in: in bfloat16 the nearest code is often another one.
Legend: N vectors, K codes, D code size.
"""

import contextlib

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.backend import choices
from vqvae_jax.networks.lookup import sums
from vqvae_jax.types import Array, Codebook, Quantizer, UserError

ROWS = 1024  # vectors in a block on CPU; elsewhere as many as DISTANCES allows
CODES = 4096  # codes in a block
SOME = 63  # codes among which the origin of a look-up is sought
GROUP = 64  # codes in a group whose smallest distance is looked for first
_from_zero = False
BITS = 24  # of an index, at most: each step counts how often every code was used, and 2^24 numbers are 64 MB
DISTANCES = 1 << 26  # on an accelerator, so many distances at once are no trouble


def nearest(z_e: Array, codes: Array, key: Array | None = None) -> Array:
    """The index of the nearest code by squared distance, the first on ties. [..., D], [K, D] → int32 [...].

    With a key it is drawn instead, with probability softmax over the codes of -|z - e|² (the Gumbel-max trick).
    Works in blocks of vectors and of codes where all distances at once would be large.
    """
    flat, codes = flattened(z_e), lax.stop_gradient(codes).astype(jnp.float32)
    origin = _origin(codes)
    codes = codes - origin
    count = flat.shape[0]
    at_once = DISTANCES if choices().distances_at_once else ROWS * CODES
    if key is not None:
        at_once //= 4  # noise takes several times the memory
    if count * codes.shape[0] <= at_once:
        return _nearest_of_block(flat - origin, codes, key)[1].reshape(z_e.shape[:-1])
    rows = _rows(count, min(CODES, codes.shape[0]), at_once)
    blocks = jnp.pad(flat, ((0, -count % rows), (0, 0))).reshape(-1, rows, flat.shape[-1])
    keys = None if key is None else jax.random.split(key, blocks.shape[0])
    index = lax.map(lambda of: _nearest_of_all(of[0] - origin, codes, of[1]), (blocks, keys))
    return index.reshape(-1)[:count].reshape(z_e.shape[:-1])


@contextlib.contextmanager
def measured_from_zero():
    """Inside, look-ups that are traced round as |e|² - 2 z·e does in others' code, for those who compare with it."""
    global _from_zero
    before, _from_zero = _from_zero, True
    try:
        yield
    finally:
        _from_zero = before


def _origin(codes: Array) -> Array:
    """A point among the codes, from which a look-up measures. [K, D] → [1, D].

    Far from 0, |e|² - 2 z·e is the difference of large numbers, and gives another code than the nearest. The point is
    of each channel the median of some codes, evenly spread: a few that flew off, or are not finite, do not move it as
    they would a mean, nor does the order in which devices add. It is 0 where half of the codes lie around 0: there it
    would gain nothing, and codes that are used, smaller than those that are not yet, would lose.
    """
    if _from_zero:
        return jnp.zeros((1, codes.shape[1]))
    some = jnp.sort(codes[:: -(-codes.shape[0] // SOME)], axis=0)
    low, middle, high = (some[quarter * some.shape[0] // 4][None] for quarter in (1, 2, 3))
    return jnp.where(jnp.abs(middle) > high - low, middle, 0.0)  # not finite: 0


def _rows(count: int, codes: int, at_once: int) -> int:
    """Vectors in a block: on CPU always so many, else as many as may be, shared out evenly."""
    if not choices().distances_at_once:
        return at_once // CODES
    most = max(1, at_once // codes)
    return -(-count // -(-count // most))


def _nearest_of_block(z: Array, codes: Array, key: Array | None = None, seen: Array | int = 0) -> tuple[Array, Array]:
    """Smallest distance [N] (less |z|², which is the same for every code) and its index [N].

    With a key, less Gumbel noise, and without the first codes that another block has `seen`: they had their draw.
    """
    dots = jnp.matmul(z, codes.T, precision=lax.Precision.HIGHEST)
    distance = jnp.sum(codes * codes, axis=-1)[None] - 2.0 * dots  # [N, K]
    if key is not None:
        distance = distance - jax.random.gumbel(key, distance.shape)
        distance = jnp.where(jnp.arange(codes.shape[0])[None] < seen, jnp.inf, distance)
    return _smallest(distance)


def _smallest(distance: Array) -> tuple[Array, Array]:
    """The smallest of each row and its index, the first on ties: [N, K] → [N], int32 [N].

    XLA:CPU looks for the smallest index by index; the smallest of each group by itself is vectors' work, several times
    as fast.
    """
    count, size = distance.shape
    if size % GROUP or size == GROUP or not choices().grouped_argmin:
        index = jnp.argmin(distance, axis=-1).astype(jnp.int32)
        return jnp.take_along_axis(distance, index[:, None], axis=-1)[:, 0], index
    groups = lax.optimization_barrier(distance).reshape(count, size // GROUP, GROUP)
    group = jnp.argmin(jnp.min(groups, axis=-1), axis=-1)
    inside = jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0]
    return jnp.min(inside, axis=-1), (group * GROUP + jnp.argmin(inside, axis=-1)).astype(jnp.int32)


def _nearest_of_all(z: Array, codes: Array, key: Array | None = None) -> Array:
    """Index [N] of the nearest of any number of codes: a running minimum over blocks of them."""
    size = min(CODES, codes.shape[0])

    def block(i: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        start = jnp.minimum(i * size, codes.shape[0] - size)  # the last block may overlap the one before
        here = lax.dynamic_slice_in_dim(codes, start, size)
        draw = None if key is None else jax.random.fold_in(key, i)
        distance, index = _nearest_of_block(z, here, draw, i * size - start)
        best, so_far = found
        return jnp.minimum(distance, best), jnp.where(distance < best, index + start, so_far)

    # A loop of XLA's, not of Python's: unrolled, the distances of all blocks are in memory at once.
    none = jnp.full(z.shape[0], jnp.inf), jnp.zeros(z.shape[0], jnp.int32)
    return lax.fori_loop(0, -(-codes.shape[0] // size), block, none)[1]


def flattened(z: Array) -> Array:
    """All vectors of a batch, held: [..., D] → float32 [N, D] without gradient."""
    return lax.stop_gradient(jnp.asarray(z, jnp.float32)).reshape(-1, z.shape[-1])


@jax.jit  # without jit around it XLA rounds otherwise, and lookup(indices) were not quite z_q
def normalised(x: Array) -> Array:
    """Vectors of length 1, float32, with gradient. [..., D] → [..., D]; 0 stays 0."""
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def straight_through(z_e: Array, z_q: Array) -> Array:
    """The value of z_q, exactly, with the gradient of z_e (arXiv 1711.00937, section 3.2)."""
    return lax.stop_gradient(z_q).astype(z_e.dtype) + (z_e - lax.stop_gradient(z_e))


def rotated(z_e: Array, z_q: Array) -> Array:
    """The value of z_q, exactly, with the gradient that turns and scales as z_e was turned and scaled to z_q.

    The rotation trick, https://arxiv.org/abs/2410.06424: z_q = |z_q| / |z_e| · R z_e, where R turns z_e to z_q in their
    plane; ratio and R are held, so a gradient keeps its angle to the code. [..., D] → [..., D]
    """
    held, to = lax.stop_gradient(z_e).astype(jnp.float32), lax.stop_gradient(z_q)
    ratio = _length(to) / jnp.maximum(_length(held), 1e-6)
    before, after = normalised(held), normalised(to)
    middle = normalised(before + after)
    along = lambda axis: jnp.sum(z_e.astype(jnp.float32) * axis, axis=-1, keepdims=True)  # noqa: E731
    turned = ratio * (z_e - 2.0 * along(middle) * middle + 2.0 * along(before) * after)
    return straight_through(turned.astype(z_e.dtype), z_q)


def _length(x: Array) -> Array:
    """[..., D] → [..., 1]."""
    return jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))


def distance_to(z: Array, target: Array) -> Array:
    """Mean squared distance of z to a target that is held, over all elements; float32 scalar."""
    return jnp.mean(jnp.square(z.astype(jnp.float32) - lax.stop_gradient(target).astype(jnp.float32)))


def counts(indices: Array, size: int) -> Array:
    """How often each code was used: int [...] → float32 [K]."""
    return jnp.zeros(size, jnp.float32).at[indices.reshape(-1)].add(1.0)


def perplexity(counts: Array) -> Array:
    """exp(entropy of the code frequencies): 1 when one code does all, K when all share alike. [K] → scalar."""
    share = counts / jnp.maximum(jnp.sum(counts), 1.0)
    return jnp.exp(-jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0)))


def usage(counts: Array) -> Array:
    """Share of the codes that were used at least once over what was counted. [K] → scalar in [0, 1]."""
    return jnp.mean((counts > 0).astype(jnp.float32))


def idle(steps: Array, used: Array) -> Array:
    """Steps since each code was last used, after one more step. int32 [K], counts [K] → int32 [K]."""
    return jnp.where(used > 0, 0, steps + 1)


def draw(key: Array | None, flat: Array, size: int) -> Array:
    """One of the batch's vectors for each code, uniformly, with replacement. [N, D] → [K, D]."""
    return flat[jax.random.randint(needed(key), (size,), 0, flat.shape[0])]


def needed(key: Array | None) -> Array:
    """The key. ValueError where there is none."""
    if key is None:
        raise ValueError(
            "a quantizer needs a key in training, for revival: quantizer(codebook, z_e, key=key, train=True)"
        )
    return key


def revive(
    codebook: Codebook, flat: Array, indices: Array, key: Array | None, revive_after: int
) -> tuple[Codebook, Array]:
    """Codes unused for so many steps become vectors of the batch, [N, D]; 0 never. → codebook, bool [K]: which."""
    size = codebook.codes.shape[0]
    steps = idle(codebook.stats["idle"], counts(indices, size))
    dead = (steps >= revive_after) & (revive_after > 0)
    codes = jnp.where(dead[:, None], draw(key, flat, size), codebook.codes)
    return codebook.replace(codes=codes, stats=codebook.stats | {"idle": jnp.where(dead, 0, steps)}), dead


def not_started(iterations: int) -> dict[str, Array]:
    """What a new codebook's stats say, if its codes are to come from `kmeans_start`."""
    return {"started": jnp.zeros((), bool)} if iterations else {}


def kmeans_start(codebook: Codebook, flat: Array, key: Array | None, iterations: int) -> Codebook:
    """In the first training step, before the look-up: codes that are k-means of its batch [N, D]; later as it is.

    `stats["started"]` remembers, so a run that goes on does not begin anew. The codes' gradient is as if they had
    been there before.
    """
    if not iterations:
        return codebook
    key = jax.random.fold_in(needed(key), 0)  # the key itself is for revival
    held = lax.stop_gradient(codebook.codes)
    codes = lax.cond(codebook.stats["started"], lambda: held, lambda: kmeans(key, flat, held.shape[0], iterations))
    stats = codebook.stats | {"started": jnp.ones((), bool)}
    return codebook.replace(codes=straight_through(codebook.codes, codes), stats=stats)


def kmeans(key: Array, flat: Array, size: int, iterations: int) -> Array:
    """Lloyd's algorithm from vectors drawn without replacement while there are any. [N, D] → [K, D].

    With fewer vectors than codes each is there at least once. A centre that no vector is nearest to stays.
    """
    count = flat.shape[0]
    first = flat[jax.random.permutation(key, count)[jnp.arange(size) % count]]

    def step(_: Array, centres: Array) -> Array:
        index = nearest(flat, centres)
        members = counts(index, size)[:, None]
        return jnp.where(members > 0, sums(flat, index, size) / jnp.maximum(members, 1.0), centres)

    return lax.fori_loop(0, iterations, step, first)


def check_inner(kind: str, inner: Quantizer, shared: bool) -> None:
    """UserError unless what a quantizer codes leaves something over, which another, or itself again, codes.

    Args:
        kind: of the quantizer around it, as a message names it.
        inner: the one inside.
        shared: whether one table codes all that is left over.
    """
    if not getattr(inner, "subtractable", False):
        raise UserError(
            f"a {kind} quantizer subtracts codes from z_e, but {inner} does not code z_e as it is; "
            "inner may be vq, ema, simvq, or cvq with distance='l2'"
        )
    iterations: int = getattr(inner, "kmeans_iterations", 0)
    if shared and iterations:
        raise UserError("with shared=True the first residuals are of random codes: set inner.kmeans_iterations=0")
