"""A network in one file: the same bytes, the same network, clear errors."""

import jax
import numpy as np
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.models import network_file as bundle
from echoforge_jax.training import checkpoint

CONFIG = {'model': {'name': 'echoforge'}, 'data': {'classes': ('lv', 'la')}}


def variables(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'params': {
      'a': {'kernel': rng.normal(size=(3, 4)).astype('f4')},
      'b': np.arange(3, dtype='f4'),
    },
    'batch_stats': {'a': {'mean': rng.normal(size=4).astype('f4')}},
  }


def test_round_trip_and_equal_bytes(tmp_path):
  size = bundle.write(
    tmp_path / 'a.npz',
    CONFIG,
    variables(),
    7,
    'teacher',
    confidence={'temperature': 1.5},
  )
  bundle.write(
    tmp_path / 'b.npz',
    CONFIG,
    variables(),
    7,
    'teacher',
    confidence={'temperature': 1.5},
  )
  assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
  assert size == (tmp_path / 'a.npz').stat().st_size
  found, meta = bundle.read(tmp_path / 'a.npz')
  jax.tree.map(np.testing.assert_array_equal, found, variables())
  assert meta['step'] == 7 and meta['confidence'] == {'temperature': 1.5}
  config, again, step = checkpoint.restore_for_inference(tmp_path / 'a.npz')
  assert step == 7 and config.data.classes == ('lv', 'la')
  jax.tree.map(np.testing.assert_array_equal, again, variables())
  assert not list(tmp_path.glob('*.partial'))


def test_the_other_network_is_not_there(tmp_path):
  bundle.write(tmp_path / 'a.npz', CONFIG, variables(), 7, 'teacher')
  with pytest.raises(InputError, match='holds the teacher only'):
    checkpoint.restore_for_inference(tmp_path / 'a.npz', 'student')


def test_a_student_needs_no_flag(tmp_path):
  bundle.write(tmp_path / 'a.npz', CONFIG, variables(), 7, 'student')
  for which in ('teacher', 'student'):
    assert checkpoint.restore_for_inference(tmp_path / 'a.npz', which)[2] == 7


def test_what_is_no_network(tmp_path):
  np.savez(tmp_path / 'frames.npz', frames=np.zeros(3))
  (tmp_path / 'text.npz').write_text('text')
  with open(tmp_path / 'array.npz', 'wb') as file:
    np.save(file, np.zeros(3))
  for name, text in (
    ('array', 'not an npz'),
    ('text', 'not an npz'),
    ('frames', 'no network of this project'),
    ('none', 'no such file'),
  ):
    with pytest.raises(InputError, match=text):
      bundle.read(tmp_path / f'{name}.npz')
    assert not bundle.is_network(tmp_path / f'{name}.npz')
  with pytest.raises(InputError, match='cannot be written'):
    bundle.write(tmp_path / 'no' / 'a.npz', CONFIG, variables(), 7, 'teacher')


def test_a_folder_that_ends_in_npz_is_a_workdir(tmp_path):
  (tmp_path / 'run.npz').mkdir()
  assert not bundle.is_bundle(tmp_path / 'run.npz')
  assert bundle.is_bundle('default') and bundle.is_bundle('x/y.npz')
