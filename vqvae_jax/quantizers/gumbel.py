"""Codes drawn by Gumbel-softmax, https://arxiv.org/abs/1611.01144, as in DALL-E, https://arxiv.org/abs/2102.12092, 2.1.

The encoder says a logit a code. In training each place is a mixture of all codes, softmax((logits + Gumbel noise) / τ):
a sample of softmax(logits) that has a gradient, the nearer to one code the smaller τ is. Everywhere else it is
the likeliest code, without noise.

Legend: B batch, K codes, D code size, C channels of a vector that logits are made of.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.limits import Count, Natural
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens, UserError


@dataclasses.dataclass(frozen=True)
class GumbelQuantizer:
    """A relaxed sample of the codes; they learn as any layer does, by the gradient of what is made of them.

    The term `kl` is KL(softmax(logits) ‖ uniform), of the logits as they are, the mean over places, in nats a place: it
    holds codes in use. It is not ramped here: `loss_weights.kl` may be. DALL-E's weight is 6.6 / 192 beside nats a
    subpixel, from 0 over its first 5,000 steps. The temperature is a function of the training steps in `stats`:
    a run that goes on is where it was, and so is one that `train.init_from` starts from it: a trained model is not
    melted.

    Attributes:
        codebook_size: codes, K.
        code_dim: channels of a code, D.
        temperature: τ in the first step, and after the ramp.
        ramp_steps: from one to the other, along half a cosine. DALL-E's: 150,000.
        straight_through: z_q is the code that the sample likes best, with the gradient of the mixture.
        vector_dim: channels of a vector that the encoder says in place of logits, C: a linear layer that belongs to the
            quantizer makes logits of it, as in VQ-GAN's code; 0: it says the logits.
    """

    codebook_size: Count = 512
    code_dim: Count = 64
    temperature: tuple[float, float] = (1.0, 1 / 16)
    ramp_steps: Count = 2000
    straight_through: bool = False
    vector_dim: Natural = 0

    def __post_init__(self):
        ends = self.temperature
        if len(ends) != 2 or not all(math.isfinite(end) and end > 0 for end in ends):
            raise UserError(f"temperature wants two numbers above 0, the first and the last, as 1,0.0625; got {ends}")

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms, each with its usual weight."""
        return {"kl": 0.01}

    @property
    def input_dim(self) -> int:
        return self.vector_dim or self.codebook_size

    @property
    def output_dim(self) -> int:
        return self.code_dim

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        return (self.codebook_size,)

    def init(self, key: Array) -> Codebook:
        codes, kernel, bias = jax.random.split(key, 3)
        size, bound = self.codebook_size, max(self.vector_dim, 1) ** -0.5
        uniform = lambda key, *shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)  # noqa: E731
        params = {"kernel": uniform(kernel, self.vector_dim, size), "bias": uniform(bias, size)}
        stats = {"idle": jnp.zeros(size, jnp.int32), "step": jnp.zeros((), jnp.int32)}
        return Codebook(jax.random.normal(codes, (size, self.code_dim)), params if self.vector_dim else {}, stats)

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, K], of vectors [B, …, C] → Quantized; in training `key` is needed.

        `indices` are the likeliest codes, in training too, and so is what counts as used.
        """
        logits = self.logits(codebook, z_e)
        indices = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        losses = {"kl": jnp.mean(divergence(logits))}
        if not train:
            z_q = self.lookup(codebook, (indices,))
            return Quantized(z_q.astype(z_e.dtype), (indices,), losses, codebook, None)
        assert key is not None
        share = self._share(logits + jax.random.gumbel(key, logits.shape), codebook.stats["step"])
        z_q = jnp.matmul(share, codebook.codes, precision=lax.Precision.HIGHEST)
        return Quantized(z_q.astype(z_e.dtype), (indices,), losses, self._after(codebook, indices), None)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return codebook.codes[indices[0]]

    def logits(self, codebook: Codebook, z_e: Array) -> Array:
        """float32 [B, …, K] of what the encoder says."""
        z_e = z_e.astype(jnp.float32)
        if not self.vector_dim:
            return z_e
        made = jnp.matmul(z_e, codebook.params["kernel"], precision=lax.Precision.HIGHEST)
        return made + codebook.params["bias"].reshape(*[1] * (z_e.ndim - 1), -1)

    def temperature_at(self, step: Array | int) -> Array:
        """τ of the step after so many."""
        first, last = self.temperature
        share = jnp.minimum(jnp.asarray(step, jnp.float32) / self.ramp_steps, 1.0)
        return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))

    def _share(self, noisy: Array, step: Array) -> Array:
        """Of each code in a place's mixture, [B, …, K] → the same; it sums to 1."""
        soft = jax.nn.softmax(noisy / self.temperature_at(step), axis=-1)
        if not self.straight_through:
            return soft
        return cb.straight_through(soft, jax.nn.one_hot(jnp.argmax(noisy, axis=-1), self.codebook_size))

    def _after(self, codebook: Codebook, indices: Array) -> Codebook:
        """One step more, with what it used."""
        idle = cb.idle(codebook.stats["idle"], cb.counts(indices, self.codebook_size))
        return codebook.replace(stats={"idle": idle, "step": codebook.stats["step"] + 1})


def divergence(logits: Array) -> Array:
    """Kullback-Leibler divergence of softmax(logits) from the uniform distribution, nats: [..., K] → [...]."""
    log_share = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.sum(jnp.exp(log_share) * (log_share + math.log(logits.shape[-1])), axis=-1)
