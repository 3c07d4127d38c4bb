"""A network in one file: the same bytes, the same network, clear errors."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from echoforge_jax.errors import InputError
from echoforge_jax.models import network_file
from echoforge_jax.training import checkpoint, workdir

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
  size = network_file.write(
    tmp_path / 'a.safetensors', CONFIG, variables(), 7, 'teacher', confidence={'temperature': 1.5}
  )
  network_file.write(
    tmp_path / 'b.safetensors', CONFIG, variables(), 7, 'teacher', confidence={'temperature': 1.5}
  )
  assert (tmp_path / 'a.safetensors').read_bytes() == (tmp_path / 'b.safetensors').read_bytes()
  assert size == (tmp_path / 'a.safetensors').stat().st_size
  found, meta = network_file.read(tmp_path / 'a.safetensors')
  jax.tree.map(np.testing.assert_array_equal, found, variables())
  assert meta['step'] == 7 and meta['confidence'] == {'temperature': 1.5}
  config, again, step = checkpoint.restore_for_inference(tmp_path / 'a.safetensors')
  assert step == 7 and config.data.classes == ('lv', 'la')
  jax.tree.map(np.testing.assert_array_equal, again, variables())
  assert not list(tmp_path.glob('*.partial'))


def test_the_other_network_is_not_there(tmp_path):
  network_file.write(tmp_path / 'a.safetensors', CONFIG, variables(), 7, 'teacher')
  with pytest.raises(InputError, match='holds the teacher only'):
    checkpoint.restore_for_inference(tmp_path / 'a.safetensors', 'student')


def test_a_student_needs_no_flag(tmp_path):
  network_file.write(tmp_path / 'a.safetensors', CONFIG, variables(), 7, 'student')
  for which in ('teacher', 'student'):
    assert checkpoint.restore_for_inference(tmp_path / 'a.safetensors', which)[2] == 7


def test_a_file_holds_one_step_and_says_how_it_was_chosen(tmp_path):
  facts = {'step_choice': 'best dice_teacher', 'step_score': 0.9}
  path = tmp_path / 'a.safetensors'
  network_file.write(path, CONFIG, variables(), 7, 'teacher', **facts)
  assert workdir.choose_step(path) == workdir.choose_step(path, '7') == (7, facts)
  with pytest.raises(InputError, match='one network, after 7 updates, found --step=best'):
    workdir.choose_step(path, 'best')


def test_what_is_no_network(tmp_path):
  # Published weights have the same suffix, and are no network.
  save_file({'conv1.weight': np.zeros(3)}, tmp_path / 'weights.safetensors')
  save_file({'a': np.zeros(3)}, tmp_path / 'other.safetensors', {'by': 'x'})
  (tmp_path / 'text.safetensors').write_text('text')
  for name, text in (
    ('weights', 'no network of this project'),
    ('other', 'no network of this project'),
    ('text', 'no network of this project'),
    ('none', 'no such file'),
  ):
    path = tmp_path / f'{name}.safetensors'
    with pytest.raises(InputError, match=text):
      network_file.read(path)
    assert not network_file.holds_network(path)
  with pytest.raises(InputError, match='cannot be written'):
    network_file.write(tmp_path / 'no' / 'a.safetensors', CONFIG, variables(), 7, 'teacher')


def test_a_folder_that_ends_in_safetensors_is_a_workdir(tmp_path):
  (tmp_path / 'run.safetensors').mkdir()
  assert not network_file.is_network_path(tmp_path / 'run.safetensors')
  assert network_file.is_network_path('default') and network_file.is_network_path('x/y.safetensors')
