"""Collapse is told once, with its level and the step it began at; what is healthy is left in peace."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
import small_models
from small_quantizers import CASES, has_table, small
from test_configs import facts

from vqvae_jax import __main__ as package
from vqvae_jax import checkup
from vqvae_jax import config as configs
from vqvae_jax import doctor as advice
from vqvae_jax.autoencoders import AUTOENCODERS
from vqvae_jax.config.sections import like
from vqvae_jax.doctor import AWAY, LONG, PATIENCE, RECENT, Doctor
from vqvae_jax.parts import Parts
from vqvae_jax.quantizers import QUANTIZERS
from vqvae_jax.stages import task_of
from vqvae_jax.tasks.autoencode import AutoencodeTask, age_and_size, distance


def values(usage=1.0, perplexity=50.0, norm=1.0, longest=2.0, revived=0.0, away=0.5, level="top"):
    names = ("recent_usage", "batch_perplexity", "code_norm", "code_norm_max", "revived", "away")
    seen = (usage, perplexity, norm, longest, revived, away)
    return {f"{name}/{level}": value for name, value in zip(names, seen, strict=True)}


def watch(*steps):
    """What is told at each of (step, values)."""
    doctor = Doctor()
    return doctor, [[str(one) for one in doctor.see(step, seen)] for step, seen in steps]


def test_a_healthy_level_is_left_in_peace():
    doctor, told = watch(*((step, values()) for step in range(50, 2000, 50)))
    assert not any(told) and not doctor.present()


def test_collapse_names_level_and_beginning_and_is_told_once():
    seen = [(50 * i, {**values(usage=1.0 if 50 * i < 400 else 0.07), **values(level="bottom")}) for i in range(1, 20)]
    doctor, told = watch(*seen)
    (sentence,) = [one for step in told for one in step]
    assert sentence.startswith("top: only 7% of its codes were used in 100 steps, since step 400; try --config")
    assert told[8 + PATIENCE - 2] == [sentence]  # at the third logged step in a row
    assert [one.since for one in doctor.present()] == [400]


def test_a_short_dip_is_nothing_and_a_recovery_is_seen():
    dip = [(500, values(usage=0.1)), (550, values(usage=0.1)), (600, values())]
    assert not any(watch(*dip)[1])
    doctor, told = watch(*((step, values(usage=0.1)) for step in (500, 550, 600, 650)), (700, values()))
    assert sum(map(len, told)) == 1 and not doctor.present()


def test_codes_have_time_to_be_used_first():
    assert not any(watch(*((step, values(usage=0.01)) for step in range(1, RECENT, 20)))[1])


def test_codes_that_are_drawn_are_held_in_use_by_their_kl():
    for kl, wanted in ((4.0, "a larger --config.loss_weights.kl"), (0.01, "a smaller --config.loss_weights.kl")):
        for seen in (values(usage=0.1), values(perplexity=1.2)):
            (found,) = watch(*((step, seen | {"kl/top": kl}) for step in range(200, 400, 50)))[0].present()
            assert wanted in found.advice


def test_a_critic_of_whom_nothing_is_known():
    doctor = Doctor()
    for step in (200, 250):
        doctor.see(step, {"critic_right": None, "adversarial": 1.0})
    assert not doctor.present()


def test_other_illnesses():
    steps = range(200, 400, 50)
    flown = watch(*((step, values(longest=1.01 * LONG)) for step in steps))[0].present()
    assert "times as long as most" in flown[0].what
    one = watch(*((step, values(perplexity=1.2)) for step in steps))[0].present()
    assert "one code does nearly all, batch perplexity 1.2" in one[0].what
    run = watch(*((step, values(away=1.01 * AWAY)) for step in steps))[0].present()
    assert "vectors lie 5 times a code's length from their codes" in run[0].what
    revived = watch(*((step, values(usage=0.1, revived=9.0)) for step in steps))[0].present()
    assert "revived and not kept" in revived[0].advice


def test_numbers_that_the_prior_holds_still_are_an_illness():
    """They tell the decoder nothing; the loss does not show it."""
    steps = (100, 150, 200)
    run = watch(*((step, {"active/codes": 0.25, "loss": 1.0}) for step in steps))[0].present()
    assert [one.level for one in run] == ["codes"] and "only 25% of its numbers vary" in run[0].what
    assert "--config.loss_weights.kl" in run[0].advice
    assert not watch(*((step, {"active/codes": 0.75}) for step in steps))[0].present()


def test_a_resumed_run_remembers():
    entries = [{"step": step, **{f"train/{k}": v for k, v in values(usage=0.1).items()}} for step in (200, 250, 300)]
    doctor = Doctor([{"step": 100, "held_out/usage/top": 1.0}, *entries])
    assert doctor.see(350, values(usage=0.1)) == [] and doctor.present()[0].since == 200


def test_null_in_the_log_is_no_error():
    nothing = dict.fromkeys(values())
    assert watch((200, nothing))[1] == [[]]


def logged_by(quantizer, images):
    """Names of a training step's metrics, of so many images of 16x16."""
    model = AUTOENCODERS["patch_vqvae"](quantizers=(quantizer,), **small_models.CASES["patch_vqvae-1"])
    terms = ("reconstruction", "codebook", "commitment", "kl", "entropy")
    task = AutoencodeTask(model, optax.sgd(0.1), dict.fromkeys(terms, 1.0))
    batch = {"image": jax.ShapeDtypeStruct((images, 16, 16, 3), jnp.uint8)}
    return jax.eval_shape(task.train_step, jax.eval_shape(task.init, jax.random.key(0), batch), batch)[1].keys()


@pytest.mark.parametrize("case", [name for name in QUANTIZERS if name != "kl"])
def test_one_code_for_all_is_told_of_every_quantizer(case):
    """By what its training logs; of several maps the one is named."""
    names, steps = logged_by(small(case), 2), (100, 150, 200)
    maps = sorted(name for name in names if name.startswith("batch_perplexity/"))
    healthy = dict.fromkeys(names, 1.0) | dict.fromkeys(maps, 3.0)
    assert len(maps) == len(small(case).vocab_sizes)
    assert not watch(*((step, healthy) for step in steps))[0].present()
    sick = {maps[-1]: 1.0, maps[-1].replace("perplexity", "usage"): 0.1}
    (found,) = watch(*((step, healthy | sick) for step in steps))[0].present()
    named = "" if len(maps) == 1 else f" of codes.{len(maps) - 1}"
    assert found.level == "codes" and found.what == f"one code does nearly all{named}, batch perplexity 1.0"
    assert ("commitment" in found.advice) == (case not in ("fsq", "lfq", "bsq", "gumbel"))


def test_of_few_places_no_perplexity_is_told():
    """A scale of 1x1 of two images has two: both may well be of one code."""
    quantizer = small("multiscale", scales=(1, 8))
    assert [name for name in logged_by(quantizer, 2) if "perplexity" in name] == ["batch_perplexity/codes.1"]


def test_of_one_scale_all_is_logged_that_is_of_one_map():
    assert {"batch_perplexity/codes", "away/codes"} <= logged_by(small("multiscale", scales=(8,)), 2)


def test_two_codes_are_no_collapse_as_long_as_both_are_used():
    """Their perplexity is at most 2."""
    names = {"batch_usage/codes": 1.0, "batch_perplexity/codes": 1.9}
    assert not watch(*((step, names) for step in (100, 150, 200)))[0].present()
    names |= {"batch_usage/codes": 0.5, "batch_perplexity/codes": 1.0}
    assert watch(*((step, names) for step in (100, 150, 200)))[0].present()


@pytest.mark.parametrize("case", CASES)
def test_every_codebook_says_what_the_doctor_reads(case):
    """But for those without a table: nothing can die there, or all codes do (simvq), and lengths are not kept."""
    found = age_and_size(small(case).init(jax.random.key(0)))
    wanted = {"code_norm", "code_norm_max", "recent_usage", "code_age"}
    without = {"recent_usage", "code_age"} if "simvq" in case else set(found) & {"active"}
    assert set(found) == (wanted if has_table(case) else without)


@pytest.mark.parametrize("case", [case for case in CASES if "residual" not in case and "multi" not in case])
def test_the_distance_to_codes_is_in_lengths_of_a_code(case):
    """Computed anew; of codes that lie on the sphere whatever is kept of them, the length is 1."""
    if not has_table(case) or "gumbel" in case:  # which measures no distance
        return
    quantizer = small(case)
    codebook = quantizer.init(jax.random.key(0))
    codebook = codebook.replace(codes=3 * codebook.codes)
    z = jax.random.normal(jax.random.key(1), (4, 3, 3, quantizer.input_dim))
    out, codes = quantizer(codebook, z), codebook.codes
    if "cosine" in case or "sphere" in case:
        z, codes = (one / jnp.linalg.norm(one, axis=-1, keepdims=True) for one in (z, codes))
    apart = jnp.linalg.norm(z - codes[out.indices[0]], axis=-1)
    usual = jnp.median(jnp.linalg.norm(codes, axis=-1))
    found = distance(quantizer, age_and_size(codebook)["code_norm"], out.losses["commitment"])["away"]
    assert float(found) == pytest.approx(float(jnp.sqrt(jnp.mean(apart**2)) / usual), rel=1e-4)


# Where each illness can be, and what is advised there.
DEMO, CRITIC_S = "configs/openmoji_hierarchical.py", "configs/openmoji_vqgan.py"
TABLES = [f"{DEMO}:{name}" for name in ("vq", "ema", "cvq", "cosine", "residual")]
DRAWN = ["configs/openmoji_dalle.py"]
REVIVED = advice.unused("top", {"revived/top": 1.0})
ADVICE = [(one, TABLES) for one in (advice.IDLE_CODES, REVIVED, advice.FLOWN, advice.RUN, advice.ONE)]
ADVICE += [(one, DRAWN) for one in (advice.HELD, advice.SURE)] + [(advice.CLOSED, ["configs/openmoji_kl.py"])]
ADVICE += [(one, [CRITIC_S]) for one in (advice.NOVICE, advice.MASTER)] + [(advice.BARE, [f"{DEMO}:fsq"])]
ADVICE += [(advice.SIGNS, [f"{DEMO} --config.autoencoder.quantizer.name={name}" for name in ("lfq", "bsq")])]


@pytest.mark.parametrize(("said", "argument"), [(said, one) for said, where in ADVICE for one in where])
def test_what_is_advised_can_be_typed(said, argument):
    """A flag as it is worded, with another number where it names none: the training can begin."""
    argument, *flags = argument.split()
    before = configs.read(argument, flags)
    advised = [typed(flag, said, before) for flag in re.findall(r"--(config\.[\w.=]*\w)", said)]
    config = configs.read(argument, [*flags, *advised])
    parts = Parts(config, facts(config))
    task_of(parts, "autoencoder").check(parts.loss_terms("autoencoder"))
    assert config != before or argument.endswith("ema")


def typed(flag, said, before):
    """--config.a.b=v; a field of which more or less is advised twice or half of what it is."""
    if "=" in flag:
        return f"--{flag}"
    now = like(before, flag)
    now = now["end"] if isinstance(now, dict) else now
    less = re.search(rf"(smaller|lower) --{flag}", said)
    return f"--{flag}={type(now)((now or 1) * (0.5 if less else 2))}"


def test_no_advice_is_left_out():
    """All flags of the file, and none that is not written in full."""
    text = Path(advice.__file__).read_text()
    assert set(re.findall(r"--config[\w.=]*\w", text)) == {
        flag for said, _ in ADVICE for flag in re.findall(r"--config[\w.=]*\w", said)
    }


# --- the command


def log(workdir, stage, *entries):
    (workdir / stage).mkdir(parents=True, exist_ok=True)
    (workdir / stage / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def logged(step, **seen):
    return {"step": step, **{f"train/{name}": value for name, value in values(**seen).items()}}


def test_the_command_says_of_each_stage_what_is_wrong(tmp_path, capsys):
    configs.save(configs.read(f"{DEMO}:tiny"), tmp_path)
    collapse = [logged(step, usage=0.1) for step in (200, 250, 300)]
    log(tmp_path, "autoencoder", logged(150), *collapse, {"step": 300, "held_out/mse": 0.1})
    log(tmp_path, "top", {"step": 6, "train/nll": 3.0})
    assert package.main(["doctor", f"--workdir={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("autoencoder: top: only 10% of its codes were used in 100 steps, since step 200; try --")
    assert lines[1].startswith("top: 6 steps; nothing in it is watched") and lines[2] == "bottom: nothing is logged yet"


def test_what_has_passed_is_said_as_well_and_health_too(tmp_path):
    configs.save(configs.read(f"{DEMO}:tiny"), tmp_path)
    log(tmp_path, "autoencoder", *(logged(step, usage=0.1) for step in (200, 250, 300)), logged(350))
    assert checkup.of_stage(tmp_path, "autoencoder")[0].startswith(
        "autoencoder: was ill, and is no more: top: only 10%"
    )
    log(tmp_path, "autoencoder", logged(200))
    assert checkup.of_stage(tmp_path, "autoencoder") == ["autoencoder: 200 steps, nothing is wrong"]


def test_of_two_that_fell_ill_at_once_the_one_that_recovered_is_said_too(tmp_path):
    configs.save(configs.read(f"{DEMO}:tiny"), tmp_path)
    both = [logged(step, usage=0.1) | logged(step, usage=0.1, level="bottom") for step in (200, 250, 300)]
    log(tmp_path, "autoencoder", *both, logged(350, usage=0.1) | logged(350, level="bottom"))
    present, passed = checkup.of_stage(tmp_path, "autoencoder")
    assert present.startswith("autoencoder: top: only 10%")
    assert passed.startswith("autoencoder: was ill, and is no more: bottom: only 10%")


def test_of_codes_that_nobody_counts_it_says_what_held_out_images_used(tmp_path):
    """Of the last evaluation; no verdict."""
    configs.save(configs.read(f"{DEMO}:tiny"), tmp_path)
    last = {"step": 2, "held_out/usage/top": 0.02, "held_out/usage/bottom": 0.5}
    log(tmp_path, "autoencoder", last | {"step": 1, "held_out/usage/top": 1.0}, last, {"step": 3, "train/loss": 1.0})
    (line,) = checkup.of_stage(tmp_path, "autoencoder")
    assert line.startswith(
        "autoencoder: 3 steps; nothing in it is watched; of the codes the held-out images of step 2 used 2% of top, "
        "50% of bottom, its curves are in "
    )
    log(tmp_path, "autoencoder", last, {"step": 3, "held_out/usage/top": None, "held_out/usage/bottom": 0.25})
    assert "images of step 3 used 25% of bottom, its curves" in checkup.of_stage(tmp_path, "autoencoder")[0]
    log(tmp_path, "autoencoder", last, {"step": 3, "held_out/usage/top": None})
    assert "of step 2 used 2% of top" in checkup.of_stage(tmp_path, "autoencoder")[0]


def test_of_codes_counted_in_batches_alone_it_says_both(tmp_path):
    configs.save(configs.read(f"{DEMO}:tiny"), tmp_path)
    seen = {"train/batch_perplexity/top": 9.0, "held_out/usage/top": 0.02}
    log(tmp_path, "autoencoder", {"step": 200} | seen)
    assert checkup.of_stage(tmp_path, "autoencoder") == [
        "autoencoder: 200 steps, nothing is wrong; of the codes the held-out images of step 200 used 2% of top"
    ]


def test_a_folder_that_is_no_workdir(tmp_path, capsys):
    assert package.main(["doctor", f"--workdir={tmp_path}"]) == 2
    assert "is not a workdir" in capsys.readouterr().err
