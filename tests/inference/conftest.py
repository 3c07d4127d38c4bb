"""A tiny EchoForge with random parameters, made without compiling."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.inference import Segmenter
from echoforge_jax.training import build, checkpoint
from echoforge_jax.training.workdir import claim_workdir
from tests.configs import load_config


def random_parameters(shapes, seed=0):
  """Fills a tree of shapes: kernels by their fan-in, scales 1, biases 0."""
  generator = np.random.default_rng(seed)

  def fill(path, leaf):
    if leaf.ndim < 2:
      return np.full(leaf.shape, 'scale' in str(path[-1]), np.float32)
    fan_in = np.prod(leaf.shape[:-1])
    return generator.normal(0, 2 / np.sqrt(fan_in), leaf.shape).astype(
      np.float32
    )

  return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture(scope='module', autouse=True)
def cheap_compilation():
  """Optimised code would compile for longer than these tests run."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture(scope='session')
def config():
  return load_config('tiny')


@pytest.fixture(scope='session')
def model(config):
  return build.make_model(config)


@pytest.fixture(scope='session')
def variables(config, model):
  size = config.data.image_size
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 2, size, size, 1))
  )
  return random_parameters(shapes)


@pytest.fixture(scope='session')
def segmenter(config, model, variables):
  return Segmenter(
    model,
    variables,
    classes=tuple(config.data.classes),
    image_size=config.data.image_size,
    receipt={'name': 'untrained'},
  )


@pytest.fixture(scope='session')
def workdir(config, tmp_path_factory):
  """A run's workdir: config and one checkpoint of a random state."""
  state = jax.eval_shape(build.make_parts(config).create_state)
  state = state.replace(
    step=np.int32(3),
    rng=jax.random.key(0),
    batch_stats={},
    teacher_batch_stats={},
    params=random_parameters(state.params, 1),
    teacher_params=random_parameters(state.teacher_params, 2),
    opt_state=jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), state.opt_state
    ),
  )
  folder = tmp_path_factory.mktemp('run')
  claim_workdir(folder, config)
  checkpointer = checkpoint.Checkpointer(folder)
  checkpointer.save(3, state, iter(grain.MapDataset.range(4).to_iter_dataset()))
  checkpointer.close()
  return folder


@pytest.fixture(scope='session')
def tree_of():
  """The function that filled a tree of shapes from a seed."""
  return random_parameters
