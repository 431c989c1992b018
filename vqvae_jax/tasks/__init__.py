"""What one training step is: one file a kind of training. To add one: write the file, add its line here."""

from typing import Any

from vqvae_jax.tasks.adversarial import AdversarialTask
from vqvae_jax.tasks.autoencode import AutoencodeTask

# How an autoencoder is trained: `config.task.name`. Its other fields are those of the section `task`.
TASKS: dict[str, Any] = {"autoencode": AutoencodeTask, "adversarial": AdversarialTask}
