"""What a prior begins to read with: the codes as the quantizer looks them up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.code_features import features
from vqvae_jax.networks.scales import embedded, running
from vqvae_jax.quantizers.ema import EMAQuantizer
from vqvae_jax.quantizers.multiscale import MultiscaleQuantizer
from vqvae_jax.quantizers.simvq import SimVQuantizer


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("inner", [EMAQuantizer, SimVQuantizer])
@pytest.mark.parametrize("phis", [0, 2])
def test_they_add_up_to_what_is_decoded(inner, shared, phis):
    """SimVQ's codes are in no table; a prior has no place for what they are made of."""
    quantizer = MultiscaleQuantizer(inner(6, 4), (1, 2), phis, shared)
    book = quantizer.init(jax.random.key(0))
    found = features(quantizer, book)
    assert set(found) == ({"codes", "kernel", "bias"} if phis else {"codes"})
    assert found["codes"].shape == ((6, 4) if shared else (2, 6, 4))
    maps = (jnp.array([[[5]]]), jnp.array([[[0, 3], [2, 1]]]))
    sums = running(embedded(found["codes"], maps), {name: found[name] for name in found if name != "codes"}, (2, 2))
    np.testing.assert_allclose(sums[-1], quantizer.lookup(book, maps), atol=1e-6)
