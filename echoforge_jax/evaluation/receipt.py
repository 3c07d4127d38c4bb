"""What a number came from: versions, revision, checkpoint."""

from importlib import metadata
import pathlib
import platform
import subprocess

from echoforge_jax import __version__

_PACKAGES = ('jax', 'flax', 'numpy', 'scipy')


def versions() -> dict[str, str]:
  """Versions of this package, Python and what computes the numbers."""
  found = {'echoforge_jax': __version__, 'python': platform.python_version()}
  return found | {name: metadata.version(name) for name in _PACKAGES}


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


def make_receipt(config, source, *, step: int, which: str,
                 workdir) -> dict:
  """What identifies an evaluated model and what it was evaluated on.

  Args:
    config: the run's resolved config.
    source: the prepared split (`data.prepared.ClipSource`).
    step: updates the checkpoint has seen.
    which: 'teacher' or 'student'.
    workdir: the run's directory; only its name is kept.

  Returns:
    JSON-ready dict.
  """
  return {
      'run': pathlib.Path(workdir).resolve().name,
      'config': config.get('name', '') or config.model.name,
      'model': config.model.name, 'which': which,
      'checkpoint_step': int(step), 'training_seed': int(config.seed),
      'dataset': config.data.dataset, 'synthetic': source.synthetic,
      'split': source.split,
      'split_scheme': config.data.get('split_scheme', 'official'),
      'raw_fingerprint': source.fingerprint,
      'image_size': int(source.image_size),
      'git_revision': git_revision(), 'versions': versions(),
  }
