"""Checkpoints: exact, whole, and clear about what does not fit."""

import json
import os
from pathlib import Path
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import build, checkpoint, optimizer, warm_start
from echoforge_jax.training.state import TrainState
from echoforge_jax.training.workdir import choose_step, claim_workdir, read_config


def make_state(size=3, seed=0):
  """A state as a step leaves it: typed key, chained optimizer, statistics."""

  def leaf(*shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)

  params = {'conv': {'kernel': leaf(2, size), 'bias': leaf(size)}}
  tx, _ = optimizer.make_optimizer(
    name='adamw', learning_rate=0.1, num_steps=9, warmup_steps=2, weight_decay=0.1, clip_norm=1.0
  )
  return TrainState(
    step=jnp.int32(4),
    params=params,
    batch_stats={'norm': leaf(size)},
    teacher_params=jax.tree.map(lambda x: 2 * x, params),
    teacher_batch_stats={},
    opt_state=tx.init(params),
    rng=jax.random.key(7),
  )


def abstract(state):
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def save(workdir, iterator, steps=(4,), **options):
  checkpointer = checkpoint.Checkpointer(workdir, **options)
  for step in steps:
    checkpointer.save(step, make_state(), iterator)
  checkpointer.close()


def assert_same(one, two):
  def same(a, b):
    assert a.dtype == b.dtype
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(a, b)

  jax.tree.map(same, one, two)


def test_state_and_iterator_come_back_bit_for_bit(tmp_path, make_iterator):
  iterator = make_iterator()
  next(iterator), next(iterator)
  save(tmp_path, iterator)
  expected = next(iterator)
  fresh = make_iterator()
  checkpointer = checkpoint.Checkpointer(tmp_path)
  assert checkpointer.latest_step() == 4
  restored = checkpointer.restore(4, abstract(make_state()), fresh)
  checkpointer.close()
  assert_same(restored, make_state())
  jax.tree.map(np.testing.assert_array_equal, next(fresh), expected)


def test_a_donated_state_is_saved_as_it_was(tmp_path, make_iterator):
  double = jax.jit(lambda s: jax.tree.map(lambda x: x * 2, s), donate_argnums=0)
  big = {'big': jnp.ones((512, 512))}
  state = make_state().replace(params=big, opt_state=optax.EmptyState())
  checkpointer = checkpoint.Checkpointer(tmp_path)
  checkpointer.save(1, state, make_iterator())
  for _ in range(5):
    big = double(big)
  jax.block_until_ready(big)
  checkpointer.close()
  (tmp_path / 'config.json').write_text('{}')
  _, variables, _ = checkpoint.restore_for_inference(tmp_path, 'student')
  assert (variables['params']['big'] == 1).all()


def test_latest_ones_and_the_best_stay(tmp_path, make_iterator):
  checkpointer = checkpoint.Checkpointer(tmp_path, keep=2, best_metric='dice_teacher')
  for step, dice in ((1, 0.5), (2, 0.9), (3, None), (4, 0.7), (5, 0.6)):
    checkpointer.save(
      step, make_state(), make_iterator(), None if dice is None else {'dice_teacher': dice}
    )
  checkpointer.close()
  kept = sorted(
    int(path.name) for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdigit()
  )
  assert kept == [2, 4, 5]


SCORED = {'eval': {'best_metric': 'dice_teacher'}}


def save_scored(workdir, iterator, scores):
  """Saves checkpoints, step -> Dice or None, as one session of a run."""
  checkpointer = checkpoint.Checkpointer(workdir, keep=1, best_metric='dice_teacher')
  for step, dice in scores.items():
    scores = None if dice is None else {'dice_teacher': dice, 'dice_student': 1 - dice}
    checkpointer.save(step, make_state(seed=step), iterator, scores)
  checkpointer.close()


def test_the_best_outlives_a_restart_and_can_be_used(tmp_path, make_iterator):
  claim_workdir(tmp_path, ConfigDict(SCORED))
  save_scored(tmp_path, make_iterator(), {1: 0.5, 2: 0.75, 3: None})
  save_scored(tmp_path, make_iterator(), {4: 0.6, 5: None})
  assert choose_step(tmp_path, 'best') == (
    2,
    {'step_choice': 'best dice_teacher', 'step_score': 0.75},
  )
  assert choose_step(tmp_path) == (5, {'step_choice': 'latest'})
  assert choose_step(tmp_path, '2') == choose_step(tmp_path, 2) == (2, {'step_choice': 'given'})
  for step, seed in (('best', 2), ('latest', 5), ('2', 2)):
    _, variables, found = checkpoint.restore_for_inference(tmp_path, 'student', step)
    assert found == seed
    wanted = make_state(seed=seed).params['conv']['bias']
    np.testing.assert_array_equal(variables['params']['conv']['bias'], wanted)
  save_scored(tmp_path, make_iterator(), {6: 0.75})
  assert choose_step(tmp_path, 'best')[0] == 6  # Of equal ones the latest.


@pytest.mark.parametrize('step', ['7', '-1', 'first', '4.0', ''])
def test_a_step_that_is_not_kept_is_named(tmp_path, make_iterator, step):
  claim_workdir(tmp_path, ConfigDict(SCORED))
  save(tmp_path, make_iterator())
  with pytest.raises(InputError, match=f'found --step={step}, wanted .* kept: 4'):
    choose_step(tmp_path, step)


@pytest.mark.parametrize('metric,said', [('dice_teacher', '1 kept, none with'), ('', "is ''")])
def test_a_run_without_a_best_says_why(tmp_path, make_iterator, metric, said):
  claim_workdir(tmp_path, ConfigDict({'eval': {'best_metric': metric}}))
  save(tmp_path, make_iterator())
  with pytest.raises(InputError, match=f'no best checkpoint .*{said}.*leave --step out'):
    choose_step(tmp_path, 'best')


def test_a_half_written_checkpoint_is_never_picked_up(tmp_path, make_iterator):
  save(tmp_path, make_iterator(), steps=(4,))
  root = tmp_path / 'checkpoints'
  whole = root / '4'
  # As a killed run leaves it, as an interrupted copy leaves it.
  (root / '6.orbax-checkpoint-tmp' / 'student').mkdir(parents=True)
  (root / '8' / 'student').mkdir(parents=True)
  (root / '9').mkdir()
  (root / '9' / '_CHECKPOINT_METADATA').write_bytes((whole / '_CHECKPOINT_METADATA').read_bytes())
  (tmp_path / 'config.json').write_text('{}')
  assert checkpoint.restore_for_inference(tmp_path)[2] == 4
  checkpointer = checkpoint.Checkpointer(tmp_path)
  assert checkpointer.latest_step() == 4
  checkpointer.save(8, make_state(), make_iterator())
  checkpointer.close()
  assert checkpoint.restore_for_inference(tmp_path)[2] == 8
  assert (root / 'incomplete_8').is_dir()
  (root / '9').mkdir()  # The same step once more.
  checkpoint.Checkpointer(tmp_path).close()
  assert (root / 'incomplete_9').is_dir() and (root / 'incomplete_9_').is_dir()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, make_iterator, monkeypatch):
  checkpointer = checkpoint.Checkpointer(tmp_path)
  checkpointer.save(4, make_state(), make_iterator())
  checkpointer.wait()
  before = checkpoint.fingerprint(tmp_path)
  monkeypatch.setattr(checkpoint.shutil, 'disk_usage', lambda path: SimpleNamespace(free=50))
  with pytest.raises(checkpoint.SaveError, match='50|0.0 MB free') as error:
    checkpointer.save(8, make_state(), make_iterator())
  assert 'step 4 is the last whole checkpoint' in str(error.value)
  checkpointer.close()
  assert checkpoint.fingerprint(tmp_path) == before


FULL_DISK = """
import resource
import sys
sys.path.insert(0, {root!r})
from tests.training import test_checkpoint as this
from echoforge_jax.training import checkpoint

class Position:
  def get_state(self):
    return {{'batches': 1}}

state = this.make_state(size=300_000)
checkpointer = checkpoint.Checkpointer(sys.argv[1])
checkpointer.save(4, state, Position())
checkpointer.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
  checkpointer.save(8, state, Position())
  checkpointer.wait()
except checkpoint.SaveError as error:
  print('said:', error)
"""


@pytest.mark.slow
def test_a_write_that_fails_is_told(tmp_path, make_iterator):
  """The system refuses in the middle of a file, in a thread of orbax."""
  script = tmp_path / 'script.py'
  script.write_text(FULL_DISK.format(root=str(Path(__file__).parents[2])))
  workdir = tmp_path / 'run'
  done = subprocess.run(
    [sys.executable, str(script), str(workdir)],
    capture_output=True,
    text=True,
    timeout=200,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )
  assert 'said: ' in done.stdout, done.stderr
  assert 'could not be written (File too large); step 4 is' in done.stdout
  assert checkpoint.fingerprint(workdir)[0] == 4
  # The half-written one is gone once the run is started again.
  checkpointer = checkpoint.Checkpointer(workdir)
  assert checkpointer.latest_step() == 4
  deadline = time.monotonic() + 60
  while any('tmp' in path.name for path in (workdir / 'checkpoints').iterdir()):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  checkpointer.close()


@pytest.mark.slow
def test_a_fingerprint_tells_bits_apart(tmp_path, make_iterator):
  iterator = make_iterator()
  for name in ('one', 'two'):
    save(tmp_path / name, iterator)
  first = checkpoint.fingerprint(tmp_path / 'one')
  assert first == checkpoint.fingerprint(tmp_path / 'two')
  next(iterator)
  save(tmp_path / 'moved', iterator)
  assert checkpoint.fingerprint(tmp_path / 'moved') != first
  other = checkpoint.Checkpointer(tmp_path / 'bit')
  state = make_state()
  kernel = state.params['conv']['kernel']
  state.params['conv']['kernel'] = jnp.nextafter(kernel, kernel + 1)
  other.save(4, state, make_iterator())
  other.close()
  assert checkpoint.fingerprint(tmp_path / 'bit') != first
  with pytest.raises(InputError, match='no complete checkpoint'):
    checkpoint.fingerprint(tmp_path / 'nothing')


def test_a_tree_that_does_not_fit_names_its_paths(tmp_path, make_iterator):
  save(tmp_path, make_iterator())
  wanted = make_state(size=5)
  wanted.params['extra'] = jnp.zeros(())
  checkpointer = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(InputError) as error:
    checkpointer.restore(4, abstract(wanted), make_iterator())
  checkpointer.close()
  text = str(error.value)
  assert 'params/conv/kernel: shape (2, 3) there, (2, 5)' in text
  assert 'params/extra: not in the checkpoint' in text
  assert 'new workdir' in text


@pytest.mark.parametrize('which', ['teacher', 'student'])
def test_inference_gets_one_network(tmp_path, make_iterator, which):
  config = ConfigDict({'data': {'classes': ('lv', 'myo')}, 'seed': 3})
  claim_workdir(tmp_path, config)
  save(tmp_path, make_iterator())
  found, variables, step = checkpoint.restore_for_inference(tmp_path, which)
  factor = 2 if which == 'teacher' else 1
  np.testing.assert_array_equal(
    variables['params']['conv']['bias'], factor * make_state().params['conv']['bias']
  )
  assert ('batch_stats' in variables) == (which == 'student')
  assert step == 4 and found.data.classes == ('lv', 'myo')
  assert found.is_locked


def test_inference_without_a_run_says_so(tmp_path):
  with pytest.raises(InputError, match='config.json'):
    checkpoint.restore_for_inference(tmp_path)
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(InputError, match='no complete checkpoint'):
    checkpoint.restore_for_inference(tmp_path)
  with pytest.raises(InputError, match='teacher or student'):
    checkpoint.restore_for_inference(tmp_path, 'both')


def test_a_damaged_checkpoint_is_named(tmp_path, make_iterator):
  claim_workdir(tmp_path, ConfigDict({'seed': 3}))
  save(tmp_path, make_iterator())
  folder = tmp_path / 'checkpoints' / '4' / 'teacher'
  for path in folder.rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:7])
  with pytest.raises(InputError, match='teacher: cannot be read') as error:
    checkpoint.restore_for_inference(tmp_path)
  assert '\n' not in str(error.value)


def test_a_config_that_lacks_fields_is_named():
  with pytest.raises(InputError, match='lacks dtype, model'):
    build.make_model(ConfigDict({'data': {'classes': ('lv',)}}))


def test_a_workdir_belongs_to_one_config(tmp_path):
  config = ConfigDict(
    {
      'seed': 0,
      'log_every': 5,
      'eval': {'every': 3},
      'model': {'dim': 16},
      'data': {'classes': ('lv',)},
    }
  )
  claim_workdir(tmp_path / 'run', config)
  claim_workdir(tmp_path / 'run', config)
  config.log_every, config.eval.every = 7, 4  # Changes nothing learned.
  claim_workdir(tmp_path / 'run', config)
  (tmp_path / 'run' / 'checkpoints' / '5').mkdir(parents=True)
  config.model.dim, config.seed = 32, 1
  with pytest.raises(InputError) as error:
    claim_workdir(tmp_path / 'run', config)
  text = str(error.value)
  assert 'model.dim is 16 there and 32 now' in text
  assert 'seed is 0 there and 1 now' in text
  assert 'log_every' not in text and '--workdir' in text
  stored = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert stored['seed'] == 0


def test_a_run_that_saved_nothing_gives_its_workdir_away(tmp_path):
  claim_workdir(tmp_path, ConfigDict({'init_from': '/wrong'}))
  claim_workdir(tmp_path, ConfigDict({'init_from': '/right'}))
  assert read_config(tmp_path).init_from == '/right'


def test_checkpoints_of_an_unknown_run_are_not_continued(tmp_path):
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  with pytest.raises(InputError, match='config.json: not there, but .*--workd'):
    claim_workdir(tmp_path, ConfigDict({'seed': 0}))
  assert not (tmp_path / 'config.json').exists()


def test_a_workdir_that_cannot_be_read(tmp_path):
  with pytest.raises(InputError, match='cannot be .*too long'):
    claim_workdir(tmp_path / ('x' * 300), ConfigDict({'a': 1}))


def test_a_workdir_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='cannot be written'):
    claim_workdir(tmp_path / 'file' / 'run', ConfigDict({'a': 1}))


def test_another_run_gives_the_first_weights(tmp_path, make_iterator):
  save(tmp_path, make_iterator())
  (tmp_path / 'config.json').write_text('{}')
  sharding = mesh_lib.replicated(mesh_lib.make_mesh())
  fresh = jax.device_put(make_state(seed=5), sharding)
  started, text = warm_start.from_run(fresh, tmp_path)
  assert text == f'weights of {tmp_path} (step 4)'
  teacher = make_state().teacher_params
  jax.tree.map(np.testing.assert_array_equal, started.params, teacher)
  jax.tree.map(np.testing.assert_array_equal, started.teacher_params, teacher)
  for a, b in zip(jax.tree.leaves(started.params), jax.tree.leaves(started.teacher_params)):
    assert a.sharding == sharding
    assert (
      a.addressable_data(0).unsafe_buffer_pointer() != b.addressable_data(0).unsafe_buffer_pointer()
    )
  assert_same(started.opt_state, fresh.opt_state)
  with pytest.raises(InputError) as error:
    warm_start.from_run(make_state(size=6), tmp_path)
  assert 'params/conv/bias: shape (3,) there, (6,)' in str(error.value)


def test_part_of_the_weights_may_be_given():
  bias = np.arange(3, dtype=np.float32)
  started = warm_start.replace_weights(
    make_state(), {'params': {'conv': {'bias': bias}}}, source='a file'
  )
  for params, before in (
    (started.params, make_state().params),
    (started.teacher_params, make_state().teacher_params),
  ):
    np.testing.assert_array_equal(params['conv']['bias'], bias)
    np.testing.assert_array_equal(params['conv']['kernel'], before['conv']['kernel'])
  with pytest.raises(InputError, match='a file .*params/stem: not in the mod'):
    warm_start.replace_weights(make_state(), {'params': {'stem': bias}}, source='a file')
