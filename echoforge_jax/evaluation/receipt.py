"""What a number came from: versions, revision, checkpoint, data, protocol."""

import hashlib
from importlib import metadata
import json
import pathlib
import platform
import subprocess

from echoforge_jax import __version__

# What computes, trains, stores, decodes or tests: another version of any of
# these may give another number.
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain',
             'tensorflow-datasets', 'ml_collections', 'numpy', 'scipy',
             'opencv-python-headless', 'scikit-image', 'SimpleITK', 'av')
# Where a run lives and what reads its data, not what it learns.
_NOT_LEARNED = ('seed', 'workdir', 'data.data_dir', 'data.num_workers')


def versions() -> dict[str, str]:
  """Versions of this package, Python and what computes the numbers.

  Returns:
    Version by name; packages that are not installed are left out.
  """
  found = {'echoforge_jax': __version__, 'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  return found


def git_revision() -> str | None:
  """Commit of the checkout this package runs from.

  Returns:
    Short hash, with '-dirty' if tracked files differ from it; None outside a
    checkout of this package or without git.
  """
  package = pathlib.Path(__file__).resolve().parents[1]
  if not (package.parent / '.git').exists():
    return None
  try:
    return subprocess.run(
        ['git', 'describe', '--always', '--dirty', '--exclude=*'],
        cwd=package, capture_output=True, text=True, timeout=20,
        check=True).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def device_kind() -> str:
  """What predicts: platform, kind and number of JAX's local devices.

  Returns:
    For example 'gpu: NVIDIA H200' or 'cpu: cpu x 8'.
  """
  import jax  # Slow to import; reading a receipt does not need it.
  devices = jax.local_devices()
  count = f' x {len(devices)}' if len(devices) > 1 else ''
  return f'{devices[0].platform}: {devices[0].device_kind}{count}'


def config_digest(config) -> str:
  """What two runs of one experiment share, whatever their seeds.

  Args:
    config: a run's resolved ConfigDict.

  Returns:
    16 hex digits over every field except the training seed, the workdir, the
    data folder, its reader's workers, and the fields of
    `training.checkpoint.RUNTIME_FIELDS`, which do not change what is learned;
    a field of `ADDED_FIELDS` counts where it is not as in older runs.
  """
  from echoforge_jax.training.checkpoint import ADDED_FIELDS, RUNTIME_FIELDS
  ignored = (*_NOT_LEARNED, *RUNTIME_FIELDS)
  absent = object()
  def kept(fields, prefix=''):
    return {key: kept(value, f'{prefix}{key}.') if isinstance(value, dict)
            else value for key, value in fields.items()
            if prefix + key not in ignored
            and ADDED_FIELDS.get(prefix + key, absent) != value}
  text = json.dumps(kept(config.to_dict()), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_receipt(config, source, *, step: int, which: str, workdir,
                 dataset: str = '', split_scheme: str = '') -> dict:
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
      'model': config.model.name, 'which': which,
      'checkpoint_step': int(step), 'training_seed': int(config.seed),
      'trained_on': config.data.dataset,
      'dataset': dataset or config.data.dataset,
      'synthetic': source.synthetic, 'split': source.split,
      'split_scheme': (split_scheme
                       or config.data.get('split_scheme', 'official')),
      'raw_fingerprint': source.fingerprint,
      'image_size': int(source.image_size), 'device': device_kind(),
      'git_revision': git_revision(), 'versions': versions(),
  }
