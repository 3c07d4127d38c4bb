"""Eight CPU devices, strict rank promotion, absl flags parsed, no globals."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)

from absl import flags
import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


def pytest_collection_modifyitems(items):
  """Skips tests marked `gpu` where no GPU is present."""
  if jax.default_backend() != 'gpu':
    skip = pytest.mark.skip(reason='needs a GPU')
    for item in items:
      if 'gpu' in item.keywords:
        item.add_marker(skip)
