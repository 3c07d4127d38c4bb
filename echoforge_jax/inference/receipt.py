"""What identifies a model in `result.json`, and what it is not for."""

from collections.abc import Mapping
import hashlib
import pathlib

import jax
import numpy as np

from echoforge_jax.data import prepared
from echoforge_jax.errors import InputError
from echoforge_jax.models import network_file
from echoforge_jax.provenance import git_revision, versions

DISCLAIMER = 'Research software, not a medical device and not for clinical use.'


def training_data(config) -> str:
  """Returns in words what a network was trained on; prepared data are counted where they are."""
  data, start = config.data, pathlib.PurePath(config.get('init_from', '')).name
  if 'stream' in data:
    # What another network was trained on is not known here.
    own = start in ('', network_file.DEFAULT)
    text = 'synthetic clips only' + '; it has never seen a patient' * own
  else:
    text = _prepared_patients(data)
    if data.get('labeled_patients'):
      text += f' (labels of {data.labeled_patients})'
  return text + f'; started from {start}' * bool(start)


def _prepared_patients(data) -> str:
  try:
    source = prepared.load_split(
      data.data_dir, data.dataset, 'train', data.image_size, split_scheme=data.split_scheme
    )
  except InputError:
    return f'data prepared as {data.dataset}, which are not here: real or synthetic is not known'
  count = len({clip['patient'] for clip in source.clips})
  kinds = {True: 'synthetic patients', False: 'patients'}  # None in older preparations.
  return f'{count} {kinds.get(source.synthetic, "patients, real or synthetic,")} of {data.dataset}'


def describe(name, receipt: Mapping) -> str:
  """Returns the line in which `segment` says which model speaks, `name` being its path."""
  facts = [receipt['name']]
  if 'parameters' in receipt:  # Not where a network was wrapped by hand.
    facts += [f'{receipt["parameters"] / 1e6:.2f} M parameters', f'step {receipt["step"]}']
  trained_on = receipt.get('trained_on', 'data that are not known')
  text = f'model: {name} ({", ".join(facts)}), trained on {trained_on}'
  return '. '.join(filter(None, (text, receipt.get('note'))))


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
    'trained_on': training_data(config),
    'parameters': sum(int(np.size(leaf)) for leaf in jax.tree.leaves(variables['params'])),
    'sha256': digest.hexdigest(),
    'training_seed': int(config.seed),
    'git_revision': git_revision(),
    'versions': versions(),
  }
