"""The PyTorch reference, https://github.com/unixpickle/vq-vae-2, trained as its own scripts train it.

For quality_vs_torch.py, which puts a checkout of it on sys.path first. Images come as uint8 [B, H, W, C], token maps as
int [B, h, w].
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from vq_vae_2 import vq_vae
from vq_vae_2.examples.mnist.model import Generator

from vqvae_jax.interop.importing import HEADS
from vqvae_jax.interop.places import from_torch
from vqvae_jax.interop.recognise import recognise

np.int = int  # the reference still says np.int, which NumPy 1.24 took away
BATCH = 64  # images at once where nothing is learned
LEARNING_RATE = 1e-3  # of Adam, for the autoencoder and for the MNIST generator


class Reference:
    """An autoencoder and the MNIST generator, with fresh weights; `levels` are names, coarse to fine."""

    def __init__(self, section: Mapping[str, Any], levels: Sequence[str], channels: int, seed: int) -> None:
        torch.manual_seed(seed)
        random.seed(seed)  # revival draws from it
        self.levels, self.codebook_size = levels, section["quantizer"]["codebook_size"]
        self.autoencoder = build(len(levels), channels, section["width"], self.codebook_size)
        self.prior = Generator()

    def train_autoencoder(self, batches: Iterable[np.ndarray]) -> Iterator[float]:
        """One step a batch of images, whose loss it yields."""
        self.autoencoder.train()
        adam = torch.optim.Adam(self.autoencoder.parameters(), lr=LEARNING_RATE)
        for images in batches:
            loss = self.autoencoder(floats(images))["loss"]
            update(adam, loss)
            self.autoencoder.revive_dead_entries()
            yield loss.item()

    def train_prior(self, batches: Iterable[np.ndarray]) -> Iterator[float]:
        """One step a batch of token maps, whose loss it yields."""
        self.prior.train()
        adam = torch.optim.Adam(self.prior.parameters(), lr=LEARNING_RATE)
        for maps in batches:
            loss = self.nats(torch.from_numpy(maps))
            update(adam, loss)
            yield loss.item()

    def codes(self) -> dict[str, np.ndarray]:
        """Copies of the codebooks, [K, D] each, by level."""
        encoders = reversed(self.autoencoder.encoders)  # encoder_0 is the bottom
        books = (encoder.vq.dictionary.detach().numpy().copy() for encoder in encoders)
        return dict(zip(self.levels, books, strict=True))

    @torch.no_grad()
    def measure(self, images: np.ndarray) -> dict[str, float]:
        """mse of all images, in [0, 1]; the share of each level's codes in use, coarse to fine."""
        self.autoencoder.eval()
        total = sum(self.autoencoder(floats(part))["losses"][-1].item() * len(part) for part in parts(images))
        used = [len(np.unique(maps)) / self.codebook_size for maps in self.encode(images)]
        return {"mse": total / len(images)} | {
            f"usage {name}": share for name, share in zip(self.levels, used, strict=True)
        }

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> list[np.ndarray]:
        """A token map a level, coarse to fine."""
        self.autoencoder.eval()
        done = []
        for part in parts(images):
            maps, x = [], floats(part)
            for encoder in self.autoencoder.encoders:
                x = encoder.encode(x)  # the level above reads what is not quantized
                maps.append(encoder.vq(x)[2].numpy())
            done.append(maps[::-1])
        return [np.concatenate(level) for level in zip(*done, strict=True)]

    @torch.no_grad()
    def nll(self, maps: np.ndarray) -> float:
        """Nats a token, over all maps."""
        self.prior.eval()
        return sum(self.nats(torch.from_numpy(part)).item() * len(part) for part in parts(maps)) / len(maps)

    def nats(self, maps: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.prior(maps), maps)


def build(levels: int, channels: int, width: int, codes: int) -> vq_vae.VQVAE:
    """The reference's autoencoder of one level, as for MNIST, or of two, as for photographs."""
    encoders = [vq_vae.QuarterEncoder(channels, width, codes)]
    if levels == 1:
        return vq_vae.VQVAE(encoders, [vq_vae.QuarterDecoder(width, channels)])
    encoders.append(vq_vae.HalfEncoder(width, width, codes))
    return vq_vae.VQVAE(encoders, [vq_vae.HalfDecoder(width, width), vq_vae.HalfQuarterDecoder(width, channels)])


def params(module: torch.nn.Module) -> dict[str, Any]:
    """Copies of the weights as a tree like ours, without codebooks."""
    tensors = {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}
    match = recognise(tensors, type(module).__name__, HEADS)
    return from_torch(tensors, match.places, match.like).params


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def floats(images: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, C] → float [B, C, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255))


def parts(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[start : start + BATCH] for start in range(0, len(array), BATCH))
