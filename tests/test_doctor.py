"""Collapse is told once, with its level and the step it began at; what is healthy is left in peace."""

import jax
import jax.numpy as jnp
import pytest
from small_quantizers import CASES, has_table, small

from vqvae_jax.doctor import AWAY, LONG, PATIENCE, RECENT, Doctor
from vqvae_jax.tasks.autoencode import age_and_size, distance


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


@pytest.mark.parametrize("case", CASES)
def test_every_codebook_says_what_the_doctor_reads(case):
    """But for those without a table: nothing can die there, or all codes do (simvq), and lengths are not kept."""
    found = age_and_size(small(case).init(jax.random.key(0)))
    wanted = {"code_norm", "code_norm_max", "recent_usage", "code_age"}
    without = {"recent_usage", "code_age"} if "simvq" in case else set(found) & {"active"}
    assert set(found) == (wanted if has_table(case) else without)


@pytest.mark.parametrize("case", [case for case in CASES if "residual" not in case and "multi" not in case])
def test_the_distance_to_codes_is_in_lengths_of_a_code(case):
    """Computed anew from the looked-up codes."""
    if not has_table(case) or "gumbel" in case:  # which measures no distance
        return
    quantizer = small(case)
    codebook = quantizer.init(jax.random.key(0))
    z = jax.random.normal(jax.random.key(1), (4, 3, 3, quantizer.input_dim))
    out = quantizer(codebook, z)
    seen = z / jnp.linalg.norm(z, axis=-1, keepdims=True) if "cosine" in case or "sphere" in case else z
    apart = jnp.linalg.norm(seen - quantizer.lookup(codebook, out.indices), axis=-1)
    usual = jnp.median(jnp.linalg.norm(codebook.codes, axis=-1))
    found = distance(age_and_size(codebook)["code_norm"], out.losses["commitment"], quantizer.output_dim)["away"]
    assert float(found) == pytest.approx(float(jnp.sqrt(jnp.mean(apart**2)) / usual), rel=1e-4)
