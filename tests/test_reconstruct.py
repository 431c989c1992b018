"""Own pictures through a trained autoencoder. The run is the one of test_recipe.py."""

import contextlib
import io

import numpy as np
import pytest
from test_encode import pictures, refuse, run, trained  # noqa: F401
from test_recipe import files, picture

import vqvae_jax
from vqvae_jax import reconstruct
from vqvae_jax.endings import Terminated
from vqvae_jax.reconstruct import padded, psnr


def test_pictures_keep_their_size(trained, pictures, tmp_path, capsys):  # noqa: F811
    output = tmp_path / "out"
    assert run("reconstruct", f"--workdir={trained[0]}", f"--images={pictures}", f"--output={output}") == 0
    out, err = capsys.readouterr()
    assert "dogs/broken.jpg is left out" in err and "mean" in out
    sizes = {name: picture(output / "reconstructions" / "dogs" / f"{name}.png").shape for name in (0, 2, 4)}
    originals = {name: picture(pictures / "dogs" / f"{name}.png") for name in sizes}
    assert sizes == {name: original.shape for name, original in originals.items()}
    original = originals[4]
    height, width = original.shape[:2]
    larger = original[np.minimum(np.arange(32), height - 1)][:, np.minimum(np.arange(48), width - 1)]
    versions = [one[0, :height, :width] for one in vqvae_jax.load(trained[0]).reconstruct(larger[None])]
    np.testing.assert_array_equal(picture(output / "reconstructions" / "dogs" / "4.png"), versions[-1])
    strip = picture(output / "strips" / "dogs" / "4.png")
    for i, version in enumerate([original, *versions]):
        np.testing.assert_array_equal(strip[:, (width + 2) * i :][:, :width], version)
    assert f"{psnr(original, versions[-1]):.2f} dB" in out


def test_one_file_and_squares(trained, pictures, tmp_path, capsys):  # noqa: F811
    argv = ("reconstruct", f"--workdir={trained[0]}", f"--images={pictures / 'cats/1.png'}")
    assert run(*argv, f"--output={tmp_path / 'out'}", "--image_size=16") == 0
    assert picture(tmp_path / "out/reconstructions/1.png").shape == (16, 16, 3)


def test_psnr_by_hand():
    one, other = np.zeros((2, 2, 1), np.uint8), np.full((2, 2, 1), 51, np.uint8)
    assert psnr(one, other) == pytest.approx(20 * np.log10(5)) and psnr(one, one) == 99


def test_many_sizes_become_few():
    sizes = [padded(np.zeros((side, 2 * side, 1), np.uint8), 8).shape for side in range(1, 513)]
    assert len(set(sizes)) < 30 and {side for height, width, _ in sizes for side in (height, width)} == {
        8 * strides for strides in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    }
    image = np.arange(5 * 9).reshape(5, 9, 1)
    larger = padded(image, 8)
    np.testing.assert_array_equal(larger[:5, :9], image)
    assert (larger[5:, :9] == image[4]).all() and (larger[:5, 9:] == image[:, 8:]).all()
    same = np.zeros((64, 96, 3), np.uint8)
    assert padded(same, 8).shape == same.shape


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_what_was_stopped_says_what_to_type(trained, pictures, refuse, tmp_path, monkeypatch, error, code):  # noqa: F811
    def stop(*_):
        raise error

    argv = ("reconstruct", f"--workdir={trained[0]}", f"--images={pictures}", f"--output={tmp_path / 'out'}")
    monkeypatch.setattr(reconstruct, "psnr", stop)
    said = line_of(argv, code)
    assert said == f"stopped; {tmp_path / 'out'} stays as it is and is not gone on with: choose a new --output"
    assert "choose a new folder" in refuse(*argv)
    monkeypatch.setattr(reconstruct, "padded", stop)  # before anything is written
    again = (*argv[:-1], f"--output={tmp_path / 'other'}")
    assert line_of(again, code) == "stopped; the same command begins again"
    monkeypatch.undo()
    assert line_of(again, 0) is not None


def line_of(argv, code):
    """The last line on standard error of a command that ends with this code."""
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert run(*argv) == code
    return err.getvalue().splitlines()[-1]


def test_refused(trained, pictures, refuse, tmp_path):  # noqa: F811
    argv = ("reconstruct", f"--workdir={trained[0]}", f"--output={tmp_path / 'out'}")
    assert "--images=FOLDER: there is no folder nowhere" in refuse(*argv, "--images=nowhere")
    assert "no picture" in refuse(*argv, f"--images={pictures / 'dogs/broken.jpg'}")
    assert "multiple of 8" in refuse(*argv, f"--images={pictures}", "--image_size=9")
    (tmp_path / "file").write_text("")
    argv = ("reconstruct", f"--workdir={trained[0]}", f"--images={pictures}")
    assert "is no folder" in refuse(*argv, f"--output={tmp_path / 'file'}")
    before = files(pictures)
    assert "holds other files" in refuse(*argv, f"--output={pictures}")
    assert "lies among the pictures" in refuse(*argv, f"--output={pictures / 'new'}")
    assert files(pictures) == before
