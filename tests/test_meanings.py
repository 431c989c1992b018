"""launch.py --config=X --help: every field there is, its value as one types it, what it means."""

import re

import pytest

import launch
from vqvae_jax import config as configs
from vqvae_jax.config.meanings import explained, meanings
from vqvae_jax.config.sections import Dataset, Optimizer, Sample, Text, Train, fields, tables
from vqvae_jax.config.workdir import flat

DEMO = "configs/openmoji_hierarchical.py"
KINDS = {kind for table in tables().values() for kind in table.values()} | {Dataset, Optimizer, Sample, Text, Train}


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: f"{kind.__module__}.{kind.__name__}"))
def test_every_field_of_every_part_has_a_meaning(kind):
    assert not [name for name in fields(kind) if not meanings(kind).get(name)]


def test_a_meaning_is_found_beside_the_field_and_in_the_docstring():
    assert meanings(Optimizer)["clip"] == "global norm of the gradient; 0 none"
    parts = tables()
    assert meanings(parts["quantizer"]["ema"])["codebook_size"] == "codes, K"
    assert meanings(parts["prior"]["top_prior"])["text_dropout"] == "the same of texts"  # of what it is made from


@pytest.mark.parametrize("argument", [DEMO, "configs/openmoji_dalle.py", "configs/imagenet256_dit.py"])
def test_all_of_it_is_there_and_typed_it_is_the_same_config(argument):
    config = configs.read(argument)
    said = [line for line in explained(config) if line.startswith("--config")]
    there = {line[2:].partition("=")[0] for line in said}
    weighed = re.compile(r"(.*loss_weights.[^.]+).*")  # a ramp is one value
    assert there == {weighed.sub(r"\1", path) for path in flat(config)}
    assert configs.read(argument, [line for line in said if not line.endswith("=")]) == config


def test_help_of_a_config_is_its_fields(capsys):
    assert launch.main([f"--config={DEMO}", "--help", "--config.train.steps=17"]) == 0
    out = capsys.readouterr().out
    assert "--config.train.steps=17\n      batches\n" in out and "--dry_run" in out
    assert launch.main([f"--config={DEMO}", "--help", "--config.train.stesp=17"]) == 2
