"""Training from prepared clips to the step, and again after a break."""

import jax
import numpy as np
import pytest

from echoforge_jax.clip import Clip
from echoforge_jax.data.prepare import prepare
from echoforge_jax.errors import InputError
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import plan
from echoforge_jax.training import build, checkpoint, loop
from tests.configs import load_config
from tests.readers import MadeUp

SIZE = 32


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  root = tmp_path_factory.mktemp('prepared')

  def clips_of(split):
    names = {'train': range(4), 'validation': [4], 'test': [5]}[split]
    return [(f'p{n}', view) for n in names for view in ('2CH', '4CH')]

  def read_clip(patient, view):
    rng = np.random.default_rng([int(patient[1:]), view == '4CH'])
    y, x = np.mgrid[:SIZE, :SIZE]
    inside = np.stack([(y - 16) ** 2 + (x - 14) ** 2 < r**2 for r in np.linspace(9, 5, 6)])
    frames = 60 + 120 * inside + rng.normal(0, 15, inside.shape)
    return Clip(
      patient=patient,
      view=view,
      frames=frames.clip(0, 255).astype(np.uint8),
      masks=inside.astype(np.uint8),
      labeled=np.ones(6, bool),
      ed=0,
      es=5,
      spacing_mm=np.ones(2, np.float32),
    )

  prepare('camus', root, root / 'data', SIZE, reader=MadeUp(root, clips_of, read_clip))
  return root / 'data'


@pytest.fixture
def config(data_dir):
  return load_config(
    'tiny',
    data={'data_dir': str(data_dir)},
    eval={'every': 0},
    num_steps=6,
    checkpoint_every=2,
    num_devices=2,
  )


@pytest.mark.slow
def test_the_step_gets_the_batch_that_plans_count_on(config):
  with config.unlocked():
    config.data.supervision = 'full'
  mesh = mesh_lib.make_mesh(config.num_devices)
  shapes = plan.batch_shapes(config)
  load = build.make_loader(config, tuple(shapes), mesh_lib.batch_sharding(mesh))
  iterator = build.make_iterator(config, process_index=0, process_count=1)
  batch = load(next(iterator))
  iterator.close()
  assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
    name: (shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()
  }


class _EndsEarly:
  """A run's iterator that breaks at some batch."""

  def __init__(self, iterator, count):
    self._iterator, self._left = iterator, count
    self.get_state, self.set_state = iterator.get_state, iterator.set_state

  def __next__(self):
    self._left -= 1
    if self._left < 0:
      raise InterruptedError
    return next(self._iterator)


@pytest.mark.slow
def test_resumes_bit_for_bit(config, tiny_model, tmp_path):
  def run(workdir, config, **options):
    outcome = loop.train(config, tmp_path / workdir, model=tiny_model, verbose=False, **options)
    return outcome, checkpoint.fingerprint(tmp_path / workdir)

  outcome, whole = run('whole', config)
  assert outcome.step == whole[0] == 6
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(outcome.state.params)))
  iterator = build.make_iterator(config, process_index=0, process_count=1)
  with pytest.raises(InterruptedError):
    run('parts', config, iterator=_EndsEarly(iterator, 5))
  assert checkpoint.fingerprint(tmp_path / 'parts')[0] == 4
  with config.unlocked():
    config.data.cache_mb = 0  # May change; the augmentation may not.
  assert run('parts', config)[1] == whole
  with config.unlocked():
    config.data.augmentation.blur = 0.01
  with pytest.raises(InputError, match='data.augmentation.blur is .* there'):
    run('parts', config)


@pytest.mark.parametrize(
  'field, value, text',
  [
    ('augmentation', {'rotate': 1}, r"config.data.augmentation: found \['rot"),
    ('workers', 2, r"config.data: found \['workers'\], wanted some of"),
    ('classes', (), 'classes'),
    ('num_frames', 1, 'num_frames is 1; wanted at least 2'),
  ],
)
def test_misuse_is_named_before_anything_is_read(config, field, value, text):
  with config.unlocked():
    config.data[field] = value
  with pytest.raises(InputError, match=text):
    build.check(config)
