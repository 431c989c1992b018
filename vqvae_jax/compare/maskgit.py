"""MaskGIT on the inputs of a recording, whose maps have channels last, as ours: its tokenizer, its transformer.

tokenizer    input/image → what comes out of its networks; train/… of the loss of its codes plus
             mean(reconstruction · weight), which is differentiated
transformer  input/tokens, a label and a map of which input/hidden is hidden → logits of all words at all places, and
             the loss of input/words; that with smoothing is differentiated
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.autoencoders.vqgan import LEVEL, VQGAN
from vqvae_jax.compare.recording import HOW, Recording
from vqvae_jax.compare.rows import Row
from vqvae_jax.compare.sections import gradients, index_row, outputs, weights, without
from vqvae_jax.interop.maskgit import is_tokenizer, transformer_places
from vqvae_jax.interop.places import Places
from vqvae_jax.priors.maskgit import MaskGITPrior
from vqvae_jax.types import Array, Condition, Level, Model, UserError

as_ours = partial(outputs, laid=np.asarray)  # maps with channels last on both sides
LITTLE = 1e-5  # keeps the logarithm of a code's share finite
SMOOTHED = re.compile(r"loss_smoothing_([\d.]+)$")
LEFT_OUT = {"grad/.*/key/bias$": "adds the same to all scores of a place: 0 but for rounding"}


def is_one(module: Any, recording: Recording) -> bool:
    """Whether the recording is of MaskGIT's tokenizer, as the module is."""
    return is_tokenizer(module) and "input/image" in recording


def tokenizer(module: VQGAN, model: Model, places: Places, recording: Recording) -> list[Row]:
    """Networks, codes, the authors' loss of these and its gradients."""
    images = jnp.asarray(recording.arrays["input/image"], jnp.float32)
    weight = jnp.asarray(recording.arrays.get("input/weight_on_reconstruction", 0.0), jnp.float32)
    book = model.codebooks[LEVEL]

    @partial(jax.grad, argnums=(0, 1), has_aux=True)
    def total(params: Any, codes: Array) -> tuple[Array, dict[str, Any]]:
        here, apply = book.replace(codes=codes), partial(module.apply, {"params": params})
        z_e: Any = apply(images, method=lambda module, x: module.encoder(x))
        out = module.quantizers[0](here, z_e)
        image: Any = apply(out.z_q, method=lambda module, z: module.decoder(z))
        train = of_codes(out.losses, entropy(z_e, codes, recording), recording)
        train["total"] = train["quantizer_loss"] + jnp.mean(image * weight)
        output = {"encoder": z_e, "indices": out.indices[0], "z_q": out.z_q, "reconstruction": image}
        return train["total"], {"output": output, "train": train}

    (params, codes), found = jax.tree.map(np.asarray, jax.jit(total)(model.params, book.codes))
    grads, output = Model(params, {LEVEL: book.replace(codes=codes)}), found["output"]
    row = index_row("indices", {"indices": output.pop("indices")}, recording, output["encoder"], book)
    shown = [row] if row else []
    shown += as_ours(output, recording) + as_ours(found["train"], recording, "train")
    return weights(model, places, recording) + shown + gradients(grads, places, recording)


def of_codes(losses: Any, entropies: Array, recording: Recording) -> dict[str, Array]:
    """The three terms with the authors' weights, and their sum."""
    terms = {
        "e_latent_loss": recording.said("commitment_cost", 0.25) * losses["commitment"],
        "q_latent_loss": losses["codebook"],
        "entropy_loss": recording.said("entropy_loss_ratio", 0.1) * entropies,
    }
    return terms | {"quantizer_loss": sum(terms.values(), jnp.float32(0))}


def entropy(z_e: Array, codes: Array, recording: Recording) -> Array:
    """Low where each place is sure of its code and all codes have a share: mean H(p) - H(mean p), p of a place being
    softmax(-squared distance / temperature) over the codes; [B, h, w, D], [K, D]."""
    sizes = jnp.sum(z_e**2, axis=-1, keepdims=True) + jnp.sum(codes**2, axis=-1)[None, None, None]
    distance = sizes - 2 * z_e @ codes.T  # squared, and no array of all differences
    log_p = jax.nn.log_softmax(-distance / recording.said("entropy_temperature", 0.01))
    share = jnp.mean(jnp.exp(log_p), axis=(0, 1, 2))
    of_each = -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1))
    return of_each + jnp.sum(share * jnp.log(share + LITTLE))


def transformer(module: Any, model: Model, recording: Recording) -> list[Row]:
    """Logits, losses without and with smoothing, gradients of the loss with most.

    Raises:
        UserError: the workdir's prior is another.
    """
    if not isinstance(module, MaskGITPrior):
        raise UserError(f"{recording.path} records MaskGIT's transformer, not a {type(module).__name__}; {HOW}")
    module = as_recorded(module, model, recording)
    seen, words = (jnp.asarray(recording[f"input/{name}"], jnp.int32) for name in ("tokens", "words"))
    hidden = jnp.asarray(recording["input/hidden"], bool)
    check(module, seen, words, recording)
    told = Condition(seen[:, 0] - module.vocab_size if module.label_condition else None)

    def loss(params: Any, smoothing: float) -> Array:
        apply: Callable[..., Any] = partial(module.clone(smoothing=smoothing).apply, {"params": params})
        more = {"train": True, "method": "masked", "rngs": {"dropout": jax.random.key(0)}}
        return jnp.mean(apply(words, hidden, told, **more))

    asked = {found[0]: float(found[1]) for name in recording.of("output") if (found := SMOOTHED.match(name))}

    @jax.jit
    def computed(params: Any) -> tuple[dict[str, Array], Any]:
        found = {name: loss(params, smoothing) for name, smoothing in asked.items()}
        grads = jax.grad(loss)(params, max(asked.values(), default=0.0))
        return {"logits": every_logit(module, params, seen), **found}, grads

    found, grads = jax.tree.map(np.asarray, computed(model.params))
    places = transformer_places(module, model)
    shown = weights(model, places, recording) + as_ours(found, recording)
    return without(shown + gradients(Model(grads, {}), places, recording), LEFT_OUT, recording)


def as_recorded(module: MaskGITPrior, model: Model, recording: Recording) -> MaskGITPrior:
    """The same words, of which as many are codes as the recording says; nothing is dropped."""
    words = len(model.params["words"]["embedding"]) - (module.label_condition and module.label_dropout > 0)
    codes = int(recording.said("codes", module.vocab_size))
    if not 0 < codes < words:
        raise UserError(f"{recording.path} has {codes} codes, and the model {words} words; {HOW}")
    maps = (module.maps[0]._replace(vocab_size=codes),)
    return module.clone(maps=maps, num_labels=words - 1 - codes, dropout=0.0)


def check(module: MaskGITPrior, seen: Array, words: Array, recording: Recording) -> None:
    """UserError unless the model knows such words, on such a map."""
    count, places = len(seen), module.length
    if words.shape != (count, places) or seen.shape != (count, module.label_condition + places):
        raise UserError(
            f"{recording.path}: input/tokens are {seen.shape}, input/words {words.shape}; a map has {places} places, "
            f"and input/tokens the label before them; {HOW}"
        )
    if jnp.min(seen) < 0 or jnp.max(seen) > module.mask or jnp.max(words) >= module.vocab_size:
        raise UserError(
            f"{recording.path} has words up to {jnp.max(seen)} and codes up to {jnp.max(words)}; the model knows "
            f"{module.mask + 1} and {module.vocab_size}"
        )


def every_logit(module: MaskGITPrior, params: Any, seen: Array) -> Array:
    """Of all words, label and mask too, at all places, the label's too: int [B, P] → [B, P, words].

    As of a row of P codes, one for each word; the mask that no place wears gets one more.
    """
    table, bias = params["words"]["embedding"], params["bias"]
    params = params | {"words": {"embedding": jnp.pad(table, ((0, 1), (0, 0)))}, "bias": jnp.pad(bias, (0, 1))}
    row = Level(LEVEL, (1, seen.shape[1]), len(table))
    alone = module.clone(maps=(row,), num_labels=0, label_condition=False)
    logits: Any = alone.apply({"params": params}, seen, method="logits")
    return logits  # type: ignore[no-any-return]
