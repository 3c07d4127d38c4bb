"""What identifies a model in `result.json`, and what it is not for."""

import hashlib

import jax
import numpy as np

from echoforge_jax.provenance import git_revision, versions

DISCLAIMER = (
  'Research software, not a medical device and not for clinical use. A '
  'model trained on phantoms only has never seen a patient.'
)


def model_receipt(config, variables, step: int, which: str) -> dict:
  """Returns the model's part of `result.json`; `sha256` is over all variables in tree order."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(variables):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return {
    'name': config.model.name,
    'which': which,
    'step': int(step),
    'classes': list(config.data.classes),
    'image_size': int(config.data.image_size),
    'dataset': config.data.dataset,
    'parameters': sum(int(np.size(leaf)) for leaf in jax.tree.leaves(variables['params'])),
    'sha256': digest.hexdigest(),
    'training_seed': int(config.seed),
    'git_revision': git_revision(),
    'versions': versions(),
  }
