"""Where a number comes from: versions, revision, device."""

from importlib import metadata
import pathlib
import platform
import subprocess

from echoforge_jax import __version__

# Another version of any of these may give another number.
_PACKAGES = (
  'jax jaxlib flax optax orbax-checkpoint grain tensorflow-datasets ml_collections numpy scipy '
  'opencv-python-headless scikit-image SimpleITK av'
).split()


def versions() -> dict[str, str]:
  """Returns the versions of this package, Python and what computes the numbers, by name."""
  found = {'echoforge_jax': __version__, 'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  return found


def git_revision() -> str | None:
  """Returns the short hash of this package's commit; None outside a checkout or without git.

  It ends in '-dirty' if tracked files differ from the commit.
  """
  package = pathlib.Path(__file__).resolve().parent
  if not (package.parent / '.git').exists():
    return None
  try:
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--exclude=*'],
      cwd=package,
      capture_output=True,
      text=True,
      timeout=20,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def device_kind() -> str:
  """Returns JAX's local devices, such as 'gpu: NVIDIA H200' or 'cpu: cpu x 8'."""
  import jax  # Slow to import; reading a receipt does not need it.

  devices = jax.local_devices()
  count = f' x {len(devices)}' if len(devices) > 1 else ''
  return f'{devices[0].platform}: {devices[0].device_kind}{count}'
