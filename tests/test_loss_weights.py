"""Loss weights that rise or fall over a training: in the config, in the step, in what is said of a wrong one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import autoencode, batches

from vqvae_jax import config as configs
from vqvae_jax.loss_weights import weight_at, weight_of
from vqvae_jax.types import UserError

DEMO = "configs/openmoji_hierarchical.py"
RAMP = {"begin": 0.5, "end": 2.0, "start": 10, "steps": 20}


def test_a_ramp_is_a_line_between_two_levels():
    steps = np.arange(50)
    wanted = np.interp(steps, [10, 30], [0.5, 2.0])
    np.testing.assert_allclose([weight_at(RAMP, step) for step in steps], wanted, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda step: weight_at(RAMP, step))(jnp.arange(50)), wanted, rtol=1e-6)
    assert weight_at(RAMP) == 2.0 and weight_at(3.0) == weight_at(3.0, 7) == 3.0  # without a step: as it ends
    assert weight_of({"kl": 1.0, "kl/top": RAMP}, "kl/top") is RAMP and weight_of({"kl": 1.0}, "codebook") is None


def test_a_step_weighs_by_its_number_and_the_best_checkpoint_by_the_end():
    ramp = {"begin": 0.0, "end": 8.0, "start": 1, "steps": 2}
    task = autoencode()
    task = type(task)(task.autoencoder, task.tx, {"reconstruction": 1.0, "commitment": ramp, "codebook": 1.0})
    step, state = jax.jit(task.train_step), jax.jit(task.init)(jax.random.key(0), batches().batch(0))
    for number, weight in enumerate((0.0, 0.0, 4.0, 8.0, 8.0)):
        state, metrics = step(state, batches().batch(number))
        terms = {name: float(value) for name, value in metrics.items() if name.split("/")[0] in task.loss_weights}
        wanted = sum(weight * value if "commitment" in name else value for name, value in terms.items())
        assert float(metrics["loss"]) == pytest.approx(wanted, rel=1e-5)
    assert float(task.total({"commitment/top": jnp.ones(())})) == 8.0


def test_a_config_says_a_ramp_whole_or_in_part(tmp_path):
    said = f"--config.loss_weights.commitment={ {'end': 1, 'steps': 100} }"
    config = configs.read(DEMO, [said, "--config.priors.top.loss_weights.nll=2"])
    assert config["loss_weights"]["commitment"] == {"begin": 0.0, "end": 1.0, "start": 0, "steps": 100}
    assert config["priors"]["top"]["loss_weights"] == {"nll": 2.0} and config["priors"]["bottom"]["loss_weights"] == {}
    configs.save(config, tmp_path)
    assert configs.load(tmp_path) == config
    longer = configs.read(DEMO, [said.replace("100", "200")])
    with pytest.raises(UserError, match="loss_weights.commitment.steps: 100 → 200"):
        configs.differs({**longer, "priors": config["priors"]}, tmp_path)


@pytest.mark.parametrize(
    "said, wanted",
    [
        ("{'stop': 1}", "has no field 'stop'"),
        ("{'steps': 0}", "takes 1 step or more"),
        ("{'start': -1}", "starts at a step from 0 on"),
        ("{'end': 'high'}", "commitment.end wants a number, got 'high'"),
        ("{'steps': 1.5}", "commitment.steps wants a whole number, got 1.5"),
        ("often", "wants a number, got 'often'; or a ramp {'begin': 0"),
        ("inf", "wants a number, got 'inf'"),
    ],
)
def test_what_is_no_weight_is_refused(said, wanted):
    with pytest.raises(UserError, match=wanted):
        configs.read(DEMO, [f"--config.loss_weights.commitment={said}"])


def test_a_weight_of_a_term_that_a_prior_has_not():
    from vqvae_jax.parts import Parts
    from vqvae_jax.stages import task_of

    config = configs.read(f"{DEMO}:tiny", ["--config.priors.top.loss_weights.text=0.1"])
    parts = Parts(config, {"image_size": 32, "channels": 3, "label_names": ["a"], "label_counts": [1]})
    with pytest.raises(UserError, match="there is no loss term 'text'. There are: nll"):
        task_of(parts, "top").check(parts.loss_terms("top"))
