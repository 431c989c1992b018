"""The code of docs/extending.md runs as it stands there: registered, trained, exported, looked at by the doctor."""

import dataclasses
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import small_quantizers
from interop import test_metadata
from quantizers import test_quantizers as contract

import launch
from vqvae_jax import __main__ as package
from vqvae_jax import config as configs
from vqvae_jax import parts, recipe
from vqvae_jax.interop import files
from vqvae_jax.logs import read_metrics
from vqvae_jax.quantizers import QUANTIZERS
from vqvae_jax.types import UserError

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCKS = dict(re.findall(r"^## (The \w+)\n.*?^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M))
COMMANDS = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)[0].splitlines()
NAME = "manhattan"
SECTION = {"name": NAME, "codebook_size": 12, "code_dim": 4}
SMALL = ["dataset.image_size=16", "autoencoder.width=4", "autoencoder.quantizer.code_dim=4", "train.steps=4"]
SMALL += ["autoencoder.quantizer.codebook_size=12", "train.batch_size=4", "train.log_every=2", "train.evaluate_every=4"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the page's files and a few pictures; its quantizer is in the table."""
    root = tmp_path_factory.mktemp("extending")
    for folder in ("quantizers", "configs", "photos"):
        (root / folder).mkdir()
    (root / "quantizers" / f"{NAME}.py").write_text(BLOCKS["The file"], "utf-8")
    (root / "configs" / f"{NAME}.py").write_text(BLOCKS["The config"], "utf-8")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)):
        PIL.Image.fromarray(pixels).save(root / "photos" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setitem(sys.modules, f"vqvae_jax.quantizers.{NAME}", module(root / "quantizers" / f"{NAME}.py", patch))
        line, _, entry = BLOCKS["The line"].partition("\n")
        exec(line, space := {})
        patch.setitem(QUANTIZERS, NAME, eval(f"{{{entry}}}", space)[NAME])
        patch.setitem(small_quantizers.CASES, NAME, {})
        yield root


def module(path, patch):
    """A file as the module that it would be in the package."""
    spec = importlib.util.spec_from_file_location(f"vqvae_jax.quantizers.{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, spec.name, found)
    spec.loader.exec_module(found)
    return found


def test_its_commands_train_examine_and_export(root, capsys, monkeypatch):
    train, *others = (shlex.split(line)[2:] for line in COMMANDS)
    given = launch.parser().parse_args(train)
    config = configs.read(given.config, [f"--config.{field}" for field in SMALL])
    monkeypatch.setattr(recipe.report, "write", lambda workdir: "it without curves")  # which take seconds
    recipe.run(config, Path(given.workdir))
    logged = read_metrics(Path(given.workdir) / "autoencoder" / "metrics.jsonl")
    assert {"train/recent_usage/top", "train/away/top", "train/revived/top"} <= {name for one in logged for name in one}
    capsys.readouterr()
    for words in others:
        assert package.main(words[1:]) == 0
    assert "autoencoder: 4 steps, nothing is wrong" in capsys.readouterr().out
    tensors = files.read(root / "manhattan.safetensors")
    assert tensors["encoder_0.vq.dictionary"].shape == (12, 4) and (tensors["encoder_0.vq.usage_count"] <= 20).all()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_keeps_the_contract(root, train, dtype, monkeypatch):
    contract.test_shapes_and_dtypes(NAME, train, dtype)
    contract.test_every_product_has_all_bits_of_float32(NAME, "cpu", "one", train, monkeypatch, None)


@pytest.mark.parametrize(
    "test",
    [
        contract.test_in_evaluation_lookup_of_the_indices_is_z_q_and_nothing_moves,
        contract.test_indices_in_a_bfloat16_network_are_those_of_float32,
        contract.test_a_step_is_a_function_of_its_key_and_the_same_without_jit,
        contract.test_fewer_vectors_than_codes,
    ],
)
def test_it_keeps_the_contract_in_numbers(root, test):
    test(NAME)


def test_its_code_is_the_nearest_by_absolute_differences(root):
    quantizer = parts.build_quantizer(SECTION)
    book, z = quantizer.init(jax.random.key(0)), small_quantizers.vectors(1, 40, 4)
    wanted = [min(range(12), key=lambda k: np.abs(one - book.codes[k]).sum()) for one in z]
    np.testing.assert_array_equal(quantizer(book, z).indices[0], wanted)
    assert (quantizer(book, z).indices[0] != small_quantizers.nearest_by_hand(z, book.codes)).any()


def test_what_is_lacking_is_said_when_it_is_built(root, monkeypatch):
    """All of it, in one line, of one inside another too."""

    class Half:
        def init(self, key):
            raise NotImplementedError

        def lookup(self, codebook, indices):
            raise NotImplementedError

    monkeypatch.setitem(QUANTIZERS, "half", Half)
    said = r"^the quantizer Half lacks input_dim, output_dim, vocab_sizes, __call__; docs/extending.md shows a whole"
    for section in ({"name": "half"}, {"name": "residual", "inner": {"name": "half"}}):
        with pytest.raises(UserError, match=said):
            parts.build_quantizer(section)


@pytest.mark.parametrize("how", [None, dataclasses.dataclass], ids=["plain", "not frozen"])
def test_a_class_whose_fields_are_no_config_is_refused(how, monkeypatch):
    class Plain:
        codebook_size: int = 8

    monkeypatch.setitem(QUANTIZERS, "plain", how(Plain) if how else Plain)
    section = {"autoencoder": {"name": "vqvae", "quantizer": {"name": "plain"}}}
    with pytest.raises(UserError, match=r"^Plain is no frozen dataclass, as every part is; docs/extending\.md"):
        configs.complete({"dataset": {"name": "openmoji"}, "train": {"steps": 1}} | section)


def test_without_the_age_of_its_codes_it_is_exported_all_the_same(root, tmp_path, monkeypatch):
    """PyTorch's class wants counts; here is nothing to make them of."""
    monkeypatch.setitem(QUANTIZERS, NAME, ageless(QUANTIZERS[NAME]))
    monkeypatch.setitem(test_metadata.QUANTIZER, NAME, SECTION)
    run = test_metadata.workdir(tmp_path / "run", quantizer=NAME)
    one, other = test_metadata.carried(run, tmp_path, "autoencoder")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    test_metadata.same(other.encode(images), one.encode(images))
    test_metadata.same(other.reconstruct(images), one.reconstruct(images))
    count = files.read(tmp_path / "autoencoder.safetensors")["encoder_1.vq.usage_count"]
    assert count.dtype == np.int64 and count.tolist() == [100] * 12  # what it starts from there


def ageless(kind):
    """The same without `stats` and revival."""

    class Ageless(kind):
        def init(self, key):
            return super().init(key).replace(stats={})

        def __call__(self, codebook, z_e, *, key=None, train=False):
            return super().__call__(codebook, z_e)

    return Ageless
