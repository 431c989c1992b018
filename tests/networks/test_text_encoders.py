"""Text encoders: CLIP's recomputed in NumPy from a file of its names, and what holds for both."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop import diffusion_names as names
from small_models import drawn, quick

from vqvae_jax.interop import clip
from vqvae_jax.interop.places import shapes
from vqvae_jax.networks.clip_text import CLIPText
from vqvae_jax.networks.text_transformer import TextTransformer
from vqvae_jax.types import Caption, Model, UserError

WORDS, PLACES = 30, 9  # begin is 28, end 29
CLIP = CLIPText(Caption(WORDS + 1, PLACES - 2), 16, 2, 4, WORDS, PLACES)
SMALL = TextTransformer(Caption(WORDS + 1, PLACES - 2), 16, 2, 4)
TEXTS = np.array([[3, 7, 7, 1, 0, 0, 0], [0] * 7, [5, 4, 3, 2, 1, 30, 12], [30, 2, 0, 0, 0, 0, 0]])
IDS = np.array(
    [
        [28, 2, 6, 6, 0, 29, 29, 29, 29],
        [28, *[29] * 8],
        [28, 4, 3, 2, 1, 0, 29, 11, 29],
        [28, 29, 1, *[29] * 6],
    ]
)
ENDS = [5, 1, 6, 1]


def like(module):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(TEXTS))["params"]


def tensors(seed=0):
    draw, found = np.random.default_rng(seed), names.clip_text(16, 2, WORDS, PLACES)
    return {name: draw.normal(size=shape, scale=0.4).astype(np.float32) for name, shape in found.items()}


def states_of(there, words, heads):
    """Clip's states of a row of words, in float64, a place, a head and a word at a time."""
    there = {name.removeprefix("text_model."): one.astype(np.float64) for name, one in there.items()}
    layer = lambda name, x: x @ there[f"{name}.weight"].T + there[f"{name}.bias"]  # noqa: E731

    def norm(name, x):
        even = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return even * there[f"{name}.weight"] + there[f"{name}.bias"]

    x = there["embeddings.token_embedding.weight"][words] + there["embeddings.position_embedding.weight"]
    for i in range(2):
        block = f"encoder.layers.{i}"
        h = norm(f"{block}.layer_norm1", x)
        q, k, v = (layer(f"{block}.self_attn.{one}_proj", h) for one in "qkv")
        mixed, size = np.zeros_like(x), x.shape[1] // heads
        for place in range(len(x)):
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                score = np.array([q[place, own] @ k[other, own] / math.sqrt(size) for other in range(place + 1)])
                weight = np.exp(score) / np.exp(score).sum()
                mixed[place, own] = weight @ v[: place + 1, own]
        x = x + layer(f"{block}.self_attn.out_proj", mixed)
        h = layer(f"{block}.mlp.fc1", norm(f"{block}.layer_norm2", x))
        x = x + layer(f"{block}.mlp.fc2", h / (1 + np.exp(-1.702 * h)))
    return norm("final_layer_norm", x)


def test_clip_is_recomputed_from_its_file(tmp_path):
    there = tensors()
    beside = {"text_model.embeddings.position_ids": np.arange(PLACES)[None], "logit_scale": np.float32(4.6)}
    beside |= {"vision_model.embeddings.class_embedding": np.ones(3, np.float32), "text_projection.weight": np.eye(2)}
    np.savez(tmp_path / "clip.npz", **there, **beside)
    params = clip.weights(tmp_path / "clip.npz", CLIP, like(CLIP))
    states, one = quick(lambda params: CLIP.apply({"params": params}, jnp.asarray(TEXTS)))(params)
    assert states.shape == (4, PLACES, 16) and states.dtype == jnp.float32
    for got, pooled, words, end in zip(states, one, IDS, ENDS, strict=True):
        wanted = states_of(there, words, CLIP.heads)
        np.testing.assert_allclose(got, wanted, atol=2e-5)
        np.testing.assert_allclose(pooled, wanted[end], atol=2e-5)


def test_clip_has_its_names_and_numbers_at_full_size():
    text = jax.ShapeDtypeStruct((1, 75), jnp.int32)
    module = CLIPText(Caption(49_409, 75))
    params = jax.eval_shape(module.init, jax.random.key(0), text)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 123_060_480
    wanted = {name.removeprefix("text_model."): shape for name, shape in names.clip_text().items()}
    assert shapes(clip.places(params), Model(params, {})) == wanted
    assert module == CLIPText(Caption(**clip.texts(clip.described(wanted))), **fields(clip.described(wanted)))


def fields(section):
    return {name: value for name, value in section.items() if name != "name"}


def test_the_small_one_sees_all_places_and_its_mean_what_is_said():
    params = drawn(like(SMALL))
    run = quick(lambda text: SMALL.apply({"params": params}, text))
    states, one = run(jnp.asarray(TEXTS))
    assert states.shape == (4, 7, 16) and one.shape == (4, 16)
    for row, pooled, text in zip(states, one, TEXTS, strict=True):
        wanted = row[text > 0].mean(0) if text.any() else np.zeros(16)
        np.testing.assert_allclose(pooled, wanted, atol=1e-5)
    changed = TEXTS.copy()
    changed[0, 3] = 2
    again = run(jnp.asarray(changed))[0]
    assert np.abs(again - states)[0].max(-1).min() > 1e-4 and np.abs(again - states)[1:].max() < 1e-5


@pytest.mark.parametrize("module", [CLIP, SMALL])
def test_every_parameter_learns(module):
    params = drawn(like(module))

    def total(params):
        return sum(jnp.sum(jnp.sin(one)) for one in module.apply({"params": params}, jnp.asarray(TEXTS)))

    for path, leaf in jax.tree_util.tree_leaves_with_path(quick(jax.grad(total))(params)):
        name = jax.tree_util.keystr(path)
        silent = "key" in name and "bias" in name  # adds the same to all scores of a place
        assert silent or np.abs(leaf).max() > 1e-5, name


WRONG = {
    "width=16 does not divide among heads=3": CLIP.clone(heads=3),
    "text_encoder: width=16 does not": SMALL.clone(heads=3),
    "config.text.vocab_size=9, .* a table of 30 words, .*: --config.text.vocab_size=31": CLIP.clone(text=Caption(9, 7)),
    "has 7 places, beside begin and end: --config.text.length=7": CLIP.clone(text=Caption(WORDS + 1, 8)),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_said(said):
    with pytest.raises(UserError, match=said):
        like(WRONG[said])


def test_another_file_is_named(tmp_path):
    there = tensors()
    there["text_model.encoder.layers.1.mlp.fc1.bias"] = np.ones(63, np.float32)
    np.savez(tmp_path / "clip.npz", **there)
    with pytest.raises(UserError, match=r"of another shape: encoder.layers.1.mlp.fc1.bias is \[63\], not \[64\]"):
        clip.weights(tmp_path / "clip.npz", CLIP, like(CLIP))
    np.savez(tmp_path / "open.npz", **{"transformer.resblocks.0.ln_1.weight": np.ones(3)})
    with pytest.raises(UserError, match="holds no text encoder that is known, but 1 tensors such as transformer.resbl"):
        clip.weights(tmp_path / "open.npz", CLIP, like(CLIP))
