"""What a number came from: versions, revision, checkpoint, data, protocol."""

import pathlib

from echoforge_jax.config import config_digest
from echoforge_jax.provenance import device_kind, git_revision, versions


def make_receipt(
  config,
  source,
  *,
  step: int,
  which: str,
  workdir,
  dataset: str = '',
  split_scheme: str = '',
) -> dict:
  """What identifies an evaluated model and what it was evaluated on.

  Args:
    config: the run's resolved config.
    source: the prepared split (`data.prepared.ClipSource`).
    step: updates the checkpoint has seen.
    which: 'teacher' or 'student'.
    workdir: the run's directory; only its name is kept.
    dataset: evaluated on; '' means the one trained on.
    split_scheme: whose patient lists; '' means those trained on.

  Returns:
    JSON-ready dict. `score_predictions` adds the protocol, the bootstrap's
    seed and its resamples.
  """
  return {
    'run': pathlib.Path(workdir).resolve().name,
    'config': config.get('name', '') or config.model.name,
    'config_digest': config_digest(config),
    'model': config.model.name,
    'which': which,
    'checkpoint_step': int(step),
    'training_seed': int(config.seed),
    'trained_on': config.data.dataset,
    'dataset': dataset or config.data.dataset,
    'synthetic': source.synthetic,
    'split': source.split,
    'split_scheme': (
      split_scheme or config.data.get('split_scheme', 'official')
    ),
    'raw_fingerprint': source.fingerprint,
    'image_size': int(source.image_size),
    'device': device_kind(),
    'git_revision': git_revision(),
    'versions': versions(),
  }
