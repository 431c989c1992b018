"""Records what DALL-E's own first stage computes, for tests/autoencoders/test_dvae.py and `compare`.

    git clone https://github.com/openai/DALL-E PATH
    python scripts/record_dvae.py --checkout=PATH --output=recording.npz --width=32 --blocks=2

Needs torch, attrs and numpy; on CPU, in float32. Written are `param/` (by their names, biases are random too),
`input/image`, `output/` (logits, tokens, stats and picture of these, the likelihood and the KL in float64),
`soft/` (what softmax(logits / 0.7) decodes to) and `grad/` of mean(soft/stats · weight_on_stats). `import` reads such a
file, and the test takes it in place of its own: DVAE_RECORDING=recording.npz.
"""

from __future__ import annotations  # torch may be missing

import argparse
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

BATCH, TEMPERATURE = 2, np.float32(0.7)
USUAL = {"width": 16, "blocks": 1, "code_dim": 24, "codes": 32, "size": 32}
LARGEST = 3000  # elements of a gradient that is kept

Arrays = dict[str, Any]


def main() -> int:
    """Writes the file; 2 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="of github.com/openai/DALL-E")
    parser.add_argument("--output", type=Path, required=True, help="the .npz")
    for name, usual in USUAL.items():
        parser.add_argument(f"--{name}", type=int, default=usual, help=f"(default {usual})")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        found = recorded(given)
    except ImportError as why:
        print(f"error: --checkout={given.checkout}: {why}; --help says what is needed", file=sys.stderr)
        return 2
    np.savez_compressed(given.output, **{name: np.asarray(array) for name, array in found.items()})
    print(f"{given.output}: {len(found)} arrays, {given.output.stat().st_size / 1e3:.0f} kB")
    return 0


def recorded(given: argparse.Namespace) -> Arrays:
    """All arrays."""
    import torch

    torch.manual_seed(given.seed)
    encoder, decoder = built(given)
    image = images(given)
    with torch.no_grad():
        centred(encoder, image)
    return dict(computed(encoder, decoder, image, given))


def built(given: argparse.Namespace) -> tuple[Any, Any]:
    """Encoder and decoder, smaller than they are meant to be."""
    import attr

    sys.path.insert(0, str(given.checkout))
    sys.modules.setdefault("requests", types.ModuleType("requests"))  # which downloads alone need
    code = importlib.import_module("dall_e")
    shared = {"n_hid": given.width, "n_blk_per_group": given.blocks, "vocab_size": given.codes}
    attr.set_run_validators(False)  # of sizes
    encoder, decoder = code.Encoder(**shared), code.Decoder(**shared, n_init=given.code_dim)
    for network in (encoder, decoder):
        scattered(network)
    return encoder, decoder


def scattered(network: Any) -> None:
    """Biases are random, or a missing one would not show; all have the digits of bfloat16, as files are smaller so."""
    import torch

    with torch.no_grad():
        for one in network.parameters():
            one.copy_((torch.randn_like(one) * 0.1 if one.ndim == 1 else one).bfloat16().float())


def images(given: argparse.Namespace) -> Any:
    """Smooth blots in [0, 1], 0 and 1 among them: [B, 3, size, size]."""
    import torch

    coarse = torch.randn(BATCH, 3, 5, 5)
    blots = torch.nn.functional.interpolate(coarse, given.size, mode="bicubic", align_corners=True)
    return (0.5 + 0.5 * blots).clamp(0, 1).bfloat16().float()


def centred(encoder: Any, image: Any) -> None:
    """The last bias such that no code is liked everywhere."""
    from dall_e import map_pixels

    logits = encoder(map_pixels(image))
    encoder.blocks.output.conv.b -= logits.mean((0, 2, 3))
    encoder.blocks.output.conv.b.copy_(encoder.blocks.output.conv.b.bfloat16().float())


def computed(encoder: Any, decoder: Any, image: Any, given: argparse.Namespace) -> Any:
    """(name, array) of all that is recorded."""
    import torch
    from dall_e import map_pixels, unmap_pixels

    mapped = map_pixels(image)
    logits = encoder(mapped)
    tokens = logits.argmax(1)
    stats = decoder(torch.nn.functional.one_hot(tokens, given.codes).movedim(-1, 1).float())
    share = torch.softmax(logits / float(TEMPERATURE), 1)
    of_share, weight = decoder(share), torch.randn(*stats.shape).bfloat16().float()
    (of_share * weight).mean().backward()
    for part, network in (("encoder", encoder), ("decoder", decoder)):
        for name, one in network.named_parameters():
            yield f"param/{part}.{name}", copy(one)
            if one.numel() <= LARGEST:
                yield f"grad/{part}.{name}", copy(one.grad)
    location, _ = stats.chunk(2, 1)
    made = {"logits": logits, "tokens": tokens.int(), "stats": stats}
    made |= {"picture": unmap_pixels(torch.sigmoid(location)), "unmapped_image": unmap_pixels(mapped)}
    yield from below("input", {"image": image, "mapped": mapped})
    yield from below("output", made | likelihood(mapped, stats) | {"kl_uniform": divergence(logits)})
    yield from below("soft", {"temperature": TEMPERATURE, "probabilities": share})
    yield from below("soft", {"stats": of_share, "weight_on_stats": weight})


def likelihood(mapped: Any, stats: Any) -> Arrays:
    """The paper's density, which their code does not have."""
    x, (location, log_scale) = copy(mapped).astype(float), np.split(copy(stats).astype(float), 2, 1)
    apart = np.abs(np.log(x / (1 - x)) - location) / np.exp(log_scale)
    nll = log_scale + np.log(2 * x * (1 - x)) + apart
    return {"nll": nll.astype(np.float32), "nll_mean": nll.mean(), "nll_per_image": nll.sum((1, 2, 3))}


def divergence(logits: Any) -> np.ndarray:
    """KL(softmax ‖ uniform) of each place."""
    share = np.exp(copy(logits).astype(float))
    share /= share.sum(1, keepdims=True)
    return (share * np.log(share * share.shape[1])).sum(1).astype(np.float32)


def below(section: str, found: Arrays) -> Any:
    return ((f"{section}/{name}", copy(one)) for name, one in found.items())


def copy(value: Any) -> np.ndarray:
    return np.array(value.detach().numpy() if hasattr(value, "detach") else value)


if __name__ == "__main__":
    sys.exit(main())
