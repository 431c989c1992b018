"""Checkpoints of a training, through Orbax: nothing else in the package touches it.

A step is a folder `DIRECTORY/<step>` with two items. `model` is what sampling needs; it is read without optax. `train`
is the whole train state. Both are guarded by checksums, because Orbax does not notice a flipped bit, and so is what is
noted beside them: the config, the step, the loss.
Writing happens in the background; a step appears under its name only once it is complete, and is given another name
before it is removed: a run that is killed leaves no half step.

checkpoints.py   all steps of a stage
saved.py         one step as it lies on disk
quiet.py         Orbax itself, kept quiet, its errors in one line
"""

from vqvae_jax.checkpoint.checkpoints import GOES_ON, Checkpoints, Step, Steps, set_aside

__all__ = ["GOES_ON", "Checkpoints", "Step", "Steps", "set_aside"]
