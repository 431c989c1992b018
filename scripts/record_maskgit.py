"""Records what MaskGIT's own transformer and sampler compute, for tests/priors/test_maskgit_recorded.py.

    git clone https://github.com/google-research/maskgit PATH
    python scripts/record_maskgit.py --checkout=PATH --output=recording.npz --width=64 --layers=3

Needs JAX and Flax, as the package does; on CPU, in float32. Written are `meta/`, `param/` (by their names, all random,
also what their initialisation leaves at 0 or 1), `input/`, `output/`, `grad/` of the loss with smoothing 0.1,
`schedule/`, `counts/`, and below `decode/` runs of their sampler of four steps, with the noise that it drew.
`import` reads such a file, and the test takes it in place of its own: MASKGIT_RECORDING=recording.npz.
"""

import argparse
import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

BATCH, STEPS = 3, 4
SCHEDULES = ("cosine", "uniform")
CHOICE = {"blank": 4.5, "label_and_known": 4.5, "no_choice_noise": 0.0}  # temperatures

Arrays = dict[str, Any]


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="of github.com/google-research/maskgit")
    parser.add_argument("--output", type=Path, required=True, help="the .npz")
    for name, usual in {"codes": 40, "labels": 5, "width": 32, "layers": 2, "heads": 4, "mlp": 64, "side": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=usual, help=f"(default {usual})")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.path.insert(0, str(given.checkout))
    jnp.DeviceArray = jax.Array  # type: ignore[attr-defined]  # which their code names, and JAX no longer has
    load = lambda name: importlib.import_module(f"maskgit.{name}")  # noqa: E731
    random = np.random.default_rng(given.seed)
    found = transformer(load("nets.maskgit_transformer"), load("libml.losses"), given, random)
    found |= schedules(load("libml.mask_schedule"))
    for case in CHOICE:
        run = sampled(load("libml.parallel_decode"), case, given, random)
        found |= {f"decode/{case}/{name}": array for name, array in run.items()}
    np.savez_compressed(given.output, **{name: np.asarray(array) for name, array in found.items()})
    print(f"{given.output}: {len(found)} arrays")


def transformer(nets: Any, losses: Any, given: argparse.Namespace, random: np.random.Generator) -> Arrays:
    """The forward pass over all words, the loss over codes, its gradient."""
    places, words = given.side**2, given.codes + given.labels + 1
    model = nets.Transformer(
        vocab_size=words, hidden_size=given.width, num_hidden_layers=given.layers, num_attention_heads=given.heads,
        intermediate_size=given.mlp, max_position_embeddings=places + 1,
    )  # fmt: skip
    truth = random.integers(0, given.codes, (BATCH, places)).astype(np.int32)
    hidden = random.random((BATCH, places)) < 0.6
    hidden[:, 0] = True
    label = given.codes + np.arange(BATCH) % given.labels
    tokens = np.concatenate([label[:, None], np.where(hidden, words - 1, truth)], axis=1).astype(np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    params = jax.tree_util.tree_map_with_path(partial(drawn, random), shapes)

    def loss(params: Any, smoothing: float) -> Any:
        logits = model.apply({"params": params}, tokens)[:, 1:, : given.codes]
        return losses.weighted_sequence_cross_entropy_loss(
            labels=truth, logits=logits, weights=hidden.astype(np.float32), label_smoothing=smoothing
        )

    smoothed, gradient = jax.value_and_grad(loss)(params, 0.1)
    return {
        **{f"meta/{name}": getattr(given, name) for name in ("codes", "labels")},
        "meta/mask_token": words - 1,
        "meta/num_heads": given.heads,
        **named("param", params),
        **{"input/tokens": tokens, "input/words": truth, "input/hidden": hidden},
        "output/logits": model.apply({"params": params}, tokens),
        "output/loss_smoothing_0": loss(params, 0.0),
        "output/loss_smoothing_0.1": smoothed,
        **named("grad", gradient),
    }


def drawn(random: np.random.Generator, path: Any, shape: Any) -> np.ndarray:
    """A parameter: scales about 1, the rest small enough that logits are neither equal nor certain."""
    name = path[-1].key
    deviation = 0.3 if name in ("scale", "bias") else 0.5 if name == "embedding" else 0.15
    return (random.normal(size=shape.shape, scale=deviation) + (name == "scale")).astype(np.float32)


def named(start: str, tree: Any) -> Arrays:
    return {f"{start}/{name}": array for name, array in flatten_dict(tree, sep="/").items()}


def schedules(theirs: Any) -> Arrays:
    """The share that is hidden at a ratio; and how many are after each step, of maps that were all hidden."""
    ratio = np.linspace(0, 1, 33, dtype=np.float32)
    found: Arrays = {"schedule/ratio": ratio}
    found |= {f"schedule/{name}": theirs.schedule(ratio, 256, name) for name in SCHEDULES}
    for steps in (8, 12):
        for length in (64, 256):
            left, counts = length, []
            for step in range(steps):
                share = theirs.schedule(jnp.float32(step + 1) / steps, length, "cosine")
                left = max(1, min(left - 1, int(jnp.floor(length * share))))
                counts.append(left)
            found[f"counts/cosine/T{steps}_N{length}"] = np.array(counts)
    return found


def sampled(theirs: Any, case: str, given: argparse.Namespace, random: np.random.Generator) -> Arrays:
    """A run of their sampler, of logits that depend on a place and on both neighbours.

    Its noise is drawn once more from the keys as it draws them, and must give what it drew.
    """
    labelled, places = case == "label_and_known", given.side**2
    mask = given.codes + labelled * given.labels
    start = np.full((BATCH, places), mask, np.int32)
    if labelled:
        known = random.random(start.shape) < np.array([[0.5], [0.2], [0.6]])
        start = np.where(known, random.integers(0, given.codes, start.shape), start)
        start = np.concatenate([given.codes + np.arange(BATCH)[:, None] % given.labels, start], axis=1).astype(np.int32)
    place_logits = random.normal(size=(start.shape[1], given.codes)).astype(np.float32)
    word_logits = random.normal(size=(mask + 1, given.codes)).astype(np.float32)
    beside = lambda seen: sum(jnp.asarray(word_logits)[jnp.roll(seen, by, 1)] for by in (1, -1))  # noqa: E731
    logits_of = lambda seen: place_logits + beside(seen)  # noqa: E731
    first = key = jax.random.PRNGKey(given.seed + sum(map(ord, case)))
    run = theirs.decode(jnp.asarray(start), key, logits_of, mask, STEPS, choice_temperature=CHOICE[case])
    found: Arrays = {"start": start, "key": first, "place_logits": place_logits, "word_logits": word_logits}
    found |= {"mask_token": mask, "choice_temperature": CHOICE[case]}
    seen, unknown = jnp.asarray(start), (start == mask).sum(axis=1)
    for step in range(STEPS):
        key, for_tokens = jax.random.split(key)
        key, for_choice = jax.random.split(key)
        logits = logits_of(seen)
        noise, choice = jax.random.gumbel(for_tokens, logits.shape), jax.random.gumbel(for_choice, start.shape)
        tokens = jnp.where(seen == mask, jnp.argmax(noise + logits, axis=-1), seen)
        if not np.array_equal(tokens, run[:, step]):
            raise SystemExit(f"decode/{case}: this version of JAX draws its noise in another way")
        left = jnp.floor(unknown * theirs.mask_schedule.schedule((step + 1) / STEPS, unknown, "cosine"))
        left = jnp.maximum(1, jnp.minimum((seen == mask).sum(axis=1) - 1, left)).astype(jnp.int32)
        chances = jnp.take_along_axis(jax.nn.softmax(logits), tokens[..., None].astype(jnp.int32), -1)[..., 0]
        chances = jnp.where(seen == mask, chances, jnp.inf)
        again = theirs.mask_by_random_topk(for_choice, left[:, None], chances, CHOICE[case] * (1 - (step + 1) / STEPS))
        seen = jnp.where(again, mask, tokens)
        told = {"sampled": tokens, "carried": seen, "mask_len": left, "gumbel_sample": noise, "gumbel_choice": choice}
        found |= {f"step{step}/{name}": array for name, array in told.items()}
    return found


if __name__ == "__main__":
    main()
