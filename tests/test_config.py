"""Configs: what is typed is what is run; what is wrong is said in one line with the nearest right thing."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vqvae_jax import config as configs
from vqvae_jax.config.workdir import flat
from vqvae_jax.parts import build_quantizer
from vqvae_jax.quantizers import EMAQuantizer, ResidualQuantizer
from vqvae_jax.types import UserError

DEMO = "configs/openmoji_hierarchical.py"
ALL = [DEMO, f"{DEMO}:tiny", f"{DEMO}:vq", "configs/cifar10_hierarchical.py"]
ALL += ["configs/reference_hierarchical_256.py", "configs/reference_hierarchical_256.py:bfloat16"]


@pytest.fixture
def demo():
    return configs.read(DEMO)


def said(function, *args):
    """The one line that a mistake is answered with."""
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- reading


@pytest.mark.parametrize("argument", ALL)
def test_every_config_is_complete_and_right(argument):
    config = configs.read(argument)
    assert set(config) == set(configs.SECTIONS)
    assert configs.complete(config) == config
    assert json.loads(json.dumps(config))  # plain values only
    for stage in (config, *config["priors"].values()):
        assert set(stage["train"]) == {field.name for field in dataclasses.fields(configs.Train)}


def test_a_config_file_says_everything_about_itself():
    for path, line in configs.available():
        text = (configs.ROOT / path).read_text()
        assert line.endswith(".")
        assert "https://" in text and f"--config={path}" in text


def test_defaults_come_from_the_class_and_what_the_recipe_fills_in_is_no_field(demo):
    quantizer = configs.complete({**demo, "autoencoder": {"name": "hierarchical", "quantizer": {"name": "ema"}}})
    assert quantizer["autoencoder"]["quantizer"]["decay"] == 0.99
    assert set(demo["autoencoder"]) == {"name", "levels", "width", "classes", "smooth_start", "quantizer", "quantizers"}
    assert not {"vocab_size", "shape", "num_labels", "dtype", "parent"} & set(demo["priors"]["top"])


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("optimizer.learning_rate=1e-4", 1e-4),
        ("optimizer.clip=2", 2.0),
        ("train.steps=12", 12),
        ("dataset.name=npz", "npz"),
        ("dataset.path=2024", "2024"),
        ("dataset.flip=false", False),
        ("dataset.range=-1,1", (-1.0, 1.0)),
        ("dataset.range=[-1, 1]", (-1.0, 1.0)),
        ("priors.top.attention_after=4", (4,)),
        ("priors.top.attention_after=()", ()),
        ("priors.bottom.train.batch_size=3", 3),
        ("loss_weights.commitment/top=1", 1.0),
        ("seed=7", 7),
    ],
)
def test_any_field_can_be_typed(typed, value):
    path = f"config.{typed.partition('=')[0]}"
    found = flat(configs.read(DEMO, [f"--config.{typed}"]))[path]
    assert found == value and type(found) is type(value)


def test_values_may_stand_apart_and_true_may_be_left_out():
    config = configs.read(DEMO, ["--config.train.steps", "5", "--config.priors.top.norm", "--config.seed", "-3"])
    assert (config["train"]["steps"], config["priors"]["top"]["norm"], config["seed"]) == (5, True, -3)


def test_the_last_of_two_values_counts():
    assert configs.read(DEMO, ["--config.seed=1", "--config.seed=2"])["seed"] == 2


def test_a_levels_own_quantizer_differs_only_in_what_it_says():
    config = configs.read(
        DEMO, ["--config.autoencoder.quantizers.top.codebook_size=64", "--config.autoencoder.quantizer.decay=0.5"]
    )
    shared, top = config["autoencoder"]["quantizer"], config["autoencoder"]["quantizers"]["top"]
    assert top == {**shared, "codebook_size": 64} and top["decay"] == 0.5


def test_a_level_may_have_another_kind_of_quantizer():
    top = configs.read(DEMO, ["--config.autoencoder.quantizers.top.name=vq"])["autoencoder"]["quantizers"]["top"]
    assert top["name"] == "vq" and "decay" not in top


RESIDUAL = {
    "dataset": {},
    "autoencoder": {
        "name": "hierarchical",
        "levels": 2,
        "quantizer": {"name": "residual", "inner": {"name": "ema", "codebook_size": 8}},
        "quantizers": {"top": {"depth": 2, "inner": {"decay": 0.5}}},
    },
}


def test_a_quantizer_inside_a_quantizer_has_a_section_of_its_own():
    autoencoder = configs.complete(RESIDUAL)["autoencoder"]
    shared, top = autoencoder["quantizer"], autoencoder["quantizers"]["top"]
    assert shared["inner"]["codebook_size"] == 8 and shared["inner"]["revive_after"] == 100 and shared["depth"] == 4
    assert top == {**shared, "depth": 2, "inner": {**shared["inner"], "decay": 0.5}}
    assert build_quantizer(top) == ResidualQuantizer(EMAQuantizer(8, decay=0.5), depth=2)


def test_a_field_of_the_inner_quantizer_is_said_to_be_inside():
    quantizer = {"name": "residual", "codebook_size": 3, "inner": {"name": "ema", "codebook_size": 8}}
    answer = said(configs.complete, {**RESIDUAL, "autoencoder": {"name": "vqvae", "quantizer": quantizer}})
    assert answer.endswith("belongs to the one inside: --config.autoencoder.quantizer.inner.codebook_size"), answer


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ({}, ["quantizer.inner.name is missing", "vq, ema, cvq"]),
        ({"name": "fsq"}, ["quantizer.inner.name", "'fsq'", "vq, ema, cvq"]),
        ({"name": "ema", "codebok_size": 3}, ["quantizer.inner has no field", "did you mean 'codebook_size'"]),
        ({"name": "vq", "decay": 0.9}, ["quantizer.inner has no field 'decay'", "belongs to 'ema' and 'cvq'"]),
        ({"name": "ema", "inner": {}}, ["quantizer.inner has no field 'inner'"]),
        (3, ["quantizer.inner is 3, but it is a section"]),
    ],
    ids=str,
)
def test_what_is_wrong_inside_is_named_with_its_path(inner, words):
    config = {**RESIDUAL, "autoencoder": {"name": "vqvae", "quantizer": {"name": "residual", "inner": inner}}}
    answer = said(configs.complete, config)
    assert all(word in answer for word in words), answer


def test_reading_leaves_what_was_written_alone():
    written = {"dataset": {}, "autoencoder": {"name": "hierarchical", "quantizer": {"name": "vq"}}}
    configs.complete(written)
    assert written == {"dataset": {}, "autoencoder": {"name": "hierarchical", "quantizer": {"name": "vq"}}}


def test_stages_go_from_coarse_to_fine(demo):
    assert configs.stages(demo) == ("autoencoder", "top", "bottom")
    priors = {level: demo["priors"][level] for level in ("bottom", "top")}
    assert configs.stages({**demo, "priors": priors}) == ("autoencoder", "top", "bottom")
    assert configs.stages({**demo, "priors": {}}) == ("autoencoder",)


def test_a_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configs.read(DEMO)["dataset"]["name"] == "openmoji"
    assert DEMO in dict(configs.available())


def test_own_configs_are_listed_first_line_and_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/mine.py").write_text('"""Mine.\n\nMore."""\n')
    Path("configs/broken.py").write_text("def (")
    listed = dict(configs.available())
    assert listed["configs/mine.py"] == "Mine." and "not parse" in listed["configs/broken.py"]


def test_a_stored_config_is_read_without_ml_collections(demo, tmp_path):
    configs.save(demo, tmp_path)
    block = "import sys; sys.modules['ml_collections'] = None\n"
    code = f"{block}from vqvae_jax import config\nassert config.load({str(tmp_path)!r})['seed'] == 0"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=configs.ROOT)


# --- bad input: what is typed, and the words that the answer must hold


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("configs/openmoji_hierarchial.py", ["did you mean 'configs/openmoji_hierarchical.py'?", "cifar10"]),
        ("configs", ["there is no config 'configs'"]),
        (f"{DEMO}:tinny", ["no variant 'tinny'", "did you mean 'tiny'?", "tiny, ema, vq"]),
        ("configs/cifar10_hierarchical.py:vq", ["no variant 'vq'", "none"]),
        ("LICENSE.txt", ["there is no config"]),
    ],
)
def test_unknown_files_and_variants(argument, words):
    answer = said(configs.read, argument)
    assert all(word in answer for word in words), answer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(variant=None): return {}['x']", ["mine.py", "KeyError"]),
        ("import nothing_of_this_name", ["mine.py", "ModuleNotFoundError", "nothing_of_this_name"]),
        ("def get_config(", ["mine.py", "SyntaxError"]),
        ("x = 1", ["mine.py", "get_config"]),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path, text, words):
    (tmp_path / "mine.py").write_text(text)
    answer = said(configs.read, str(tmp_path / "mine.py"))
    assert all(word in answer for word in words), answer


STEPS = configs.read(DEMO, [])["train"]["steps"]
BAD = {
    "train.profile=100": ["config.train.profile wants START:COUNT", "got '100'", "--config.train.profile=100:5"],
    "priors.top.train.profile=0:5": ["counted from 1", "--config.priors.top.train.profile=100:5"],
    "autoencoder.width={[1]}": ["config.autoencoder.width wants a whole number", "got '{[1]}'"],
    # unknown names, with the nearest
    "optimizr.learning_rate=1": ["config has no section 'optimizr'", "did you mean 'optimizer'?"],
    "optimizer.lerning_rate=1": [
        "config.optimizer has no field 'lerning_rate'",
        "did you mean 'learning_rate'?",
        "It has:",
    ],
    "priors.topp.depth=3": ["config.priors has no level 'topp'", "did you mean 'top'?", "top, bottom"],
    "priors.top.train.stepps=3": ["config.priors.top.train has no field 'stepps'", "'steps'"],
    "priors.codes.name=pixelcnn": ["config.priors has no level 'codes'", "top, bottom"],
    "priors.top.name=pixelcn": [
        "config.priors.top.name: there is no 'pixelcn'",
        "did you mean 'pixelcnn'?",
        "There are:",
    ],
    "dataset.name=openmogi": ["config.dataset.name: there is no data set 'openmogi'", "did you mean 'openmoji'?"],
    "autoencoder.name=hierarchcal": ["did you mean 'hierarchical'?"],
    "autoencoder.quantizer.name=emma": ["config.autoencoder.quantizer.name", "did you mean 'ema'?"],
    "autoencoder.quantizers.tp.codebook_size=3": ["config.autoencoder.quantizers has no level 'tp'", "'top'"],
    "loss_weights.commitment/tap=1": ["no term 'commitment/tap'", "did you mean 'commitment/top'?"],
    # fields of another part
    "autoencoder.quantizer.levels=5": ["has no field 'levels'", "It has: name, codebook_size", "belongs to 'fsq'"],
    "autoencoder.vocab_size=5": ["config.autoencoder has no field 'vocab_size'"],
    "priors.top.parent=5": ["config.priors.top has no field 'parent'"],
    # sections
    "optimizer=adam": ["config.optimizer is 'adam'", "--config.optimizer.FIELD=VALUE"],
    "seed.x=3": ["config.seed is no section", "--config.seed=VALUE"],
    "train.steps.x=3": ["config.train.steps is no section", str(STEPS)],
    # types
    "train.steps=many": ["config.train.steps wants a whole number, got 'many'"],
    "train.steps=1e3": ["config.train.steps wants a whole number, got 1000.0"],
    "train.steps=true": ["config.train.steps wants a whole number, got True"],
    "optimizer.learning_rate=fast": ["config.optimizer.learning_rate wants a number, got 'fast'"],
    "dataset.flip=1": ["config.dataset.flip wants true or false, got 1"],
    "dataset.range=0,1,2": ["config.dataset.range wants 2 values, each a number"],
    "dataset.range=a,b": ["config.dataset.range wants 2 values, each a number"],
    "priors.top.attention_after=1,x": [
        "config.priors.top.attention_after wants any number of values, each a whole number"
    ],
    "loss_weights.commitment=much": ["config.loss_weights.commitment wants a number"],
    "seed=1.5": ["config.seed wants a whole number"],
    "train.dtype=float16": ["config.train.dtype wants 'float32' or 'bfloat16', got 'float16'"],
    "priors.top.optimizer.schedule=cosin": ["config.priors.top.optimizer.schedule wants 'constant' or 'cosine'"],
    # values
    "train.batch_size=0": ["config.train.batch_size must be above 0, got 0"],
    "train.keep=0": ["config.train.keep must be above 0"],
    "optimizer.clip=-1": ["config.optimizer.clip must not be negative, got -1"],
    "optimizer.learning_rate=nan": ["config.optimizer.learning_rate wants a number"],
    "autoencoder.levels=0": ["config.autoencoder.levels must be above 0"],
    "train.steps=1000000000000000000000": ["config.train.steps must be at most 2147483647, got 1000000000000000000000"],
    "priors.top.train.log_every=3000000000": ["config.priors.top.train.log_every must be at most 2147483647"],
    "autoencoder.levels=1000000000": ["config.autoencoder.levels must be at most 20"],
    "priors.top.layers=1000000": ["config.priors.top.layers must be at most 1000"],
    "priors.top.horizontal=1000000": ["config.priors.top.horizontal must be at most 100"],
    "autoencoder.quantizer.revive_after=-1": ["config.autoencoder.quantizer.revive_after must not be negative, got -1"],
    "autoencoder.quantizer.decay=2": ["config.autoencoder.quantizer.decay is a share, from 0 to below 1, got 2"],
    "optimizer.b1=1": ["config.optimizer.b1 is a share, from 0 to below 1, got 1"],
    "optimizer.learning_rate=1e999": ["config.optimizer.learning_rate wants plain numbers, got inf"],
    "dataset.range=0,1e999": ["config.dataset.range wants plain numbers"],
    "optimizer.learning_rate=1" + 400 * "0": ["config.optimizer.learning_rate", "got inf"],
    "dataset.channels=3.0": ["config.dataset.channels wants 0 or 1 or 3, got 3.0"],
    "loss_weights={1: 2}": ["loss_weights has a term 1", "terms are names"],
    "loss_weights.commitment=1e999": ["config.loss_weights.commitment wants a number, got inf"],
    "dataset.crop=64": ["config.dataset.crop=64 shifts images of 64 pixels away", "--config.dataset.crop=8"],
    "dataset.range=1,0": ["config.dataset.range must rise", "--config.dataset.range=0,1"],
    "dataset.image_size=60": [
        "config.dataset.image_size=60",
        "top, bottom",
        "multiple of 8",
        "nearest: --config.dataset.image_size=64",
    ],
    "dataset.image_size=3": ["nearest: --config.dataset.image_size=8"],
    "train.epochs=3": [f"config.train has steps={STEPS} and epochs=3", "--config.train.steps=0"],
    "priors.top.train.steps=0": ["--config.priors.top.train.steps=1000", "--config.priors.top.train.epochs=10"],
    "autoencoder.levels=1": ["config.priors has no level", "codes"],
    # labels that are never hidden, or always; the demo has guidance=2
    "priors.top.label_dropout=0": [
        "config.sample.guidance=2 and config.priors.top.label_dropout=0",
        "--config.priors.top.label_dropout=0.1",
        "--config.sample.guidance=1",
    ],
    "priors.top.label_dropout=1": ["from 0 to below 1, got 1", "--config.priors.top.label_dropout=0.1"],
    "priors.bottom.label_dropout=-0.1": ["config.priors.bottom.label_dropout", "got -0.1"],
}


def test_labels_need_not_be_hidden_where_nothing_asks_for_it():
    never = "--config.priors.top.label_dropout=0"
    assert configs.read(DEMO, [never, "--config.sample.guidance=1"])["priors"]["top"]["label_dropout"] == 0
    assert configs.read(DEMO, [never, "--config.priors.top.label_condition=false"])["sample"]["guidance"] == 2


@pytest.mark.parametrize("typed", BAD)
def test_bad_values_are_one_line_that_names_them(typed):
    answer = said(configs.read, DEMO, [f"--config.{typed}"])
    assert all(word in answer for word in BAD[typed]), answer


@pytest.mark.parametrize("typed", ["-" * 20_000 + "1", "(" * 5000, "9" * 5000], ids=["signs", "brackets", "digits"])
def test_what_python_cannot_read_is_text(typed):
    answer = said(configs.read, DEMO, [f"--config.autoencoder.width={typed}"])
    assert answer == f"config.autoencoder.width wants a whole number, got {typed!r}"


@pytest.mark.parametrize("path", ["config.autoencoder.quantizer.phis", "config.priors.codes.phis"])
def test_phis_are_not_counted_in_thousands(path):
    """Each is a convolution; of none nothing is said."""
    answer = said(configs.read, "configs/openmoji_var.py", [f"--{path}=1001"])
    assert answer == f"{path} must be at most 1000, got 1001"
    configs.read("configs/openmoji_var.py", [f"--{path}=0"])


def test_the_error_of_the_style_guide():
    answer = said(configs.read, DEMO, ["--config.autoencoder.quantizer.codebok_size=3"])
    has = "It has: name, codebook_size, code_dim, decay, revive_after, kmeans_iterations"
    assert answer == f"config.autoencoder.quantizer has no field 'codebok_size'; did you mean 'codebook_size'? {has}"


def test_what_is_no_override_is_refused():
    assert "'--train.steps'" in said(configs.read, DEMO, ["--train.steps=3"])


def test_a_part_needs_its_name(demo):
    assert "There are: vq, ema" in said(configs.complete, {"autoencoder": {"name": "hierarchical"}})


def test_unknown_stage(demo):
    configs.check_stage(demo, "bottom")
    assert "did you mean 'bottom'? It has: autoencoder, top, bottom" in said(configs.check_stage, demo, "botom")


# --- in the workdir


def test_what_is_saved_is_loaded(demo, tmp_path):
    demo["priors"]["top"]["attention_after"] = (1, 2)
    configs.save(demo, tmp_path / "new")
    assert configs.load(tmp_path / "new") == demo
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.json"]


def test_a_value_that_has_another_name_now_is_loaded_as_it_was_meant(demo, tmp_path):
    """CVQ's "cosine" put everything on the sphere; the published form is "cos"."""
    stored = json.loads(json.dumps(demo))
    stored["autoencoder"]["quantizer"] = {"name": "cvq", "codebook_size": 8, "code_dim": 64, "distance": "cosine"}
    stored["loss_weights"]["codebook"] = 1.0
    configs.save(stored, tmp_path)
    loaded = configs.load(tmp_path)["autoencoder"]["quantizer"]
    assert loaded["distance"] == "sphere" and build_quantizer(loaded).distance == "sphere"
    again = configs.read(str(tmp_path / configs.FILE))["autoencoder"]["quantizer"]  # the config of a new run
    assert again == loaded
    assert "is called 'sphere' now" in said(build_quantizer, stored["autoencoder"]["quantizer"])


def test_a_folder_without_config_is_no_workdir(tmp_path):
    answer = said(configs.load, tmp_path)
    assert "is not a workdir" in answer and f"--workdir={tmp_path}" in answer


def test_a_damaged_config_is_said(tmp_path):
    (tmp_path / "config.json").write_text('{"seed":')
    assert "is damaged" in said(configs.load, tmp_path)


def test_a_new_workdir_takes_the_config(demo, tmp_path):
    configs.agree(demo, tmp_path / "run")
    assert configs.load(tmp_path / "run") == demo


def test_a_run_may_go_on_longer(demo, tmp_path):
    configs.save(demo, tmp_path)
    longer = configs.read(
        DEMO,
        [
            "--config.train.steps=0",
            "--config.train.epochs=9",
            "--config.priors.top.train.log_every=1",
            "--config.sample.count=4",
            "--config.train.profile=100:5",
        ],
    )
    configs.agree(longer, tmp_path)
    assert configs.load(tmp_path) == longer


def test_a_run_of_before_there_were_profiles_goes_on(demo, tmp_path):
    old = configs.complete(demo)
    for stage in (old, *old["priors"].values()):
        del stage["train"]["profile"]
    configs.save(old, tmp_path)
    assert configs.load(tmp_path) == demo and not configs.differs(demo, tmp_path)
    configs.agree(configs.read(DEMO, ["--config.priors.top.train.profile=2:1"]), tmp_path)
    assert configs.load(tmp_path)["priors"]["top"]["train"]["profile"] == "2:1"


@pytest.mark.parametrize("field", ["train.batch_size", "priors.top.train.batch_size", "priors.top.depth", "seed"])
def test_nothing_else_may_change_and_nothing_is_written(demo, tmp_path, field):
    configs.save(demo, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    other = configs.read(DEMO, [f"--config.{field}=5", "--config.train.steps=9"])
    answer = said(configs.agree, other, tmp_path)
    stored = flat(demo)[f"config.{field}"]
    assert f"config.{field}: {stored!r} → 5" in answer and "another --workdir" in answer and "train.steps" not in answer
    assert (tmp_path / "config.json").read_bytes() == before


def test_all_differences_are_listed(demo, tmp_path):
    configs.save(demo, tmp_path)
    answer = said(configs.agree, configs.read(f"{DEMO}:vq"), tmp_path)
    assert "quantizer.name: 'ema' → 'vq'" in answer and "quantizer.decay: 0.985 → (not set)" in answer
    assert "loss_weights.codebook: (not set) → 0.25" in answer
