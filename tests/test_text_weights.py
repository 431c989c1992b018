"""A text encoder inside a diffusion prior in training: what is held stays, what it begins with is the file's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.test_text_encoders import PLACES, TEXTS, WORDS, tensors
from small_models import drawn, quick

from vqvae_jax import config as configs
from vqvae_jax import text_weights
from vqvae_jax.data import text
from vqvae_jax.interop import clip
from vqvae_jax.networks import DiT, TextTransformer
from vqvae_jax.networks.clip_text import CLIPText
from vqvae_jax.parts import Parts
from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import Caption, Condition, Level, UserError

MAP, TOLD = Level("codes", (2, 4), None, 3), Caption(WORDS + 1, PLACES - 2)
TIME = np.float32([0.2, 0.4, 0.6, 0.8])
FACTS = {"image_size": 8, "channels": 3, "label_names": [], "label_counts": []}


def written(**encoder):
    """A config whose prior begins with CLIP's file."""
    train, prior = {"batch_size": 4, "steps": 2}, {"name": "diffusion", "text_condition": True, "text_dropout": 0.5}
    network = {"name": "dit", "width": 16, "layers": 1, "heads": 2}
    config = {
        "dataset": {"name": "folder", "path": "x", "image_size": 8},
        "autoencoder": {"name": "vqvae", "width": 4, "quantizer": {"name": "kl", "code_dim": 3}},
        "loss_weights": {"reconstruction": 1.0, "kl": 1e-3},
        "train": train,
        "priors": {"codes": {**prior, "network": network, "train": dict(train)}},
        "text": {"vocab_size": WORDS + 1, "length": PLACES - 2},
    }
    config["priors"]["codes"]["optimizer"] = {"weight_decay": 0.5, "ema_rate": 0.9, "clip": 1.0}
    fields = {"name": "clip", "width": 16, "layers": 2, "heads": 4, "vocab": WORDS, "length": PLACES}
    config["priors"]["codes"]["text_encoder"] = fields | encoder
    return configs.complete(config)


def test_what_is_frozen_stays_as_the_file_has_it(tmp_path):
    """Weight decay, averages and moments know nothing of it; all else moves."""
    np.savez(tmp_path / "clip.npz", **tensors())
    config = written(weights=str(tmp_path / "clip.npz"))
    configs.check(config)
    built = Parts(config, FACTS)
    prior = built.prior("codes")
    optimizer = config["priors"]["codes"]["optimizer"]
    task = PriorTask(prior, slice(0, 1), make_optimizer(optimizer, 2), ema_rate=optimizer["ema_rate"])
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 2, 3)), jnp.float32)
    batch = {"tokens": (maps,), "text": jnp.asarray(TEXTS)}
    fresh = quick(task.init)(jax.random.key(0), batch)
    begun = quick(task.start_from)(fresh, text_weights.given(built, "codes")(task.model(fresh)))
    wanted = clip.weights(tmp_path / "clip.npz", prior.text_encoder, fresh.params["text_encoder"])
    jax.tree.map(np.testing.assert_array_equal, begun.params["network"], fresh.params["network"])
    after, _ = quick(lambda state: task.train_step(state, batch))(begun)
    for params in (begun.params, after.params, after.ema_params, task.model(after).params):
        jax.tree.map(np.testing.assert_array_equal, params["text_encoder"], wanted)
    assert "text_encoder" not in str(jax.tree_util.tree_structure(after.opt_state))
    for before, now in zip(*map(moving, (begun, after)), strict=True):
        assert not np.any(before) or np.any(now != before)
    assert text_weights.checksums(config, tmp_path / "none")["codes"] > 0


def moving(state):
    """What is not held: decay moves all that is not 0."""
    return [one for name, part in state.params.items() if name != "text_encoder" for one in jax.tree.leaves(part)]


def test_nothing_begins_without_what_it_knows(tmp_path):
    np.savez(tmp_path / "clip.npz", **tensors())
    (tmp_path / "tokenizer.json").write_text(text.learned(["a word"], 290))

    def refused(words, told=None, **encoder):
        config = written(**encoder)
        config["text"]["tokenizer"] = str(told or "")
        with pytest.raises(UserError, match=words):
            text_weights.check(config, "codes")

    file = str(tmp_path / "clip.npz")
    refused("a frozen text encoder that knows nothing says nothing: .*weights=FILE of CLIP, or .*frozen=false")
    refused("text_encoder.weights=nowhere: there is no such file", weights="nowhere")
    refused("its words are those of its tokenizer.json: --config.text.tokenizer=FILE", weights=file)
    refused(f"the text encoder a table of {WORDS} words", tmp_path / "tokenizer.json", weights=file)
    text_weights.check(written(frozen=False), "codes")
    config = written()
    config["priors"]["codes"]["train"]["init_from"] = "another"
    text_weights.check(config, "codes")


@pytest.mark.parametrize("pooled", [True, False])
def test_a_prior_hears_its_encoder(pooled):
    """The network by itself, told the states, and the vector through a dense layer or none."""
    network = DiT(3, 16, 1, 2)
    encoder = TextTransformer(TOLD, 8, 1, 2, pooled)
    prior = DiffusionPrior((MAP,), network, text_encoder=encoder, text=TOLD, text_condition=True)
    x = np.random.default_rng(0).normal(size=(4, *MAP.form)).astype(np.float32)
    told = Condition(text=jnp.asarray(TEXTS))
    keys = jax.random.split(jax.random.key(0), 4)
    params = drawn(jax.eval_shape(lambda: prior.init(keys[0], (x,), told, keys, method="loss")))["params"]
    assert ("from_encoder" in params) == pooled and prior.held == ()

    def both(params):
        states, one = encoder.apply({"params": params["text_encoder"]}, jnp.asarray(TEXTS))
        dense = params.get("from_encoder")
        vector = one @ dense["kernel"] + dense["bias"][None] if dense else None
        alone = network.apply({"params": params["network"]}, x, 1000 * TIME, vector, states)
        return prior.apply({"params": params}, x, TIME, told, method="foretell"), alone

    said, wanted = quick(both)(params)
    np.testing.assert_allclose(said, wanted, atol=2e-5 * np.abs(wanted).max())


def test_an_encoder_without_texts_and_one_that_is_not_there_are_refused():
    config = written()
    config["priors"]["codes"]["text_condition"] = False
    with pytest.raises(UserError, match="there is a text encoder and no text is told"):
        Parts(config, FACTS).abstract("codes")
    with pytest.raises(UserError, match="text_encoder.name: there is no 'clop'; did you mean 'clip'"):
        written(name="clop")
    with pytest.raises(UserError, match="has no field 'widht'; did you mean 'width'"):
        written(widht=3)
    without = written()
    del without["priors"]["codes"]["text_encoder"]
    assert "text_encoder" not in configs.complete(without)["priors"]["codes"]
    assert not Parts(without, FACTS).prior("codes").held and CLIPText(TOLD).frozen
