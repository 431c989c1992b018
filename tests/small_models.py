"""Small autoencoders for tests, with parameters that spread features over several codes."""

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.autoencoders import AUTOENCODERS
from vqvae_jax.quantizers import VectorQuantizer

WIDTH = 4
# A case or more for every name in AUTOENCODERS: fields of the constructor.
CASES = {
    "hierarchical-1": {"levels": 1, "width": WIDTH},
    "hierarchical-2": {"levels": 2, "width": WIDTH},
    "hierarchical-3": {"levels": 3, "width": WIDTH},
    "hierarchical-4": {"levels": 4, "width": WIDTH},
    "vqvae-1": {"halvings": 1, "width": WIDTH, "residual_width": 2, "residual_blocks": 1},
    "vqvae-2": {"halvings": 2, "width": WIDTH, "residual_width": 8},
    "vqvae2": {"width": WIDTH, "residual_width": 2},
    "patch_vqvae-1": {"halvings": 1, "width": 6, "groups": 3},  # projected to the codes and from them
    "patch_vqvae-2": {"halvings": 2, "width": WIDTH, "groups": 2},
    "vqgan": {"factors": (1, 2), "width": WIDTH, "blocks": 1, "z": 6, "groups": 2},
    "dvae": {"factors": (1, 2), "width": 16, "blocks": 1, "likelihood": "squared"},  # branches of 4 channels
    "vqgan-maskgit": {
        "factors": (1, 2, 1),
        "width": WIDTH,
        "blocks": 1,
        "decoder_blocks": 1,
        "attention": (0,),
        "middle_attention": False,
        "down": "average",
        "shortcut": "branch",
        "biases": False,
        "code_kernel": 0,
        "groups": 2,  # of one channel each, what stands before a norm has no gradient but rounding
        "distance": "squared",
    },
}


def quick(function):
    """Compiled without LLVM's optimisations: what runs once is ready several times sooner."""
    cheap = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=cheap if jax.default_backend() == "cpu" else None)


def scale(shape):
    """Large enough that features spread over several codes."""
    return 0.3 if len(shape) == 1 else 1.5 * np.prod(shape[:-1]) ** -0.5


def drawn(shapes):
    """Parameters by numpy: jax's own take long to compile."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape, scale=scale(a.shape)), a.dtype), shapes)


def build_case(case, quantizer=VectorQuantizer(16, WIDTH)):
    """(module, params, codebooks, images) of a case; images are [2, stride, 2 stride, 3]."""
    kind, fields = AUTOENCODERS[case.partition("-")[0]], CASES[case]
    model = kind(quantizers=(quantizer,) * len(kind.names(fields)), **fields)
    side = kind.stride(fields)
    images = jnp.asarray(np.random.default_rng(0).random((2, side, 2 * side, 3)), jnp.float32)
    books = model.init_codebooks(jax.random.key(1))
    return model, drawn(jax.eval_shape(model.init, jax.random.key(0), images, books)), books, images
