"""A part by another name than the file's: every pair of config and quantizer, of config and prior, is a training that
can begin, or is refused in one line that says what to type. Nothing is trained, nothing computed.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from small_models import CASES as AUTOENCODER_CASES
from small_quantizers import CASES, small
from test_configs import arguments, facts

from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax.autoencoders import AUTOENCODERS
from vqvae_jax.config.switching import terms
from vqvae_jax.parts import Parts, build_quantizer
from vqvae_jax.priors import PRIORS
from vqvae_jax.quantizers import QUANTIZERS, VectorQuantizer
from vqvae_jax.stages import task_of
from vqvae_jax.types import UserError

DEMO = "configs/openmoji_hierarchical.py"
QUANTIZER = "--config.autoencoder.quantizer"
NETWORK = "--config.priors.codes.network.name=dit"
STEPS = "--config.priors.codes.train.steps=9"
WHAT_TO_TYPE = re.compile(r"--config\.|diffusion on every level|end them at its side, scales=\d")
OTHER_MAPS = ("kl", "multiscale")  # of numbers, of several sizes: most priors want others
FILES = [one for one in arguments() if ":" not in one]
EVERY = pytest.mark.parametrize("argument", FILES)


def refusal(function, *given):
    """The one line that says what to type; None where there is none."""
    try:
        function(*given)
    except UserError as error:
        assert "\n" not in str(error) and WHAT_TO_TYPE.search(str(error)), error
        return str(error)
    return None


def renamed(path, kind, name):
    """What is typed; those around another part are told it."""
    inside = {"inner": "ema", "network": "dit"}
    has = [field.name for field in dataclasses.fields(kind) if field.name in inside]
    return [f"{path}.name={name}", *(f"{path}.{one}.name={inside[one]}" for one in has)]


@EVERY
def test_every_config_takes_every_quantizer(argument):
    """The weights are those of the terms, and each quantizer can be built."""
    for name, kind in QUANTIZERS.items():
        config = configs.read(argument, renamed(QUANTIZER, kind, name))
        section = config["autoencoder"]["quantizer"]
        build_quantizer(section)
        weights = {term.partition("/")[0] for term in config["loss_weights"]}
        assert section["name"] == name and weights - {"perceptual"} == set(terms(config)), name


@EVERY
def test_every_config_takes_every_prior_that_fits_its_maps(argument):
    config = configs.read(argument)
    known = facts(config)
    levels = [facts_file.as_list(one) for one in Parts(config, known).levels]
    for name, kind in PRIORS.items():
        typed = [word for level in config["priors"] for word in renamed(f"--config.priors.{level}", kind, name)]
        said = refusal(begin_priors, argument, typed, {**known, "levels": levels})
        assert said is None or not reads(name, levels), said


def reads(name, levels):
    """Whether a prior is for maps like these: of numbers, of codes that grow in a level, of codes of one size."""
    if any(codes is None for _, _, codes, *_ in levels):
        return name == "diffusion"
    shapes = {(level.partition(".")[0], tuple(shape)) for level, shape, *_ in levels}
    if len(shapes) > len({level for level, _ in shapes}):
        return name == "var"
    return name not in ("diffusion", "var")


def begin_priors(argument, typed, known):
    config = configs.read(argument, typed)
    for level in config["priors"]:
        Parts(config, known).prior(level)


@pytest.mark.parametrize(
    ("argument", "name", "words"),
    [
        ("vqgan", "diffusion", "'codes' is of codes; take a prior of codes, --config.priors.codes.name=maskgit, trans"),
        ("diffusion", "transformer", "take the prior for numbers, --config.priors.codes.name=diffusion"),
    ],
)
def test_a_prior_of_another_kind_is_refused_before_its_network_is_asked_for(argument, name, words):
    config = configs.read(f"configs/openmoji_{argument}.py:tiny")
    said = refusal(
        begin_priors, f"configs/openmoji_{argument}.py:tiny", [f"--config.priors.codes.name={name}"], facts(config)
    )
    assert words in said and "network" not in said


def test_a_network_is_asked_for_where_tokens_may_be_of_numbers():
    typed = ["--config.priors.codes.name=diffusion", "--config.dataset.name=tokens", "--config.dataset.path=x"]
    with pytest.raises(UserError, match="network.name is missing"):
        configs.read("configs/openmoji_vqgan.py:tiny", typed)


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("argument", [pytest.param(x, marks=() if x == DEMO else pytest.mark.thorough) for x in FILES])
def test_a_pair_is_a_training_that_can_begin(argument, name):
    """Traced at full size."""
    typed = renamed(QUANTIZER, QUANTIZERS[name], name)
    if "perceptual" in configs.read(argument)["loss_weights"]:
        typed.append("--config.loss_weights.perceptual=")  # wants a file
    said = refusal(begin, argument, typed)
    assert said is None or name in OTHER_MAPS or "diffusion" in argument or "dit" in argument, said


def begin(argument, typed):
    config = configs.read(argument, typed)
    parts = Parts(config, facts(config))
    task_of(parts, "autoencoder").check(parts.loss_terms("autoencoder"))
    for level in config["priors"]:
        parts.prior(level)


# --- what parts say of their terms


@pytest.mark.parametrize("case", CASES)
def test_a_quantizer_says_its_loss_terms(case):
    quantizer = small(case)
    z_e = jax.ShapeDtypeStruct((1, 4, 4, quantizer.input_dim), jnp.float32)
    made = jax.eval_shape(lambda key, z: quantizer(quantizer.init(key), z), jax.random.key(0), z_e)
    around = getattr(quantizer, "inner", None)
    said = around.terms(dataclasses.asdict(around)) if around else {}
    if hasattr(quantizer, "terms"):
        said |= quantizer.terms(dataclasses.asdict(quantizer))
    assert set(said) == set(made.losses)


@pytest.mark.parametrize("case", AUTOENCODER_CASES)
def test_an_autoencoder_says_its_loss_terms(case):
    kind, fields = AUTOENCODERS[case.partition("-")[0]], AUTOENCODER_CASES[case]
    model = kind(quantizers=(VectorQuantizer(16, 4),) * len(kind.names(fields)), **fields)
    images = jax.ShapeDtypeStruct((1, kind.stride(fields), kind.stride(fields), 3), jnp.float32)
    init = lambda key, x: model.init_with_output(key, x, model.init_codebooks(key))[0]  # noqa: E731
    made = jax.eval_shape(init, jax.random.key(0), images)
    own = kind.terms(fields) if hasattr(kind, "terms") else {}
    assert {term.partition("/")[0] for term in made.losses} == {"reconstruction", "codebook", "commitment", *own}


# --- what is left out, and what is said of it


def test_what_the_new_part_does_not_have_goes_and_is_said_in_one_line(capsys):
    config = configs.read(DEMO, [f"{QUANTIZER}.name=vq"])
    assert capsys.readouterr().err == (
        "config.autoencoder.quantizer: vq in place of ema, without the file's decay=0.985; "
        "config.loss_weights: with the usual codebook=1.0\n"
    )
    assert config["autoencoder"]["quantizer"] == {
        "name": "vq",
        "codebook_size": 256,
        "code_dim": 64,
        "revive_after": 60,
        "kmeans_iterations": 0,
        "rotation": False,
    }
    assert config["loss_weights"] == {"reconstruction": 1.0, "feature": 0.25, "commitment": 1 / 16, "codebook": 1.0}


def test_what_was_typed_counts_wherever_it_stands(capsys):
    typed = [f"{QUANTIZER}.codebook_size=7", f"{QUANTIZER}.name=vq", "--config.loss_weights.codebook=0.5"]
    config = configs.read(DEMO, typed)
    assert config["autoencoder"]["quantizer"]["codebook_size"] == 7 and config["loss_weights"]["codebook"] == 0.5
    assert "codebook" not in capsys.readouterr().err


def test_a_field_that_is_typed_and_is_another_parts_stays_a_mistake():
    with pytest.raises(UserError, match="has no field 'decay'.*belongs to 'ema'"):
        configs.read(DEMO, [f"{QUANTIZER}.name=vq", f"{QUANTIZER}.decay=0.9"])


def test_the_same_name_changes_nothing(capsys):
    assert configs.read(DEMO, [f"{QUANTIZER}.name=ema"]) == configs.read(DEMO)
    assert not capsys.readouterr().err


def test_a_level_of_another_kind_brings_its_terms_and_leaves_the_others():
    config = configs.read(DEMO, [f"{QUANTIZER}s.top.name=vq"])
    assert config["loss_weights"]["codebook"] == 1.0 and config["autoencoder"]["quantizer"]["name"] == "ema"
    both = configs.read(DEMO, [f"{QUANTIZER}s.top.name=fsq", f"{QUANTIZER}s.bottom.name=fsq"])
    assert set(both["loss_weights"]) == {"reconstruction", "feature"}


def test_levels_that_inherit_change_with_the_shared_one():
    file = {"dataset": {}, "autoencoder": {"name": "hierarchical", "quantizer": {"name": "ema", "decay": 0.5}}}
    file["autoencoder"]["quantizers"] = {"top": {"decay": 0.7, "codebook_size": 9}}
    before = configs.complete(file)
    file["autoencoder"]["quantizer"]["name"] = "vq"
    switch = configs.Switch(before, ("config.autoencoder.quantizer.name",))
    own = configs.complete(file, switch)["autoencoder"]["quantizers"]["top"]
    assert own["name"] == "vq" and own["codebook_size"] == 9 and "decay" not in own


def test_a_prior_of_another_kind_keeps_what_it_has_too(capsys):
    prior = configs.read(DEMO, ["--config.priors.top.name=transformer"])["priors"]["top"]
    before = configs.read(DEMO)["priors"]["top"]
    assert prior["train"] == before["train"] and prior["label_condition"] and prior["layers"] == before["layers"]
    assert capsys.readouterr().err.startswith("config.priors.top: transformer in place of pixelcnn, without the file's")


def test_a_field_of_the_same_name_and_another_type_goes_too():
    prior = configs.read("configs/imagenet256_maskgit.py", ["--config.priors.codes.name=pixelcnn"])["priors"]["codes"]
    assert prior["norm"] is True and prior["layers"] == 24


def test_the_loss_weights_of_another_prior_go_too():
    priors = configs.read("configs/openmoji_dalle.py", ["--config.priors.codes.name=maskgit"])["priors"]
    assert priors["codes"]["loss_weights"] == {}


def test_a_critic_comes_with_its_weight():
    assert configs.read(DEMO, ["--config.task.name=adversarial"])["loss_weights"]["adversarial"] == 0.2
    plain = configs.read("configs/openmoji_vqgan.py", ["--config.task.name=autoencode"])
    assert "adversarial" not in plain["loss_weights"] and set(plain["task"]) == {"name", "perceptual_net"}


# --- taking away


def test_an_empty_value_takes_a_field_away():
    assert "feature" not in configs.read(DEMO, ["--config.loss_weights.feature="])["loss_weights"]
    assert set(configs.read(DEMO, ["--config.priors.bottom="])["priors"]) == {"top"}


def test_what_has_a_default_has_it_again_and_text_is_empty():
    config = configs.read(DEMO, ["--config.optimizer.clip=", "--config.dataset.test_split=", f"{QUANTIZER}.decay="])
    assert (config["optimizer"]["clip"], config["dataset"]["test_split"]) == (0.0, "")
    assert config["autoencoder"]["quantizer"]["decay"] == 0.99


@pytest.mark.parametrize("path", ["config.loss_weights.codebok", "config.train.stpes", "config.priors.tpo"])
def test_what_is_not_there_cannot_be_taken_away(path):
    assert f"{path} is not there" in refusal(configs.read, DEMO, [f"--{path}="])


def test_a_prior_of_no_level_is_told_how_to_go():
    said = refusal(configs.read, DEMO, ["--config.autoencoder.levels=1"])
    assert "--config.priors.bottom=" in said or "--config.priors.top=" in said
    one = ["--config.autoencoder.levels=1", "--config.priors.bottom=", "--config.priors.top="]
    assert configs.read(DEMO, one)["priors"] == {}


def test_a_diffusion_prior_averages_its_weights_unless_told_otherwise():
    def rate(config, level, *typed):
        return configs.read(config, typed)["priors"][level]["optimizer"]["ema_rate"]

    added = ("configs/openmoji_kl.py", "codes", NETWORK, "--config.priors.codes.name=diffusion", STEPS)
    assert rate(*added) == 0.999 and rate(*added, "--config.priors.codes.optimizer.ema_rate=0") == 0.0
    assert rate(DEMO, "top", "--config.priors.top.optimizer.ema_rate=") == 0.0  # of another prior
