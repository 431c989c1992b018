"""VAR on the inputs of a recording: its quantizer alone, its tokenizer, its transformer.

quantizer    input/f → indices, f̂ and what the next scale hears, scale by scale; train/… of the loss of its codes plus
             mean(f̂ · weight), which is differentiated
tokenizer    input/images → the same, and the reconstruction; L1 plus the codes' loss is differentiated
transformer  input/teacher, what the scales hear, and labels → logits, the loss of input/tokens, which is
             differentiated; greedy/guidance_T/…: the likeliest tokens, guided by c + t (c - u), t growing to T
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.autoencoders.vqgan import LEVEL, VQGAN
from vqvae_jax.compare import rows
from vqvae_jax.compare.recording import HOW, Recording, channels_first
from vqvae_jax.compare.rows import Row
from vqvae_jax.compare.sections import gradients, outputs, weights
from vqvae_jax.interop.places import Places
from vqvae_jax.interop.var_prior import places as places_of_prior
from vqvae_jax.networks.likelihood import nll
from vqvae_jax.networks.resize import shrunk
from vqvae_jax.networks.scales import embedded, running
from vqvae_jax.priors.var import VARPrior
from vqvae_jax.quantizers.multiscale import MultiscaleQuantizer
from vqvae_jax.types import Array, Codebook, Condition, Model, Pick, Quantized, UserError

COMMITMENT = 0.25
GREEDY = re.compile(r"guidance_([\d.]+)/tokens$")


def quantizer(module: MultiscaleQuantizer, model: Model, places: Places, recording: Recording) -> list[Row]:
    """Its scales are those of the recording."""
    indices = [name for name in recording.of("output") if name.startswith("indices/")]
    sides = tuple(recording[f"output/indices/{scale}"].shape[1] for scale in range(len(indices)))
    module, book = dataclasses.replace(module, scales=sides), model.codebooks[LEVEL]
    f, weight = (jnp.asarray(recording[f"input/{name}"], jnp.float32) for name in ("f", "weight_on_f_hat"))

    def total(f: Array, learned: Any) -> tuple[Array, dict[str, Any]]:
        here = with_learned(book, learned)
        out = module(here, f)
        loss = of_codes(out.losses)
        found = {"f_hat": out.z_q, "loss": loss, "total": loss + jnp.mean(out.z_q * weight)}
        return found["total"], {"output": by_scale(here, out), "train": found}

    (of_f, learned), found = computed(total, f, (book.codes, book.params))
    grads = Model({}, {LEVEL: with_learned(book, learned)})
    own = [rows.near("grad/f", channels_first(of_f), recording.of("grad")["f"], rows.GRADIENTS)]
    shown = codes(found["output"], recording) + outputs(found["output"], recording)
    shown += outputs(found["train"], recording, "train")
    return weights(model, places, recording) + shown + own + gradients(grads, places, recording)


def tokenizer(module: VQGAN, model: Model, places: Places, recording: Recording) -> list[Row]:
    """Its scales are the workdir's."""
    images, book = jnp.asarray(recording["input/images"], jnp.float32), model.codebooks[LEVEL]

    def total(params: Any, learned: Any) -> tuple[Array, dict[str, Any]]:
        here, apply = with_learned(book, learned), partial(module.apply, {"params": params})
        encoded: Any = apply(images, method=lambda module, x: module.encoder(x))
        z_e: Any = apply(encoded, method=lambda module, x: module.to_code(x))
        out = module.quantizers[0](here, z_e)
        image: Any = apply(out.z_q, method=lambda module, z: module.decoder(module.from_code(z)))
        l1, loss = jnp.mean(jnp.abs(image - images)), of_codes(out.losses)
        found = {"encoder": encoded, "z_e": z_e, "reconstruction": image, "l1": l1, "codebook_loss": loss}
        return l1 + loss, {**found, "loss": l1 + loss, **by_scale(here, out)}

    (params, learned), found = computed(total, model.params, (book.codes, book.params))
    grads = Model(params, {LEVEL: with_learned(book, learned)})
    shown = codes(found, recording) + outputs(found, recording)
    return weights(model, places, recording) + shown + gradients(grads, places, recording)


def computed(total: Callable[..., Any], *given: Any) -> tuple[Any, Any]:
    """Gradients by both arguments, and what came out beside: numpy arrays."""
    return jax.tree.map(np.asarray, jax.jit(jax.grad(total, (0, 1), has_aux=True))(*given))


def with_learned(book: Codebook, learned: Any) -> Codebook:
    codes, params = learned
    return book.replace(codes=codes, params=params)


def of_codes(losses: Mapping[str, Array]) -> Array:
    """The authors' sum."""
    return losses["codebook"] + COMMITMENT * losses["commitment"]


def by_scale(book: Codebook, out: Quantized) -> dict[str, Any]:
    """Indices, f̂ after each scale, and its means over the places of the next, by the names of a recording."""
    shapes = [(one.shape[1], one.shape[2]) for one in out.indices]
    sums = running(embedded(book.codes, out.indices), book.params, shapes[-1])
    heard = [shrunk(one, shape) for one, shape in zip(sums, shapes[1:], strict=False)]
    flat = [one.reshape(len(one), -1, one.shape[-1]) for one in heard]
    named = {"indices": out.indices, "f_hat": sums, "next_map": [*heard, sums[-1]]}
    found = {f"{name}/{i}": one for name, each in named.items() for i, one in enumerate(each)}
    return found | {"var_input": jnp.concatenate(flat, axis=1)} if flat else found


def codes(found: dict[str, Any], recording: Recording) -> list[Row]:
    """Rows of all indices, which are taken out of `found`: each has to be the recorded one."""
    names = [name for name in found if name.startswith("indices/")]
    ours, recorded = {name: found.pop(name) for name in names}, recording.of("output")
    return [rows.near(f"output/{name}", ours[name], recorded[name], 0.0) for name in names if name in recorded]


def transformer(module: Any, model: Model, recording: Recording) -> list[Row]:
    """Logits, their loss and its gradients; greedy sampling.

    Raises:
        UserError: the workdir's prior is another.
    """
    if not isinstance(module, VARPrior):
        raise UserError(f"{recording.path} records VAR's transformer, not a {type(module).__name__}; {HOW}")
    heard = jnp.asarray(recording["input/teacher"], jnp.float32)
    labels, tokens = (jnp.asarray(recording[f"input/{name}"], jnp.int32) for name in ("labels", "tokens"))

    def loss(params: Any) -> tuple[Array, dict[str, Any]]:
        logits: Any = module.apply({"params": params}, heard, Condition(labels), method="logits")
        mean = jnp.mean(nll(logits, tokens))
        return mean, {"logits": logits, "loss": mean}

    params, found = jax.tree.map(np.asarray, jax.jit(jax.grad(loss, has_aux=True))(model.params))
    places = places_of_prior(module, model)
    shown = weights(model, places, recording) + outputs(found, recording)
    shown += gradients(Model(params, {}), places, recording)
    asked = [found[1] for name in recording.of("greedy") if (found := GREEDY.match(name))]
    return shown + [row for one in asked for row in greedy(module, model, labels, one, recording)]


def greedy(module: VARPrior, model: Model, labels: Array, said: str, recording: Recording) -> list[Row]:
    """Guided so much: the likeliest tokens of all scales, f̂ of them, and the guided logits, of all maps at once."""
    grown, guidance, start = module.clone(sample_growing_guidance=True), float(said), f"guidance_{said}"
    apply: Callable[..., Any] = partial(grown.apply, {"params": model.params})
    keys, pick = jax.random.split(jax.random.key(0), len(labels)), Pick(temperature=0.0, guidance=1 + guidance)
    maps = jax.jit(lambda: apply(keys, Condition(labels), pick, method="sample"))()

    @jax.jit
    def looked_at(maps: Any) -> tuple[Array, Array]:
        sums = apply(maps, method=lambda module, maps: module.features(maps, maps[-1].shape[1:], len(maps)))
        heard = jnp.concatenate(apply(maps[:-1], method="heard"), axis=1)
        told, none = (apply(heard, Condition(one), method="logits") for one in (labels, 0 * labels + module.num_labels))
        share = np.repeat(np.linspace(0, 1, len(maps)), module.sizes).astype(np.float32)
        return sums[-1], told + guidance * share[None, :, None] * (told - none)

    f_hat, logits = looked_at(maps)
    tokens = np.concatenate([one.reshape(len(one), -1) for one in maps], axis=1)
    drawn = rows.near(f"greedy/{start}/tokens", tokens, recording.of("greedy")[f"{start}/tokens"], 0.0)
    return [drawn, *outputs({f"{start}/logits": logits, f"{start}/f_hat": f_hat}, recording, "greedy")]
