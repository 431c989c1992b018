"""Records what VAR's own tokenizer, quantizer and transformer compute, as one .npz that ours can be set beside.

    git clone https://github.com/FoundationVision/VAR PATH
    pip install torch --index-url https://download.pytorch.org/whl/cpu
    python scripts/record_var.py --checkout=PATH --output=recording.npz --scales=1,2,3,4
    python -m vqvae_jax import --checkpoint=recording.npz --key=tokenizer/param --workdir=DIR --scales=1,2,3,4
    python -m vqvae_jax import --checkpoint=recording.npz --key=transformer/param --workdir=DIR
    python -m vqvae_jax compare --workdir=DIR --reference=recording.npz --key=tokenizer
    python -m vqvae_jax compare --workdir=DIR --reference=recording.npz --key=transformer

and for the quantizer alone, `quantizer/param` into another workdir, `compare` with --key=quantizer. Needs torch and
numpy, no JAX; on CPU, in float32. Every parameter is random, also those that their initialisation leaves at 0 or 1, on
bfloat16's grid, so that files are smaller. Written below each key are `param/`, `input/`, `output/`, `grad/` and
`meta/`, below `quantizer/` also `train/`, below `transformer/` `greedy/`: see vqvae_jax/compare/var.py.
"""

from __future__ import annotations  # torch may be missing

import argparse
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
from authors import begun, parser_of

try:
    import torch
except ModuleNotFoundError:  # --help works without
    torch = None

BATCH, GUIDANCES, LARGEST = 3, (0.0, 1.5), 3000  # LARGEST: numbers of a tensor whose gradient is written
ROUNDING = 1e-6  # of the largest gradient
NEAR = 1e-4  # of the best and second choice, relative: nearer ones may fall either way

Arrays = dict[str, Any]


def main() -> None:
    """Writes the file."""
    parser = parser_of(__doc__, "github.com/FoundationVision/VAR")
    parser.add_argument("--scales", default="1,2,3,4", help="sides of the maps (default 1,2,3,4)")
    parser.add_argument("--factors", default="1,2", help="of the tokenizer's levels, times --channels (default 1,2)")
    usual = {"codes": 32, "code_dim": 8, "labels": 10, "channels": 32, "depth": 2, "width": 64, "heads": 2}
    for name, number in usual.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=f"(default {number})")
    given = begun(parser)
    sides, factors = (tuple(map(int, one.split(","))) for one in (given.scales, given.factors))
    tokenizer, transformer = models(given, sides, factors)
    found = {
        "tokenizer": of_tokenizer(tokenizer, sides[-1] * 2 ** (len(factors) - 1)),
        "quantizer": of_quantizer(tokenizer.quantize, given.code_dim, sides[-1]),
        "transformer": of_transformer(transformer, tokenizer, given.labels),
    }
    arrays = {f"{key}/{name}": one for key, part in found.items() for name, one in flat(part)}
    arrays |= {f"{key}/meta/patch_nums": np.array(sides, np.int32) for key in found}
    np.savez_compressed(given.output, **arrays)
    print(f"{given.output}: {len(arrays)} arrays")


def models(given: argparse.Namespace, sides: tuple[int, ...], factors: tuple[int, ...]) -> tuple[Any, Any]:
    """Theirs: a tokenizer of fewer levels and blocks than their class has, and a transformer of its codes."""
    hub = types.ModuleType("huggingface_hub")
    hub.PyTorchModelHubMixin = object  # type: ignore[attr-defined]  # of a class that is not recorded
    sys.modules.setdefault("huggingface_hub", hub)
    torch.distributed.get_world_size = lambda *_: 1  # which their quantizer asks for in one process too
    code, own = importlib.import_module("models.vqvae"), importlib.import_module("models.var")
    fields = {"ch_mult": factors, "num_res_blocks": 1}
    for part in ("Encoder", "Decoder"):
        setattr(code, part, lambda kind=getattr(code, part), **said: kind(**{**said, **fields}))
    tokenizer = code.VQVAE(
        vocab_size=given.codes, z_channels=given.code_dim, ch=given.channels, v_patch_nums=sides, test_mode=False
    )
    transformer = own.VAR(
        vae_local=tokenizer, num_classes=given.labels, depth=given.depth, embed_dim=given.width, num_heads=given.heads,
        cond_drop_rate=0.0, attn_l2_norm=True, patch_nums=sides, flash_if_available=False, fused_if_available=False,
    )  # fmt: skip
    return scattered(tokenizer).eval(), scattered(transformer).eval()


def scattered(model: torch.nn.Module) -> torch.nn.Module:
    """With random scales, shifts and biases, and codes as far apart as encodings are."""
    for name, parameter in model.named_parameters():
        one = parameter.data
        if name.endswith("embedding.weight"):
            one.copy_(torch.randn_like(one) * 0.2)
        elif name.endswith("scale_mul_1H11"):
            one.copy_(1 + torch.rand_like(one))
            one[0, 0] = 4.7 if name.startswith("blocks.1.") else one[0, 0]  # beyond ln 100, where it is cut
        elif one.ndim == 1:
            one.copy_(torch.randn_like(one) * 0.1 + ("norm" in name and name.endswith("weight")))
        elif one.ndim < 4:
            one.copy_(torch.randn_like(one) * (0.5 if one.ndim == 3 or "emb" in name else one.shape[-1] ** -0.5))
        one.copy_(one.bfloat16().float())
    return model


def of_tokenizer(model: Any, size: int) -> Arrays:
    """On smooth random images; L1 and the codes' loss are differentiated."""
    coarse = torch.rand(BATCH, 3, 4, 4) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1).bfloat16().float()
    encoded = model.encoder(images)
    z_e = model.quant_conv(encoded)
    z_q, _, of_codes = model.quantize(z_e)
    made = model.decoder(model.post_quant_conv(z_q))
    l1 = (made - images).abs().mean()
    (l1 + of_codes).backward()
    named = {"encoder": encoded, "z_e": z_e, "reconstruction": made, "l1": l1, "codebook_loss": of_codes}
    output = {**named, "loss": l1 + of_codes, **by_scale(model.quantize, z_e)}
    return {"param": model.state_dict(), "input/images": images, "output": output, "grad": gradients(model)}


def of_quantizer(model: Any, code_dim: int, side: int) -> Arrays:
    """By itself, on random maps; its loss and the mean of f̂ times a weight are differentiated."""
    shape = (BATCH, code_dim, side, side)
    f, weight = torch.randn(shape).requires_grad_(), torch.randn(shape)
    model.zero_grad()
    f_hat, _, loss = model(f)
    total = loss + (f_hat * weight).mean()
    total.backward()
    state = {name: one for name, one in model.state_dict().items() if name != "ema_vocab_hit_SV"}
    return {
        "param": state,
        "input": {"f": f, "weight_on_f_hat": weight},
        "output": by_scale(model, f),
        "train": {"f_hat": f_hat, "loss": loss, "total": total},
        "grad": {"f": f.grad, **gradients(model)},
    }


def by_scale(model: Any, f: torch.Tensor) -> Arrays:
    """Indices, f̂ after every scale, and what the next one hears."""
    f, sides, count = f.detach(), model.v_patch_nums, len(model.v_patch_nums)
    maps = model.f_to_idxBl_or_fhat(f, to_fhat=False)
    check(f, model, sides)
    found: Arrays = {"var_input": model.idxBl_to_var_input(maps)}
    found["f_hat"] = model.f_to_idxBl_or_fhat(f, to_fhat=True)
    found["indices"] = [one.reshape(len(f), side, side).int() for one, side in zip(maps, sides, strict=True)]
    running, found["next_map"] = torch.zeros_like(f), []
    for scale, one in enumerate(found["indices"]):
        vectors = model.embedding(one).permute(0, 3, 1, 2)
        running, after = model.get_next_autoregressive_input(scale, count, running, vectors)
        found["next_map"].append(after.clone())
    return found


def check(f: torch.Tensor, model: Any, sides: tuple[int, ...]) -> None:
    """That no code is near a tie with another, over all scales."""
    sums = [torch.zeros_like(f), *model.f_to_idxBl_or_fhat(f, to_fhat=True)]
    for scale, side in enumerate(sides):
        rest = torch.nn.functional.interpolate(f - sums[scale], size=(side, side), mode="area")
        flat = rest.permute(0, 2, 3, 1).reshape(-1, f.shape[1]).double()
        best, second = (torch.cdist(flat, model.embedding.weight.double()) ** 2).topk(2, largest=False).values.T
        if ((second - best) / second).min() < NEAR:
            raise SystemExit(f"scale {scale}: two codes are nearly as near; take another --seed")


def of_transformer(model: Any, tokenizer: Any, labels: int) -> Arrays:
    """Teacher forcing on random codes, the last label "none"; the mean cross-entropy is differentiated."""
    asked = torch.tensor([*torch.randint(labels, (BATCH - 1,)).tolist(), labels])
    maps = [torch.randint(tokenizer.V, (BATCH, side**2)) for side in model.patch_nums]
    tokens = torch.cat(maps, dim=1)
    teacher = tokenizer.quantize.idxBl_to_var_input(maps).detach()
    logits = model(asked, teacher)
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, tokenizer.V), tokens.reshape(-1))
    loss.backward()
    runs = {f"guidance_{one:g}": greedy(model, tokenizer, asked, one) for one in GUIDANCES}
    return {
        "param": model.state_dict(),
        "input": {"labels": asked.int(), "teacher": teacher, "tokens": tokens.int()},
        "output": {"logits": logits, "loss": loss},
        "grad": gradients(model),
        "greedy": runs,
    }


def greedy(model: Any, tokenizer: Any, labels: torch.Tensor, guidance: float) -> Arrays:
    """Their sampler with the likeliest token alone, watched where it samples and where it decodes."""
    code, seen = sys.modules[type(model).__module__], {"logits": [], "tokens": [], "f_hat": []}
    usual, decode = code.sample_with_top_k_top_p_, tokenizer.fhat_to_img

    def sample(logits: torch.Tensor, **said: Any) -> torch.Tensor:
        seen["logits"].append(logits.clone())
        seen["tokens"].append(logits.argmax(dim=-1))
        return usual(logits, **said)

    def decoded(f_hat: torch.Tensor) -> torch.Tensor:
        seen["f_hat"].append(f_hat.clone())
        return decode(f_hat)

    code.sample_with_top_k_top_p_, tokenizer.fhat_to_img = sample, decoded
    model.autoregressive_infer_cfg(len(labels), labels, g_seed=0, cfg=guidance, top_k=1)
    code.sample_with_top_k_top_p_, tokenizer.fhat_to_img = usual, decode
    logits = torch.cat(seen["logits"], dim=1)
    best, second = logits.topk(2, dim=-1).values.unbind(-1)
    if (best - second).min() < NEAR:
        raise SystemExit("two tokens are nearly as likely; take another --seed")
    return {"logits": logits, "tokens": torch.cat(seen["tokens"], dim=1).int(), "f_hat": seen["f_hat"][0]}


def gradients(model: torch.nn.Module) -> Arrays:
    """Of tensors that are not too large, but for mere rounding: of biases in front of norms of one channel a group."""
    named = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    most = {name: one.abs().max() for name, one in named.items()}
    least = ROUNDING * max(most.values())
    return {name: one for name, one in named.items() if one.numel() <= LARGEST and most[name] > least}


def flat(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """A copy of each tensor, with its path."""
    if isinstance(value, torch.Tensor):
        yield name, value.detach().numpy().copy()
        return
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield from flat(one, f"{name}/{key}" if name else str(key))


if __name__ == "__main__":
    main()
