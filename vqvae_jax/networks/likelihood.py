"""Cross-entropy over classes, and picking one of them."""

import math

import jax
import jax.numpy as jnp

from vqvae_jax.types import Array, Pick

LEAST_LOG_SCALE = -7.0  # of `logit_laplace`


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log p(label) in nats, float32. logits [..., K], int labels [...] → [...]."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def nll(logits: Array, labels: Array) -> Array:
    """Mean cross-entropy of each example, in nats a label: [B, …, K], int [B, …] → float32 [B]."""
    return jnp.mean(cross_entropy(logits, labels), axis=tuple(range(1, labels.ndim)))


def gumbel(keys: Array, shape: tuple[int, ...]) -> Array:
    """Noise for `pick_token`, each row from its own key: keys [B] → float32 [B, *shape]."""
    return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)


def pick_token(noise: Array, logits: Array, pick: Pick) -> Array:
    """One class a row, [..., K] → int32 [...]: temperature first, then top_k, then top_p of what is left.

    The likeliest of logits + Gumbel noise is a draw from softmax(logits).
    """
    if pick.temperature < 1e-6:  # dividing by less would overflow
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits.astype(jnp.float32) / pick.temperature
    if pick.top_k:
        logits = keep_top_k(logits, pick.top_k)
    if pick.top_p < 1:
        logits = keep_top_p(logits, pick.top_p)
    return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)


def guide(logits: Array, guided: bool, weight: float) -> Array:
    """Classifier-free guidance, https://arxiv.org/abs/2207.12598: away from what would be said without the label."""
    if not guided:
        return logits
    given, blind = jnp.split(logits, 2, axis=0)
    return blind + weight * (given - blind)


def keep_top_k(logits: Array, k: int) -> Array:
    """The k likeliest classes, and those as likely as the last of them; the others become -inf."""
    k = min(k, logits.shape[-1])
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_top_p(logits: Array, p: float) -> Array:
    """The smallest set of likeliest classes whose probability reaches p, and those as likely as its last, never empty.

    The others become -inf.
    """
    ordered = -jnp.sort(-logits, axis=-1)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability  # mass of the likelier ones
    kept = (before < p) | (before <= 0)  # the likeliest in any case
    least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)


def discretised_logistic(images: Array, means: Array, scale: Array) -> Array:
    """-log p(pixel) in nats, of a logistic over a pixel's 256 values (https://arxiv.org/abs/1701.05517, section 2.1).

    A value has the mass from half a step below to half a step above it; 0 and 255 have all beyond.
    uint8 images, float means of any value and positive scales, both in steps of a pixel's value, broadcast → float32.
    """
    x, means = images.astype(jnp.float32), means.astype(jnp.float32)
    above, below = (x + 0.5 - means) / scale, (x - 0.5 - means) / scale
    # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)): no difference of numbers that are nearly the same
    inside = jax.nn.log_sigmoid(above) + jax.nn.log_sigmoid(-below) + jnp.log(-jnp.expm1(-1.0 / scale))
    return -jnp.where(x == 0, jax.nn.log_sigmoid(above), jnp.where(x == 255, jax.nn.log_sigmoid(-below), inside))


def logit_laplace(x: Array, location: Array, log_scale: Array) -> Array:
    """-log p(x) in nats of the sigmoid of a Laplace variable (https://arxiv.org/abs/2102.12092, appendix A.3).

    A density on (0, 1), which has no bound: flat ground, always foretold, would drive the scale to 0. It ends at
    exp(LEAST_LOG_SCALE), about a thirtieth of a step of uint8. All [...], x between 0 and 1 → float32 [...].
    """
    x, location = x.astype(jnp.float32), location.astype(jnp.float32)
    log_scale = jnp.maximum(log_scale.astype(jnp.float32), LEAST_LOG_SCALE)
    apart = jnp.abs(jnp.log(x) - jnp.log1p(-x) - location)
    return log_scale + math.log(2) + jnp.log(x) + jnp.log1p(-x) + apart * jnp.exp(-log_scale)
