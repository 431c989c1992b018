"""Weights come back bit for bit, and a file that is none says what it is."""

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vqvae_jax.interop import npz_files
from vqvae_jax.interop.files import read, write
from vqvae_jax.types import UserError

SAVED = Path(__file__).parent / "saved"
REFERENCE = Path(__file__).parents[1] / "reference" / "mnist_vae.npz"
RANDOM = np.random.default_rng(0)
TENSORS = {
    "layer.weight": RANDOM.normal(size=(3, 2, 5)).astype(np.float32),
    "file": np.array([np.nan, -0.0, np.inf, 5e-324]),
    "allow_pickle": np.float16(0.1).reshape(()),
    "param/nested/name": np.arange(4, dtype=np.uint8),
    "transposed": np.asfortranarray(RANDOM.normal(size=(4, 3))),
    "strided": np.arange(10, dtype=np.int64)[::3],
    "bool": np.array([[True, False]]),
    "empty": np.zeros((2, 0), np.int16),
    "größe": np.array([1, -1], np.int32),
}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_round_trip(tmp_path, suffix):
    write(tmp_path / f"w{suffix}", TENSORS)
    back = read(tmp_path / f"w{suffix}")
    assert set(back) == set(TENSORS)
    for name, array in TENSORS.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape, name
        assert back[name].tobytes() == array.tobytes(), name
    first = (tmp_path / f"w{suffix}").read_bytes()
    write(tmp_path / f"w{suffix}", back)
    assert (tmp_path / f"w{suffix}").read_bytes() == first or suffix == ".npz"  # there the order of axes is kept
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_big_endian_arrays(tmp_path, suffix):
    write(tmp_path / f"w{suffix}", {"w": np.arange(3, dtype=">f4")})
    np.testing.assert_array_equal(read(tmp_path / f"w{suffix}")["w"], np.arange(3, dtype=np.float32))


def test_numpy_reads_our_npz(tmp_path):
    write(tmp_path / "w.npz", TENSORS)
    with np.load(tmp_path / "w.npz") as file:
        assert {f"param/{name}" for name in TENSORS} == set(file.files)
        np.testing.assert_array_equal(file["param/transposed"], TENSORS["transposed"])


def test_the_library_and_we_agree(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    write(tmp_path / "ours.safetensors", TENSORS)
    plain = {name: np.array(one, order="C") for name, one in TENSORS.items()}  # the library ignores strides
    library.save_file(plain, tmp_path / "theirs.safetensors")
    ours, theirs = library.load_file(tmp_path / "ours.safetensors"), read(tmp_path / "theirs.safetensors")
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(ours[name], array)
        np.testing.assert_array_equal(theirs[name], array)


def test_bfloat16_safetensors(tmp_path):
    header = {"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}, "__metadata__": {"format": "pt"}}
    (tmp_path / "w").write_bytes(safetensors(header, struct.pack("<HH", 0x3FC0, 0xC000)))
    assert read(tmp_path / "w")["w"].tolist() == [1.5, -2.0] and read(tmp_path / "w")["w"].dtype == np.float32


def safetensors(header, elements=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + elements


@pytest.mark.parametrize("entry", [
    {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},  # more than is there
    {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [-1], "data_offsets": [8, 4]},
    {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [1 << 62, 0, 1 << 62], "data_offsets": [0, 0]},
    {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]},
    {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
    {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]},
    {"dtype": "F32"},
    [],
])  # fmt: skip
def test_absurd_safetensors(tmp_path, entry):
    (tmp_path / "w").write_bytes(safetensors({"w": entry}, bytes(8)))
    with pytest.raises(UserError, match=str(tmp_path / "w")):
        read(tmp_path / "w")
    twice = {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}
    (tmp_path / "w").write_bytes(safetensors(twice, bytes(8)))
    with pytest.raises(UserError, match="reaches over the end"):
        read(tmp_path / "w")


def test_recordings_of_the_reference():
    with np.load(REFERENCE) as file:
        expected = {name.removeprefix("param/"): file[name] for name in file.files if name.startswith("param/")}
        dictionary = file["trained/encoder_0.vq.dictionary"]
    weights = read(REFERENCE)
    assert set(weights) == set(expected)
    np.testing.assert_array_equal(weights["encoder_0.vq.dictionary"], expected["encoder_0.vq.dictionary"])
    np.testing.assert_array_equal(read(REFERENCE, key="trained")["encoder_0.vq.dictionary"], dictionary)
    with pytest.raises(UserError, match="has no arrays parma/NAME; its prefixes:.* param"):
        read(REFERENCE, key="parma")


def test_element_types_are_listed(tmp_path):
    """Those that are read, and those that are written, which lack one."""
    (tmp_path / "w").write_bytes(
        safetensors({"w": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, bytes(8))
    )
    with pytest.raises(UserError, match="w is F8_E4M3, which is not read; it must be one of F64, F32, F16, BF16, BOOL"):
        read(tmp_path / "w")
    with pytest.raises(UserError, match="is complex64; a .safetensors file is written of F64, F32, F16, I8, I16"):
        write(tmp_path / "w.safetensors", {"w": np.ones(1, np.complex64)})


def test_an_npz_without_a_prefix(tmp_path):
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(1000), b=np.ones(2))
    assert {name: array.shape for name, array in read(tmp_path / "w.npz").items()} == {"a": (1000,), "b": (2,)}


def test_what_lies_beside_the_arrays_of_an_npz_is_passed_over(tmp_path):
    np.savez(tmp_path / "w.npz", **{"param/w": np.ones(2), "other/w": np.ones(3)})
    with zipfile.ZipFile(tmp_path / "w.npz", "a") as archive:
        archive.writestr("param/README.txt", "who made this")
    assert list(read(tmp_path / "w.npz")) == ["w"]
    assert sorted(npz_files.names_in(tmp_path / "w.npz")) == ["other/w", "param/w"]


def test_an_npz_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{}], object))
    with pytest.raises(UserError, match="a is object; weights are plain numbers"):
        read(tmp_path / "w.npz")


def test_an_npz_that_announces_too_much(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(UserError, match="another size than announced"):
        read(tmp_path / "w.npz")


NO_WEIGHTS = {
    "is empty": b"",
    "is a text file": b"epoch 1, loss 0.3\n" * 9,
    "is a web page": b"<!DOCTYPE html><html>",
    "is a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "is a pickle, but not one of PyTorch": b"\x80\x04}.",
    "is one array without a name": b"\x93NUMPY\x01\x00",
    "is HDF5": b"\x89HDF\r\n\x1a\n",
    "is no file of weights": bytes(range(256)),
    "cannot be read": b"PK\x03\x04 and then none",
}


@pytest.mark.parametrize("what", NO_WEIGHTS)
def test_files_that_are_no_weights(tmp_path, what):
    (tmp_path / "w.pt").write_bytes(NO_WEIGHTS[what])
    with pytest.raises(UserError, match=rf"w.pt {what}.*\.safetensors or \.npz") as error:
        read(tmp_path / "w.pt")
    assert "\n" not in str(error.value)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="is a folder; give a file in it"):
        read(tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        read(tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("a.txt", "")
    with pytest.raises(UserError, match="a zip without weights"):
        read(tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("w-1.dist-info/METADATA", "")
    with pytest.raises(UserError, match="is a wheel, .* by python -m vqvae_jax features --from=.*w.whl$"):
        read(tmp_path / "w.whl")


def test_content_counts_and_not_the_suffix(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes((SAVED / "training_old.pt").read_bytes())
    assert list(read(tmp_path / "weights.safetensors")) == ["weight", "bias"]


def test_writing_says_what_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"written to .safetensors or .npz"):
        write(tmp_path / "w.pt", TENSORS)
    with pytest.raises(UserError, match="no weights"):
        write(tmp_path / "w.npz", {})
    for suffix in (".npz", ".safetensors"):
        with pytest.raises(UserError, match="a is <U1"):
            write(tmp_path / f"w{suffix}", {"a": np.array("x")})
    with pytest.raises(UserError, match="__metadata__"):
        write(tmp_path / "w.safetensors", {"__metadata__": np.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_numpy_is_all_it_needs():
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'safetensors', 'optax', 'orbax', 'ml_dtypes_']))\n"
    code += f"from vqvae_jax.interop.files import read; print(len(read({str(SAVED / 'state_zip.pt')!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "16", done.stderr
