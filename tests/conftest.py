"""Settings of every test: devices, the compiler and its cache, strict JAX."""

from collections import Counter
from importlib import metadata
import os
from pathlib import Path

CACHE = Path(__file__).parents[1] / '.pytest_cache' / 'jax'

# Before JAX is imported, and for the processes that tests start.
GIVEN = os.environ.get('XLA_FLAGS', '')
FLAGS = ['--xla_force_host_platform_device_count=8']
if metadata.version('jaxlib').startswith('0.10.'):  # XLA ends a process at a flag it lacks.
  # Tests' programs compile in half the time; the nightly run compiles them as users do.
  FLAGS += ['--xla_cpu_use_fusion_emitters=false', '--xla_cpu_parallel_codegen_split_count=1']
FLAGS = [flag for flag in FLAGS if flag.partition('=')[0] not in GIVEN]
os.environ['XLA_FLAGS'] = ' '.join([GIVEN, *FLAGS])
for name, value in {
  'JAX_PLATFORMS': 'cpu',
  # Test processes compile the same programs: each is compiled once.
  'JAX_COMPILATION_CACHE_DIR': str(CACHE),
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
  # Most tests compile for longer than they run: see the marker `optimized`.
  'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
}.items():
  os.environ.setdefault(name, value)

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
  """Skips tests marked `gpu` without a GPU; deals long files out first."""
  slow = Counter(item.path for item in items if 'slow' in item.keywords)
  items.sort(key=lambda item: -slow[item.path])
  if jax.default_backend() != 'gpu':
    skip = pytest.mark.skip(reason='needs a GPU')
    for item in items:
      if 'gpu' in item.keywords:
        item.add_marker(skip)


@pytest.fixture(scope='module', autouse=True)
def compiler(request):
  """Compiles modules marked `optimized` with all optimizations, and no others."""
  if request.node.get_closest_marker('optimized') is None:
    yield
    return
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '0')
    before = jax.config.read('jax_disable_most_optimizations')
    # The option is no part of the key under which JAX keeps programs.
    jax.clear_caches()
    jax.config.update('jax_disable_most_optimizations', False)
    yield
    jax.config.update('jax_disable_most_optimizations', before)
    jax.clear_caches()
