"""VAR beside numbers of its authors' code (FoundationVision/VAR 78b9539): logits, loss, gradients, greedy runs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick

from vqvae_jax.networks.likelihood import pick_token
from vqvae_jax.networks.scales import embedded, running
from vqvae_jax.priors import var
from vqvae_jax.priors.next_scale import LARGEST_SHARPNESS
from vqvae_jax.types import Condition, Level, Pick

HERE = Path(__file__).parents[1] / "reference" / "var_transformer.npz"


@pytest.fixture(scope="module")
def recorded():
    with np.load(HERE) as file:
        return dict(file)


def near(got, want, share, **how):
    np.testing.assert_allclose(got, want, rtol=0, atol=share * np.abs(want).max(), **how)


def ours(tensors):
    """The prior's parameters, without codes and φ, from arrays by the authors' names."""
    dense = lambda name: {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}  # noqa: E731
    table = lambda array: {"embedding": array.reshape(-1, array.shape[-1])}  # noqa: E731
    found = {
        "read": dense("word_embed"),
        "start": table(tensors["pos_start"]),
        "places": table(tensors["pos_1LC"]),
        "scales": table(tensors["lvl_embed.weight"]),
        "embed_label": table(tensors["class_emb.weight"]),
        "modulate": dense("head_nm.ada_lin.1"),
        "to_logits": dense("head"),
    }
    for i in range(sum(name.endswith("q_bias") for name in tensors)):
        attn, mlp = f"blocks.{i}.attn", f"blocks.{i}.ffn"
        found[f"blocks_{i}"] = {
            "modulate": dense(f"blocks.{i}.ada_lin.1"),
            "qkv": {"kernel": tensors[f"{attn}.mat_qkv.weight"].T},
            "query_bias": tensors[f"{attn}.q_bias"],
            "value_bias": tensors[f"{attn}.v_bias"],
            "sharpness": tensors[f"{attn}.scale_mul_1H11"].reshape(-1),
            "mix_heads": dense(f"{attn}.proj"),
            "up": dense(f"{mlp}.fc1"),
            "down": dense(f"{mlp}.fc2"),
        }
    return found


def features(tensors):
    """Codes and φ of their quantizer."""
    phi = lambda name: [tensors[f"quant_resi.qresi_ls.{i}.{name}"] for i in range(4)]  # noqa: E731
    kernel = np.stack([one.transpose(2, 3, 1, 0) for one in phi("weight")])
    return {"codes": tensors["embedding.weight"], "kernel": kernel, "bias": np.stack(phi("bias"))}


def under(recorded, start):
    return {name.removeprefix(start): one for name, one in recorded.items() if name.startswith(start)}


def built(recorded):
    """(prior, its parameters)"""
    scales, labels = recorded["meta/patch_nums"], int(recorded["meta/num_classes"])
    book = features(under(recorded, "quantizer/"))
    codes, code_dim = book["codes"].shape
    levels = tuple(Level(f"codes.{i}", (int(side), int(side)), codes) for i, side in enumerate(scales))
    size = {"width": 64, "layers": 2, "heads": int(recorded["meta/num_heads"]), "code_dim": code_dim, "shared": True}
    prior = var.VARPrior(levels, num_labels=labels, label_condition=True, sample_growing_guidance=True, **size)
    return prior, jax.tree.map(jnp.asarray, {**ours(under(recorded, "param/")), "features": book})


def test_logits_loss_and_gradients(recorded):
    prior, params = built(recorded)
    told, teacher = Condition(recorded["input/labels"]), recorded["input/teacher"]
    tokens = recorded["input/tokens"]
    assert (told.label == prior.num_labels).any()  # one is told nothing

    @quick
    def compute(params):
        def loss(params):
            logits = prior.apply({"params": params}, teacher, told, method="logits")
            return jnp.mean(var.nll(logits, tokens)), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, logits), gradient = compute(params)
    near(logits, recorded["output/logits"], 2e-6)
    near(loss, recorded["output/loss"], 1e-6)
    wanted = ours(under(recorded, "grad/"))
    assert not any(np.any(one) for one in jax.tree.leaves(gradient.pop("features")))  # it read the recorded sums
    compare = lambda path, got, want: near(got, want, 2e-5, err_msg=jax.tree_util.keystr(path))  # noqa: E731
    jax.tree.map_with_path(compare, gradient, wanted)
    sharp = params["blocks_1"]["sharpness"] > LARGEST_SHARPNESS
    assert sharp.sum() == 1  # one head is as sharp as heads become: it learns no more
    np.testing.assert_array_equal(gradient["blocks_1"]["sharpness"] == 0, sharp)


@pytest.mark.parametrize("theirs", ["0", "1.5"])
def test_greedy_runs(recorded, theirs, monkeypatch):
    """Scale by scale: the same logits, tokens, and sum of scales. Their weight t of guidance is ours less 1."""
    prior, params = built(recorded)
    run, overheard = under(recorded, f"greedy/guidance_{theirs}/"), []
    monkeypatch.setattr(var, "pick_token", lambda *given: overheard.append(given[1]) or pick_token(*given))
    pick = Pick(top_k=1, guidance=1 + float(theirs))

    @quick
    def draw(params, keys, label):
        overheard.clear()
        maps = prior.apply({"params": params}, keys, Condition(label), pick, method="sample")
        book = params["features"]
        return maps, jnp.concatenate(overheard, axis=1), running(embedded(book["codes"], maps), book, (4, 4))[-1]

    maps, logits, total = draw(params, jax.random.split(jax.random.key(0), 3), recorded["input/labels"])
    np.testing.assert_array_equal(np.concatenate([np.reshape(one, (3, -1)) for one in maps], 1), run["tokens"])
    near(logits, run["logits"], 5e-6)
    near(total, run["f_hat"].transpose(0, 2, 3, 1), 2e-6)


def test_the_maps_before_are_heard_as_they_hear_them(recorded):
    """Codes and φ → what each place reads: the tokens of the greedy run say the recorded logits once more."""
    prior, params = built(recorded)
    run = under(recorded, "greedy/guidance_0/")
    ends = np.cumsum([int(side) ** 2 for side in recorded["meta/patch_nums"]])[:-1]
    apart = zip(np.split(run["tokens"], ends, 1), prior.maps, strict=True)
    maps = [flat.reshape(3, *level.shape) for flat, level in apart]
    label = Condition(recorded["input/labels"])
    given = tuple(map(jnp.asarray, maps)), label, jax.random.split(jax.random.key(0), 3)
    (loss,) = quick(lambda params: prior.apply({"params": params}, *given, method="loss"))(params).values()
    near(loss, var.nll(jnp.asarray(run["logits"]), jnp.asarray(run["tokens"])), 2e-6)
