"""Every convolution has two formulations of the same sums; here they meet each other and a loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import equations

from vqvae_jax.networks import conv as layers
from vqvae_jax.networks import fast as convs

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU formulations are in force on CPU only")

# (height, width), (kernel height, width), channels in and out, stride, padding
CONVS = {
    "image": ((9, 6), (4, 4), 3, 5, 2, ((1, 2), (1, 2))),
    "odd image": ((7, 5), (3, 3), 2, 4, 2, ((1, 1), (1, 1))),
    "vertical stack": ((6, 7), (2, 5), 9, 4, 1, ((0, 0), (0, 0))),
    "horizontal stack": ((5, 8), (1, 3), 9, 4, 1, ((0, 0), (0, 0))),
    "one by one": ((3, 5), (1, 1), 9, 4, 1, ((0, 0), (0, 0))),
    "wide": ((5, 7), (3, 3), 12, 6, 1, ((1, 1), (1, 1))),
    "halving": ((6, 4), (4, 4), 9, 3, 2, ((1, 2), (1, 1))),
    "strictly above": ((5, 3), (2, 3), 9, 4, 1, ((2, -1), (1, 1))),
    "above": ((4, 3), (3, 5), 9, 4, 1, ((2, 0), (2, 2))),
    "above, many channels": ((4, 3), (3, 5), 128, 2, 1, ((2, 0), (2, 2))),
    "above a single row": ((1, 6), (2, 5), 9, 4, 1, ((2, -1), (2, 2))),
    "above more than there is": ((2, 2), (4, 3), 3, 4, 1, ((3, 0), (1, 1))),
    "strictly left": ((3, 5), (1, 2), 9, 4, 1, ((0, 0), (2, -1))),
    "a row of the vertical stack": ((3, 9), (3, 5), 9, 4, 1, ((0, 0), (0, 0))),
    "one pixel": ((1, 3), (1, 3), 9, 4, 1, ((0, 0), (0, 0))),
    "to few channels": ((5, 7), (3, 3), 11, 3, 1, ((1, 1), (1, 1))),
    "to few channels, of a small map": ((2, 1), (3, 3), 11, 2, 1, ((1, 1), (1, 1))),
    "the pixel to the right and below": ((6, 4), (3, 3), 9, 10, 2, ((0, 1), (0, 1))),
}
UPS = {"one pixel": ((1, 1), 3, 2), "odd": ((3, 5), 4, 3), "one row": ((1, 4), 2, 5)}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def quick(function):
    """Compiled without LLVM's optimisations: what runs once is ready several times sooner."""
    cheap = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=cheap if jax.default_backend() == "cpu" else None)


def slow_conv(x, kernel, stride, padding):
    """Pixel by pixel."""
    more = [(max(low, 0), max(high, 0)) for low, high in padding]
    x, kernel = np.pad(np.asarray(x, np.float64), ((0, 0), *more, (0, 0))), np.asarray(kernel, np.float64)
    x = x[:, : x.shape[1] + min(padding[0][1], 0), : x.shape[2] + min(padding[1][1], 0)]
    height, width = kernel.shape[:2]
    rows, columns = (x.shape[1] - height) // stride + 1, (x.shape[2] - width) // stride + 1
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride : i * stride + height, j * stride : j * stride + width]
            out[:, i, j] = np.einsum("bhwc,hwcd->bd", patch, kernel)
    return out


def slow_conv_transpose(x, kernel):
    """Each pixel of x adds its 4x4 patch to the output: out[2i - 1 + a] += x[i] · kernel[a], cropped at the border."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    b, h, w, _ = x.shape
    out = np.zeros((b, 2 * h + 2, 2 * w + 2, kernel.shape[3]))
    for i in range(h):
        for j in range(w):
            out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("bc,hwcd->bhwd", x[:, i, j], kernel)
    return out[:, 1:-1, 1:-1]


def orders(function, x, kernel, twice=True):
    """Value, gradients, and (`twice`) gradients of a function of the gradients."""

    def first(x, kernel):
        return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel))), (0, 1))(x, kernel)

    def second(x, kernel):
        return sum(jnp.sum(jnp.cos(3 * g)) for g in first(x, kernel))

    def compute(x, kernel):
        return function(x, kernel), first(x, kernel), jax.grad(second, (0, 1))(x, kernel) if twice else ()

    return quick(compute)(x, kernel)


def assert_close(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=2e-5 * (1 + np.abs(w).max()))


@pytest.mark.parametrize("case", CONVS)
def test_fast_and_plain_convolutions_agree_in_value_gradient_and_its_gradient(case):
    size, kernel_size, depth_in, depth_out, stride, padding = CONVS[case]
    x, kernel = normal(0, 2, *size, depth_in), normal(1, *kernel_size, depth_in, depth_out) * 0.3
    twice = case in ("image", "above", "halving")  # the other gradients are jax's own, or compile long
    got = orders(lambda x, kernel: convs.conv(x, kernel, stride, padding), x, kernel, twice)
    np.testing.assert_allclose(got[0], slow_conv(x, kernel, stride, padding), atol=1e-4)
    with convs.plain():
        assert_close(got, orders(lambda x, kernel: convs.conv(x, kernel, stride, padding), x, kernel, twice))


@pytest.mark.parametrize("case", UPS)
def test_fast_and_plain_transposed_convolutions_agree_in_value_gradient_and_its_gradient(case):
    size, depth_in, depth_out = UPS[case]
    x, kernel = normal(0, 2, *size, depth_in), normal(1, 4, 4, depth_in, depth_out) * 0.3
    got = orders(lambda x, kernel: convs.conv_transpose(x, kernel), x, kernel)
    assert got[0].shape == (2, 2 * size[0], 2 * size[1], depth_out)
    np.testing.assert_allclose(got[0], slow_conv_transpose(x, kernel), atol=1e-5)
    with convs.plain():
        assert_close(got, orders(lambda x, kernel: convs.conv_transpose(x, kernel), x, kernel))


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_a_convolution_behind_a_doubling(size):
    x, kernel = normal(0, 2, *size, 9), normal(1, 3, 3, 9, 10) * 0.3
    got = orders(convs.doubled_conv, x, kernel, False)
    doubled = np.repeat(np.repeat(x, 2, 1), 2, 2)
    np.testing.assert_allclose(got[0], slow_conv(doubled, kernel, 1, ((1, 1), (1, 1))), atol=1e-4)
    with convs.plain():
        assert_close(got, orders(convs.doubled_conv, x, kernel, False))


@on_cpu
@pytest.mark.parametrize("pieces", [3, 16])
def test_the_kernel_s_gradient_in_pieces(pieces, monkeypatch):
    """Of a batch that they do not divide; a piece is at least an example."""
    monkeypatch.setattr(convs, "PIXELS", 40)  # of 5 x 4 each
    monkeypatch.setattr(convs, "PIECES", pieces)
    x, kernel = normal(0, 7, 5, 4, 9), normal(1, 3, 3, 9, convs.WIDE) * 0.3
    conv = lambda x, kernel: convs.conv(x, kernel, 1, ((1, 1), (1, 1)))  # noqa: E731
    assert gradient_program(conv, x.shape, kernel.shape).count("conv_general_dilated") == 2 + {3: 3, 16: 4}[pieces]
    got = orders(conv, x, kernel, pieces == 3)
    with convs.plain():
        assert_close(got, orders(conv, x, kernel, pieces == 3))


FORWARD = {
    "halving": (lambda x, k: convs.conv(x, k, 2, ((1, 2), (1, 2))), (2, 4, 6, 9), (4, 4, 9, 3)),
    "doubling": (convs.conv_transpose, (2, 2, 3, 4), (4, 4, 4, 9)),
    "to few": (lambda x, k: convs.conv(x, k, 1, ((1, 1), (1, 1))), (2, 3, 4, 9), (3, 3, 9, 2)),
    "doubling to few": (convs.conv_transpose, (2, 2, 3, 4), (4, 4, 4, 2)),
}


@pytest.mark.parametrize("case", FORWARD)
def test_forward_mode_agrees_with_the_limit_of_differences(case):
    """Each is linear in x and in its kernel, so that differences are exact."""
    function, size, kernel_size = FORWARD[case]
    x, dx, kernel, dk = normal(0, *size), normal(1, *size), normal(2, *kernel_size), normal(3, *kernel_size)
    out, moved = quick(lambda *a: jax.jvp(function, a[:2], a[2:]))(x, kernel, dx, dk)
    run = quick(lambda *a: function(*a))
    assert_close((out, moved), (run(x, kernel), run(dx, kernel) + run(x, dk)))
    only_x = quick(lambda *a: jax.jvp(lambda x: function(x, a[1]), a[:1], a[2:])[1])(x, kernel, dx)
    assert_close(only_x, run(dx, kernel))


def gradient_program(function, *shapes):
    """What jax would run for value and gradients, as text. Each call traces anew: the switch is read in tracing."""
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    gradient = jax.value_and_grad(lambda x, kernel: jnp.sum(jnp.square(function(x, kernel))), (0, 1))
    return str(jax.make_jaxpr(gradient)(*arguments))


@on_cpu
def test_cpu_never_meets_the_slow_kernel_gradients():
    """lax.conv_transpose, 1x1, flat and few-channel kernels: their kernel gradients are up to 30 times slower."""
    shapes = [
        (lambda x, k: convs.conv_transpose(x, k), (1, 4, 4, 16), (4, 4, 16, 16)),
        (lambda x, k: convs.conv(x, k), (1, 4, 4, 16), (1, 1, 16, 16)),
        (lambda x, k: convs.conv(x, k), (1, 4, 4, 16), (2, 3, 16, 16)),
        (lambda x, k: convs.conv(x, k, 2), (1, 8, 8, 3), (4, 4, 3, 16)),
    ]
    for function, *sizes in shapes:
        assert "conv_general_dilated" not in gradient_program(function, *sizes)
    with convs.plain():
        assert "conv_general_dilated" in gradient_program(*shapes[0])


@on_cpu
def test_plain_ends_with_its_block_even_after_an_error():
    assert convs.fast()
    with pytest.raises(KeyError), convs.plain():
        assert not convs.fast()
        with convs.plain():
            pass
        assert not convs.fast()
        raise KeyError
    assert convs.fast()


@on_cpu
def test_what_was_compiled_with_other_layers_is_compiled_anew():
    traced = []

    @jax.jit
    def program(x):
        traced.append(convs.fast())
        return x

    for _ in range(2):
        program(1.0)
        with convs.plain():
            program(1.0)
    assert traced == [True, False]


@pytest.mark.parametrize(
    ("layer", "fan_in"), [(layers.Conv(6, (2, 3)), 2 * 3 * 5), (layers.ConvTranspose(6), 16 * 6)], ids=["conv", "up"]
)
def test_layers_begin_as_pytorch_does(layer, fan_in):
    """Uniform within ±1/√fan_in, kernel and bias alike; PyTorch counts a transposed convolution's *outputs*."""
    params = quick(layer.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 5)))["params"]
    for leaf in jax.tree.leaves(params):
        assert np.abs(leaf).max() <= fan_in**-0.5
    assert np.std(params["kernel"]) == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)


def test_a_smooth_layer_begins_as_bilinear_interpolation():
    """Each output channel is that of a 1x1 convolution, doubled in size between the middles of pixels."""
    layer, x = layers.ConvTranspose(6, smooth=True), normal(0, 1, 4, 5, 3)
    params = quick(layer.init)(jax.random.key(0), x)["params"]
    weights = params["kernel"][1, 1] * (4 / 3) ** 2
    assert np.all(params["bias"] == 0) and np.abs(weights).max() <= 0.8 / 3**0.5
    want = jax.image.resize(x @ weights, (1, 8, 10, 6), "linear")
    out = quick(layer.apply)({"params": params}, x)
    np.testing.assert_allclose(out[:, 1:-1, 1:-1], want[:, 1:-1, 1:-1], atol=1e-6)  # beyond the edge there is 0


def test_a_smooth_layer_begins_with_its_bound():
    kernel = layers.bilinear(jax.random.key(0), (4, 4, 25, 400))
    assert np.std(kernel[0, 0] * 16) == pytest.approx(0.8 / 5 / 3**0.5, rel=0.02)


LAYERS = [layers.Conv(6, 3), layers.ConvTranspose(6), layers.Residual()]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_bfloat16_layers_keep_float32_parameters(layer):
    low = layer.clone(dtype=jnp.bfloat16)
    x = normal(0, 1, 4, 4, 5)
    params = quick(low.init)(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    if isinstance(low, layers.Residual):
        x = x.astype(jnp.bfloat16)  # it is told what its neighbours compute in
    out = quick(low.apply)(params, x)
    assert out.dtype == jnp.bfloat16
    want = quick(layer.apply)(params, x.astype(jnp.float32))
    np.testing.assert_allclose(out.astype(jnp.float32), want, atol=0.05)


@pytest.mark.parametrize("name", UPS)
def test_no_gradient_on_an_accelerator_slides_an_image_over_holes(name):
    """cuDNN has strided convolutions and both their gradients; a large window over a dilated x is none of them."""
    (height, width), channels, features = UPS[name]
    x, kernel = normal(0, 2, height, width, channels), normal(1, 4, 4, channels, features)
    with convs.plain():
        grad = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convs.conv_transpose(x, kernel))), (0, 1))
        found = [e for e in equations(jax.make_jaxpr(grad)(x, kernel)) if e.primitive.name == "conv_general_dilated"]
    dilated = [e.params["lhs_dilation"] != (1, 1) for e in found]
    assert dilated == [True, False, False]  # the value, the kernel's gradient, x's
    assert all(e.params["rhs_dilation"] == (1, 1) for e, holes in zip(found, dilated, strict=True) if holes)


@pytest.mark.parametrize("name", CONVS)
def test_no_gradient_on_an_accelerator_is_padded_by_less_than_nothing(name):
    (height, width), size, channels, features, stride, padding = CONVS[name]
    x, kernel = normal(0, 2, height, width, channels), normal(1, *size, channels, features)
    with convs.plain():
        grad = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convs.conv(x, kernel, stride, padding))), (0, 1))
        every = [e for e in equations(jax.make_jaxpr(grad)(x, kernel)) if e.primitive.name == "conv_general_dilated"]
    left = [low for e in every for low, _ in e.params["padding"]]
    assert all(low >= 0 for low in left)


@pytest.mark.parametrize("name", UPS)
def test_the_plain_transposed_convolution_has_the_gradients_of_lax(name):
    (height, width), channels, features = UPS[name]
    x, kernel = normal(0, 2, height, width, channels), normal(1, 4, 4, channels, features)
    sums = [lambda x, kernel, f=f: jnp.sum(jnp.sin(f(x, kernel))) for f in (convs._lax_doubling, convs._dilated)]
    ours, theirs = (quick(jax.grad(f, (0, 1)))(x, kernel) for f in sums)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)
