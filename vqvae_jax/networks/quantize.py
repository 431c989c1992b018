"""A quantizer as a Linen layer that keeps its own codebook, for models that are no autoencoder of ours.

layer = QuantizerLayer(EMAQuantizer(512, 64))
variables = layer.init(key, z_e)
out, moved = layer.apply(variables, z_e, train=True, rngs={"codebook": key}, mutable=["codebook"])
variables = {**variables, **moved}
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.types import Array, Codebook, Quantized, Quantizer


class QuantizerLayer(nn.Module):
    """[B, …, input_dim] → Quantized, with the codebook in the collection "codebook".

    Codes that learn by gradient are moved by the quantizer and by the optimizer. The quantizer's part is in the
    collection, the optimizer's is the parameter "codes", which begins at 0; the codes are their sum. So the quantizer
    moves first and the optimizer adds its step, whatever the optimizer is; exempt the parameter from weight decay.
    The layer clears no moments of revived codes: `out.fresh` says which they are.
    """

    quantizer: Quantizer

    @nn.compact
    def __call__(self, z_e: Array, *, train: bool = False) -> Quantized:
        """With train=True it needs rngs={"codebook": key} and mutable=["codebook"]."""
        kept = self.variable("codebook", "kept", lambda: self.quantizer.init(self.make_rng("params")))
        held: Codebook = kept.value
        losses = jax.eval_shape(self.quantizer, held, z_e).losses
        # "kl" is of mixtures of codes, where there are codes.
        by_gradient = held.codes.size > 0 and ("codebook" in losses or "kl" in losses)
        added = self.param("codes", nn.initializers.zeros, held.codes.shape, jnp.float32) if by_gradient else 0.0
        params = {name: self.param(name, lambda _, x=x: x) for name, x in held.params.items()}
        codebook = held.replace(codes=held.codes + added, params=params)
        if not train or self.is_initializing():
            return self.quantizer(codebook, z_e)
        out = self.quantizer(codebook, z_e, key=self.make_rng("codebook"), train=True)
        kept.value = jax.lax.stop_gradient(out.codebook.replace(codes=out.codebook.codes - added, params=held.params))
        return out
