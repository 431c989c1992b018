"""What a prior is handed of the levels: only what it has a field for. Traced, nothing is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_priors import made

from vqvae_jax import parts
from vqvae_jax.priors.pixelcnn import PixelCNNPrior
from vqvae_jax.priors.transformer import TransformerPrior
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import Condition, Level, UserError

FACTS = {"label_names": ["a", "b"], "levels": [["top", [3, 2], 5], ["bottom", [6, 4], 7]]}


def config(name):
    prior = {"name": name, "optimizer": {}, "train": {"dtype": "bfloat16"}}
    return {"autoencoder": {"name": "vqvae2"}, "dataset": {"name": "tokens"}, "priors": {"top": prior, "bottom": prior}}


@pytest.mark.parametrize(("name", "kind"), [("transformer", TransformerPrior), ("pixelcnn", PixelCNNPrior)])
def test_a_prior_knows_its_level_and_those_above(name, kind):
    top, bottom = (parts.Parts(config(name), FACTS).prior(level) for level in ("top", "bottom"))
    assert type(top) is type(bottom) is kind
    assert (top.maps, top.above) == ((Level("top", (3, 2), 5),), ())
    assert (bottom.maps, bottom.above) == ((Level("bottom", (6, 4), 7),), top.maps)
    assert bottom.num_labels == 2 and bottom.dtype == jnp.bfloat16


@pytest.mark.parametrize("shapes", [((2, 1), (4, 2)), ((2, 3), (5, 1))])
def test_abstract_parameters_are_those_of_an_initialization(shapes):
    small = {"width": 8, "heads": 2, "layers": 1}
    prior = made("transformer", 4, (8, 4), coarse_sizes=(3, 5), coarse_shapes=shapes, depths=2, **small)
    coarse = tuple(jnp.zeros((1, *shape), jnp.int32) for shape in shapes)
    tokens = jnp.zeros((1, 8, 4, 2), jnp.int32)
    want = jax.eval_shape(prior.init, jax.random.key(0), tokens, Condition(None, coarse))
    assert parts.abstract_prior(prior).params == want["params"]


def test_a_step_and_an_evaluation_of_several_depths():
    prior = made("transformer", 4, (2, 3), depths=2, width=8, heads=2, layers=1)
    task = PriorTask(prior, slice(0, 2), optax.sgd(0.1))
    batch = {"tokens": (jnp.zeros((5, 2, 3), jnp.int32),) * 2, "mask": jnp.arange(5) < 3, "index": jnp.arange(5)}
    state = jax.jit(task.init)(jax.random.key(0), batch)
    after, metrics = jax.jit(task.train_step)(state, batch)
    sums = jax.jit(task.eval_step)(task.model(state), batch)
    assert int(after.step) == 1 and sums["count"] == 3
    np.testing.assert_allclose(task.summary(sums)["nll"], metrics["nll"], rtol=1e-5)  # all maps are alike


def test_scales_that_end_elsewhere_name_their_level():
    scales = {"name": "multiscale", "scales": (1, 2), "inner": {"name": "vq", "codebook_size": 4, "code_dim": 4}}
    plain = {"name": "vq", "codebook_size": 4, "code_dim": 4}
    section = {"name": "hierarchical", "levels": 2, "width": 8, "quantizer": plain, "quantizers": {"bottom": scales}}
    made = parts.Parts({"autoencoder": section, "train": {"dtype": "float32"}}, {"image_size": 32, "channels": 3})
    with pytest.raises(UserError, match=r"--config\.autoencoder\.quantizers\.bottom\.scales=1,2,8$"):
        _ = made.levels
