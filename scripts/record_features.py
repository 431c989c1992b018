"""Records what the published code of frozen nets does with random weights, as an .npz for tests/features.

    pip install torch torchvision lpips efficientnet-lite-pytorch
    python scripts/record_features.py --output=tests/reference/features.npz

Nets of few channels and blocks, of the same code: torchvision's MobileNetV2 and VGG16's layers, the PyTorch port of
EfficientNet-Lite0, the authors' LPIPS. No published weights are in it.

    NET/images              uint8 [B, H, W, 3], sides that no stride divides
    NET/param/…             by the names of their code, batch norms with statistics of their own
    NET/maps/i              [B, h, w, C], after the stem and each block; of vgg16 what LPIPS looks at
    NET/mean, deviation     what the images were normalised with
    lpips/images, others    float32 [B, H, W, 3] in [0, 1]; the last pair is equal
    lpips/param/…           the heads; distance [B], gradient of its sum with respect to `images`
"""

from __future__ import annotations  # torch may be missing

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TENSORFLOW = (127 / 255,) * 3, (128 / 255,) * 3
SIZE = (2, 27, 34, 3)
NARROW = (4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M")  # VGG16's layers
HEADS = (4, 6, 8, 8, 8)


def mobilenet_v2() -> Any:
    """The stem and four blocks, with and without a shortcut, of strides 1 and 2."""
    from torchvision.models import mobilenet_v2

    settings = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]  # expansion, channels, blocks, stride
    net = mobilenet_v2(weights=None, width_mult=0.25, round_nearest=4, inverted_residual_setting=settings)
    return net, list(net.features[:-1])


def efficientnet_lite0() -> Any:
    """The same, kernels of 3 and 5."""
    from efficientnet_lite_pytorch.model import EfficientNet
    from efficientnet_lite_pytorch.utils import BlockArgs, GlobalParams

    known = {"batch_norm_momentum": 0.99, "batch_norm_epsilon": 1e-3, "relu_fn": "relu6", "use_se": False}
    width = {"width_coefficient": 0.25, "depth_coefficient": 1.0, "depth_divisor": 4, "num_classes": 2}
    rows = (
        (1, 3, 1, 1, 32, 16),
        (2, 3, 2, 6, 16, 24),
        (1, 5, 2, 6, 24, 40),
    )  # blocks, kernel, stride, expansion, in, out
    blocks = [BlockArgs(*row, None, True) for row in rows]
    net = EfficientNet(blocks, GlobalParams(**known, **width, dropout_rate=0.0, fix_head_stem=False))
    stem = lambda x: net._swish(net._bn0(net._conv_stem(x)))  # noqa: E731
    return net, [stem, *net._blocks]


def vgg16() -> Any:
    """LPIPS' slices of it, up to relu5_3."""
    import lpips
    import torch
    from torchvision.models.vgg import make_layers

    features = make_layers(list(NARROW))
    lpips.pretrained_networks.tv = SimpleNamespace(vgg16=lambda pretrained: SimpleNamespace(features=features))
    judge = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, pnet_tune=True, verbose=False)
    judge.lins = torch.nn.ModuleList(lpips.lpips.NetLinLayer(width) for width in HEADS)
    return judge, features


def randomise(net: Any, seed: int) -> None:
    """Weights of a size that leaves maps with something in them; norms that are not the identity."""
    import torch

    draw = np.random.RandomState(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = draw.standard_normal(tuple(tensor.shape))
        if tensor.ndim > 1:
            noise *= (2 / np.prod(tensor.shape[1:])) ** 0.5
        else:
            noise = 0.3 * noise + (1.0 if name.endswith(("weight", "running_var")) else 0.0)
            noise = np.abs(noise) if name.endswith("running_var") else noise
        tensor.copy_(torch.tensor(noise))
    net.eval()


def of_blocks(name: str, net: Any, blocks: list[Any], normal: Any, prefixes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A net that goes from block to block."""
    import torch

    images = np.random.RandomState(1).randint(0, 256, SIZE).astype(np.uint8)
    mean, deviation = normal
    x = torch.tensor(np.moveaxis((images / 255 - mean) / deviation, 3, 1), dtype=torch.float32)
    found = {"images": images, "mean": np.array(mean), "deviation": np.array(deviation)}
    for number, block in enumerate(blocks):
        x = block(x)
        found[f"maps/{number}"] = np.moveaxis(x.detach().numpy(), 1, 3)
    kept = {key: value for key, value in net.state_dict().items() if key.startswith(prefixes) and value.ndim}
    found |= {f"param/{key}": value.numpy() for key, value in kept.items()}
    return {f"{name}/{key}": value for key, value in found.items()}


def of_lpips() -> dict[str, np.ndarray]:
    """VGG16's maps and LPIPS, with its gradient."""
    import torch

    judge, features = vgg16()
    with torch.no_grad():
        randomise(features, 5)
        for i, lin in enumerate(judge.lins):
            lin.model[-1].weight.copy_(torch.tensor(np.random.RandomState(i).rand(1, HEADS[i], 1, 1)))
    images, others = (np.random.RandomState(seed).rand(*SIZE).astype(np.float32) for seed in (2, 3))
    others[-1] = images[-1]
    one, other = (torch.tensor(np.moveaxis(x, 3, 1)) for x in (images, others))
    one.requires_grad_()
    distance = judge(one, other, normalize=True)
    distance.sum().backward()
    maps = judge.net(judge.scaling_layer(2 * one - 1))
    found = {f"vgg16/maps/{i}": np.moveaxis(x.detach().numpy(), 1, 3) for i, x in enumerate(maps)}
    found |= {f"vgg16/param/features.{key}": value.numpy() for key, value in features.state_dict().items()}
    found |= {
        f"lpips/param/lin{i}.model.1.weight": x.model[-1].weight.detach().numpy() for i, x in enumerate(judge.lins)
    }
    gradient = np.moveaxis(one.grad.numpy(), 1, 3)
    return found | {
        "lpips/images": images,
        "lpips/others": others,
        "lpips/distance": distance.detach().numpy().reshape(-1),
        "lpips/gradient": gradient,
    }


def record() -> dict[str, np.ndarray]:
    """All of it."""
    import torch

    torch.manual_seed(0)
    found = {}
    for make, normal, prefixes in (
        (mobilenet_v2, IMAGENET, tuple(f"features.{i}." for i in range(5))),
        (efficientnet_lite0, TENSORFLOW, ("_conv_stem", "_bn0", "_blocks")),
    ):
        net, blocks = make()
        with torch.no_grad():
            randomise(net, 4)
            found |= of_blocks(make.__name__, net, blocks, normal, prefixes)
    return found | of_lpips()


def main() -> None:
    """Writes the recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="x.npz")
    np.savez_compressed(parser.parse_args().output, **record())


if __name__ == "__main__":
    main()
