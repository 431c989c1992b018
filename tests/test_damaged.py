"""A damaged run: every command says so in one line, with a flag that this very command has."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_recipe import files, latest, trained_run

import launch
import vqvae_jax
from vqvae_jax import __main__ as package
from vqvae_jax import facts as facts_file
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.data import tokens
from vqvae_jax.files import read_checked_json, write_checked_json
from vqvae_jax.logs import read_metrics
from vqvae_jax.report.curves import counts_of
from vqvae_jax.types import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_run(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def damaged(trained, tmp_path_factory):
    """Copies of the run; in each the last checkpoint of one stage is half of what it was."""
    made = {}
    for stage in ("autoencoder", "bottom"):
        workdir = Path(shutil.copytree(trained, tmp_path_factory.mktemp(stage) / "run"))
        with Checkpoints(workdir / stage / "checkpoints") as checkpoints:
            assert checkpoints.steps() == (2, 4)
        damage(workdir / stage / "checkpoints" / "4" / "model")
        damage(workdir / stage / "checkpoints" / "4" / "train")
        made[stage] = workdir
    return made


PROGRESS = re.compile(r"[\w :]+ \d+/\d+.*")


def damage(folder):
    for path in [folder / "manifest.ocdbt", *folder.glob("d/*")]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def refused(capsys, main, *argv):
    """The line that a command is refused with, the last; before it stands how far it was, and nothing else."""
    capsys.readouterr()
    assert main(list(map(str, argv))) == 2
    *before, line = capsys.readouterr().err.strip().splitlines()
    assert all(PROGRESS.fullmatch(one) for one in before), before
    return line


def flags(command):
    """Those that a command has."""
    under = next(one for one in package.parser()._actions if one.choices)
    return set(under.choices[command]._option_string_actions)


@pytest.fixture
def pictures(tmp_path):
    import PIL.Image

    (tmp_path / "pictures").mkdir()
    PIL.Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "pictures" / "a.png")
    return tmp_path / "pictures"


AUTOENCODER = {
    "sample": ("--autoencoder_step", []),
    "sample --prefix": ("--autoencoder_step", ["--prefix=PICTURES"]),
    "evaluate": ("--step", []),
    "encode": ("--step", ["--output=NEW"]),
    "decode": ("--step", ["--tokens=TOKENS", "--output=NEW"]),
    "reconstruct": ("--step", ["--images=PICTURES", "--output=NEW"]),
    "export": ("--step", ["--output=NEW.npz"]),
    "compare": ("--autoencoder_step", ["--against=OTHER"]),
}


@pytest.mark.parametrize("case", AUTOENCODER)
def test_a_damaged_autoencoder(case, damaged, trained, pictures, tmp_path, capsys):
    command, (flag, argv) = case.split()[0], AUTOENCODER[case]
    workdir = damaged["autoencoder"]
    for name, path in {"PICTURES": pictures, "NEW": tmp_path / "new", "TOKENS": workdir / "tokens"}.items():
        argv = [word.replace(name, str(path)) for word in argv]
    argv = [word.replace("OTHER", str(trained)) for word in argv]
    line = refused(capsys, package.main, command, f"--workdir={workdir}", *argv)
    assert f"{workdir}/autoencoder/checkpoints/4 is damaged: " in line and line.endswith(f"; say {flag}=2")
    assert flag in flags(command)


PRIOR = {
    "sample": ("--step", []),
    "evaluate": ("--prior_step", []),
    "export": ("--step", ["--stage=bottom", "--output=NEW.npz"]),
    "compare": ("--step", ["--against=OTHER"]),
}


@pytest.mark.parametrize("command", PRIOR)
def test_a_damaged_prior(command, damaged, trained, tmp_path, capsys):
    flag, argv = PRIOR[command]
    workdir = damaged["bottom"]
    with Checkpoints(workdir / "bottom" / "checkpoints") as checkpoints:
        best = checkpoints.best() == 4
    argv = [word.replace("OTHER", str(trained)).replace("NEW", str(tmp_path / "new")) for word in argv]
    line = refused(capsys, package.main, command, f"--workdir={workdir}", *argv, *([] if best else [f"{flag}=latest"]))
    said = f"{flag}=2" if command == "export" else f"{flag}=bottom:2"  # of the others the step stays as it was
    assert f"{workdir}/bottom/checkpoints/4 is damaged: " in line and line.endswith(f"; say {said}")
    assert flag in flags(command)


def test_a_step_of_one_prior(damaged, trained, tmp_path, capsys):
    workdir = damaged["bottom"]
    argv = ["sample", f"--workdir={workdir}", "--count=2", f"--output={tmp_path / 'new.npz'}"]
    assert package.main([*argv, "--step=bottom:2,top:latest"]) == 0
    model = vqvae_jax.load(workdir, step={"bottom": 2, "top": None})
    with np.load(tmp_path / "new.npz") as file:
        np.testing.assert_array_equal(file["arr_0"], model.sample(2))
    want = vqvae_jax.load(trained, step=2).priors["bottom"][1]
    jax.tree.map(np.testing.assert_array_equal, model.priors["bottom"][1], want)
    before = files(workdir)
    assert package.main(["evaluate", f"--workdir={workdir}", "--prior_step=bottom:2"]) == 0
    assert {path.name for path in set(files(workdir)) - set(before)} == {
        f"{name}_bottom_2.{kind}"
        for name, kind in (
            ("metrics", "json"),
            ("code_counts", "npz"),
            ("code_maps", "png"),
            ("reconstructions", "png"),
        )
    }
    capsys.readouterr()
    line = refused(capsys, package.main, *argv, "--step=botom:2")
    assert line == "error: --step: there is no prior 'botom'; did you mean 'bottom'? There are: top, bottom"
    for wrong in ("bottom:", ":2", "bottom:2,3", "bottom:x"):
        with pytest.raises(SystemExit):
            package.main([*argv, f"--step={wrong}"])
        assert "argument --step: wants a" in capsys.readouterr().err


def test_python_says_it_in_python(damaged):
    model = vqvae_jax.load(damaged["autoencoder"])
    with pytest.raises(UserError, match=r"4 is damaged: .*; say autoencoder_step=2$"):
        _ = model.autoencoder
    assert vqvae_jax.load(damaged["autoencoder"], autoencoder_step=2).autoencoder
    with pytest.raises(UserError, match=r"4 is damaged: .*; say step={'bottom': 2}$"):
        _ = vqvae_jax.load(damaged["bottom"], step=None).priors


def test_what_is_said_is_typed(damaged, trained, tmp_path, capsys):
    """The metrics of another step do not take the place of the run's."""
    workdir = damaged["autoencoder"]
    before = (workdir / "metrics.json").read_bytes()
    assert package.main(["evaluate", f"--workdir={workdir}", "--step=2"]) == 0
    assert (workdir / "metrics.json").read_bytes() == before
    other = json.loads((workdir / "metrics_autoencoder_2.json").read_text())
    assert other["autoencoder"]["mse"] != json.loads(before)["autoencoder"]["mse"]
    argv = ["--count=2", f"--output={tmp_path / 'new.png'}"]
    assert package.main(["sample", f"--workdir={workdir}", "--autoencoder_step=2", *argv]) == 0
    assert package.main(["encode", f"--workdir={trained}", "--step=best", f"--output={tmp_path / 'tokens'}"]) == 0


def test_a_training_goes_back_from_damage(trained, damaged, tmp_path, capsys):
    """To the step that was named, with the flags that were named, to where it was."""
    workdir = Path(shutil.copytree(damaged["bottom"], tmp_path / "run"))
    argv = [f"--config={workdir / 'config.json'}", f"--workdir={workdir}"]
    more = "--config.priors.bottom.train.steps=6"
    assert launch.main([*argv, more]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "/bottom/checkpoints/4 is damaged: " in said and said.endswith("; say --stage=bottom --from_step=2")
    assert launch.main([*argv, "--config.priors.bottom.train.steps=4", "--stage=bottom", "--from_step=2"]) == 0
    with Checkpoints(trained / "bottom" / "checkpoints") as one, Checkpoints(workdir / "bottom/checkpoints") as other:
        assert one.model_checksum(4) == other.model_checksum(4)


def test_a_damaged_autoencoder_under_priors_that_are_to_be_trained(damaged, tmp_path, capsys):
    workdir = Path(shutil.copytree(damaged["autoencoder"], tmp_path / "run"))
    for name in ("top", "bottom", "tokens"):
        shutil.rmtree(workdir / name)
    argv = [f"--config={workdir / 'config.json'}", f"--workdir={workdir}", "--stage=top"]
    capsys.readouterr()
    assert launch.main(argv) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "/autoencoder/checkpoints/4 is damaged: " in said
    assert said.endswith("; say --stage=autoencoder --from_step=2")
    assert launch.main([*argv[:2], "--stage=autoencoder", "--from_step=2"]) == 0
    assert latest(workdir)["autoencoder"] == 4


# --- JSON beside it


def flips(data):
    """The bytes with each of their bits flipped in turn."""
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_every_bit_of_a_checked_file(tmp_path):
    values = {"names": ["größe", "x"], "sizes": [1, 2.5], "none": None}
    write_checked_json(tmp_path / "x.json", values)
    assert read_checked_json(tmp_path / "x.json") == values
    noticed = 0
    for data in flips((tmp_path / "x.json").read_bytes()):
        (tmp_path / "x.json").write_bytes(data)
        try:
            got = read_checked_json(tmp_path / "x.json")
            assert {name: got[name] for name in values} == values
        except ValueError:
            noticed += 1
    assert noticed > 500
    (tmp_path / "x.json").write_text(json.dumps(values))  # of an earlier version
    assert read_checked_json(tmp_path / "x.json") == values


def test_data_json_and_tokens_json_are_checked(trained, tmp_path):
    """A label's name, a size that is still possible: nobody would have noticed."""
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    before = files(workdir)
    path = workdir / "data.json"
    path.write_text(path.read_text().replace('"0"', '"8"', 1))
    with pytest.raises(UserError, match=r"data.json is damaged \(its checksum differs; .*\); restore it"):
        facts_file.read(workdir)
    path = workdir / "tokens" / "tokens.json"
    assert tokens.about(path.parent)["shards"] == {"train": 1, "validation": 1}
    path.write_text(path.read_text().replace('"image_size": 16', '"image_size": 17', 1))
    with pytest.raises(UserError, match=r"tokens.json is damaged \(its checksum differs; .*\); rm -r .*encode"):
        tokens.about(path.parent)
    assert files(workdir) != before


# --- what people can read, and edit


FIELDS = {
    "config.json": [
        (("autoencoder", "width"), -1),
        (("autoencoder", "levels"), 10**9),
        (("autoencoder",), 3),
        (("dataset",), []),
    ],
    "data.json": [
        (("image_size",), "16"),
        (("image_size",), 3),
        (("channels",), 0),
        (("label_names",), "abc"),
        (("label_counts",), [1]),
        (("label_counts",), [1, None, 2]),
    ],
}
WHOLE = ["", "[]", "{}", "3", "{", "\0", "\udcff"]


@pytest.mark.parametrize("file", FIELDS)
def test_what_is_known_of_a_run_has_its_shape(file, trained, tmp_path, capsys):
    """An empty object, a list, numbers that cannot be: of use, of the report and of a training that goes on."""
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    good = {name: value for name, value in json.loads((trained / file).read_text()).items() if name != "crc32"}
    for bad in [*WHOLE, *(json.dumps(with_field(good, *change)) for change in FIELDS[file])]:
        (workdir / file).write_text(bad, errors="surrogateescape")
        lines = [refused(capsys, package.main, name, f"--workdir={workdir}") for name in ("sample", "evaluate")]
        if '"image_size": 3,' not in bad:  # which a page can show
            lines += [refused(capsys, package.main, "report", f"--workdir={workdir}")]
        lines += [refused(capsys, launch.main, f"--config={trained / 'config.json'}", f"--workdir={workdir}")]
        for line in lines:
            assert f"{file} is damaged" in line or "data have changed" in line, (bad, line)
            assert "restore" in line or "another --workdir" in line


def with_field(values, path, value):
    """A copy in which one field, by its path, is another."""
    if not path:
        return value
    return {**values, path[0]: with_field(values[path[0]], path[1:], value)}


MEASURED = {
    "metrics.json": ["[]", "{", '{"autoencoder": 3}', '{"priors": {"top": 3}}', '{"autoencoder": {"psnr": "x"}}'],
    "top/metrics.jsonl": [
        "x\n{}\n",
        "[]\n[]\n",
        '{"step": "1"}\n{}\n',
        '{"step": 1, "train/nll": []}\n{}',
        "\udcff\n{}\n",
    ],
    "code_counts.npz": ["", "x", "PK\3\4"],
}


@pytest.mark.parametrize("file", MEASURED)
def test_what_a_report_shows_has_its_shape(file, trained, tmp_path, capsys):
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    for bad in MEASURED[file]:
        (workdir / file).write_text(bad, errors="surrogateescape")
        line = refused(capsys, package.main, "report", f"--workdir={workdir}")
        assert f"{workdir / file} is damaged" in line and ("evaluate again" in line or "line 1" in line), line


def test_code_counts_that_are_none(tmp_path):
    for counts in (np.zeros(0), np.zeros((2, 2)), np.array(["x"])):
        np.savez(tmp_path / "code_counts.npz", top=counts)
        with pytest.raises(UserError, match=r"code_counts.npz is damaged .* evaluate again"):
            counts_of(tmp_path / "code_counts.npz")
    with (tmp_path / "code_counts.npz").open("wb") as file:
        np.save(file, np.zeros(3))  # no archive
    with pytest.raises(UserError, match="is damaged"):
        counts_of(tmp_path / "code_counts.npz")


def test_the_half_line_of_a_killed_run_is_no_damage(trained, tmp_path):
    text = (trained / "top/metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 9, "ti')
    assert read_metrics(tmp_path / "metrics.jsonl") == read_metrics(trained / "top/metrics.jsonl")
