"""Collapse is told once, with its level and the step it began at; what is healthy is left in peace."""

import jax
import pytest
from small_quantizers import CASES, small

from vqvae_jax.doctor import LONG, PATIENCE, RECENT, Doctor
from vqvae_jax.tasks.autoencode import age_and_size


def values(usage=1.0, perplexity=50.0, norm=1.0, longest=2.0, revived=0.0, level="top"):
    names = ("recent_usage", "batch_perplexity", "code_norm", "code_norm_max", "revived")
    return {f"{name}/{level}": v for name, v in zip(names, (usage, perplexity, norm, longest, revived), strict=True)}


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


def test_other_illnesses():
    steps = range(200, 400, 50)
    flown = watch(*((step, values(longest=1.01 * LONG)) for step in steps))[0].present()
    assert "times as long as most" in flown[0].what
    one = watch(*((step, values(perplexity=1.2)) for step in steps))[0].present()
    assert "one code does nearly all, batch perplexity 1.2" in one[0].what
    revived = watch(*((step, values(usage=0.1, revived=9.0)) for step in steps))[0].present()
    assert "revived and not kept" in revived[0].advice


def test_a_resumed_run_remembers():
    entries = [{"step": step, **{f"train/{k}": v for k, v in values(usage=0.1).items()}} for step in (200, 250, 300)]
    doctor = Doctor([{"step": 100, "held_out/usage/top": 1.0}, *entries])
    assert doctor.see(350, values(usage=0.1)) == [] and doctor.present()[0].since == 200


def test_null_in_the_log_is_no_error():
    nothing = dict.fromkeys(values())
    assert watch((200, nothing))[1] == [[]]


@pytest.mark.parametrize("case", CASES)
def test_every_codebook_says_what_the_doctor_reads(case):
    """But for those without a table: nothing can die there."""
    found = age_and_size(small(case).init(jax.random.key(0)))
    assert set(found) == (set() if case == "fsq" else {"code_norm", "code_norm_max", "recent_usage", "code_age"})
