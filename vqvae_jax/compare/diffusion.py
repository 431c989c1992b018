"""Networks of diffusion on the inputs of a recording: latent diffusion's U-Net, alone, and a prior's DiT.

unet  input/x, t, context → output/0
dit   input/x, t, y → output/0, of all numbers that it foretells; guided/…: maps x with labels and without, guided

Of both `grad/…` is of mean(output · cotangent).
"""

from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.compare.recording import HOW, Recording
from vqvae_jax.compare.rows import Row
from vqvae_jax.compare.sections import by_cotangents, outputs
from vqvae_jax.interop.diffusion import places as places_of_prior
from vqvae_jax.interop.places import Places
from vqvae_jax.networks.dit import DiT
from vqvae_jax.networks.likelihood import guide
from vqvae_jax.networks.unet import UNet
from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.types import Array, Model, UserError

GUIDED = 3  # channels, the first ones: theirs leaves the others as they are


def unet(module: UNet, model: Model, places: Places, recording: Recording) -> list[Row]:
    """What a U-Net says of recorded maps at recorded times, told a context where there is one; and gradients."""
    named = {name: jnp.asarray(recording[f"input/{name}"], jnp.float32) for name in recording.of("input")}
    x, time, context = named["x"], named["t"], named.get("context")
    forward = lambda params: [module.apply({"params": params}, x, time, None, context)]  # noqa: E731
    return by_cotangents(forward, model, places, recording, share(recording))


def dit(module: Any, model: Model, recording: Recording) -> list[Row]:
    """A DiT's answer to maps with labels, of which one more than there are says "no label"; and guided.

    Raises:
        UserError: the workdir's prior is another.
    """
    if not isinstance(module, DiffusionPrior) or not isinstance(module.network, DiT) or not module.label_condition:
        what = getattr(module, "network", module)
        raise UserError(f"{recording.path} records a DiT that is told labels, not a {type(what).__name__}; {HOW}")
    network = module.network.clone(channels=module.network.channels + module.network.spare, spare=0)

    def answer(params: Any, section: str, x: Array) -> Array:
        time, labels = (jnp.asarray(recording[f"{section}/{name}"]) for name in ("t", "y"))
        vector = params["embed_label"]["embedding"][labels]
        said: Any = network.apply({"params": params["network"]}, x, time.astype(jnp.float32), vector)
        return said

    maps = {
        section: jnp.asarray(recording[f"{section}/x"], jnp.float32)
        for section in ("input", "guided")
        if f"{section}/x" in recording
    }
    check_labels(module, recording, maps)
    forward = lambda params: [answer(params, "input", maps["input"])]  # noqa: E731
    found = by_cotangents(forward, model, places_of_prior(module, model), recording, share(recording))
    if "guided" not in maps:
        return found
    half = maps["guided"][: len(maps["guided"]) // 2]
    said = jax.jit(answer, static_argnums=1)(model.params, "guided", jnp.concatenate([half, half]))
    return found + outputs({"output": guided(said, float(recording["guided/scale"]))}, recording, "guided")


def guided(said: Array, scale: float) -> Array:
    """Of answers with labels, then as many without: both halves guided in the first channels."""
    told = guide(said, True, scale)[..., :GUIDED]
    return jnp.concatenate([jnp.concatenate([told, told]), said[..., GUIDED:]], axis=-1)


def check_labels(module: DiffusionPrior, recording: Recording, sections: Any) -> None:
    """UserError where a label has no row in the table."""
    for section in sections:
        labels = recording[f"{section}/y"]
        if labels.min() < 0 or labels.max() > module.num_labels:
            raise UserError(f"{recording.path} has labels up to {labels.max()}, the model {module.num_labels} labels")


def share(recording: Recording) -> float:
    """Of one number in the mean of a recorded answer."""
    return 1 / recording.arrays["output/0"].size
