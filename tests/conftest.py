"""Settings of every test: CPU devices, strict JAX, annotations checked."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)

from absl import flags
import jax
from jaxtyping import install_import_hook
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()
# Shapes and types in annotations of these modules are checked at run time.
install_import_hook(
  [
    'echoforge_jax.metrics.overlap',
    'echoforge_jax.metrics.statistics',
    'echoforge_jax.metrics.surface',
    'echoforge_jax.training.losses',
  ],
  'beartype.beartype',
)


def pytest_collection_modifyitems(items):
  """Skips tests marked `gpu` where no GPU is present."""
  if jax.default_backend() != 'gpu':
    skip = pytest.mark.skip(reason='needs a GPU')
    for item in items:
      if 'gpu' in item.keywords:
        item.add_marker(skip)
