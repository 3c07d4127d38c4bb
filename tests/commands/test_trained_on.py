"""A model states what it was trained on, and repeats its note."""

import pytest

from echoforge_jax import inference
from echoforge_jax.__main__ import main
from echoforge_jax.config import base_config
from echoforge_jax.inference import receipt
from echoforge_jax.models import network_file
from tests.configs import load_config
from tests.inference.clips import make_workdir


def test_phantoms_are_named_as_such():
  text = receipt.training_data(load_config('default_model'))
  assert text == 'synthetic clips only; it has never seen a patient'


def test_data_that_are_elsewhere_and_a_start():
  config = base_config(lite=True)
  config.data.data_dir, config.init_from = 'nowhere', '/home/x/first.safetensors'
  found = receipt.training_data(config)
  assert found.startswith('data prepared as camus, which are not here: real or synthetic')
  assert found.endswith('; started from first.safetensors')


def test_phantoms_after_another_network_promise_nothing():
  config = load_config('default_model', init_from='weights/other.safetensors')
  found = receipt.training_data(config)
  assert found == 'synthetic clips only; started from other.safetensors'
  config = load_config('default_model', init_from='default')
  assert 'never seen a patient; started from default' in receipt.training_data(config)


def test_prepared_patients_are_counted(disc_data_dir):
  config = load_config('tiny', data={'data_dir': str(disc_data_dir)})
  assert receipt.training_data(config) == '4 patients of camus'
  few = load_config('tiny', data={'data_dir': str(disc_data_dir), 'labeled_patients': 2})
  assert receipt.training_data(few) == '4 patients of camus (labels of 2)'


@pytest.mark.slow
def test_a_file_keeps_what_was_said_of_the_run(disc_data_dir, tmp_path, capsys):
  config = load_config('tiny', data={'data_dir': str(disc_data_dir)})
  run, first = make_workdir(tmp_path / 'run', config), tmp_path / 'first.safetensors'
  flags = ['--calibrate', f'--data_dir={disc_data_dir}', '--split=train']
  note = '--note=Research only.'
  assert main(['export', f'--checkpoint={run}', f'--out={first}', note, *flags]) == 0
  facts = network_file.read(first)[1]
  assert facts['confidence']['split'] == 'train' and facts['confidence']['data'] == 'camus'
  assert facts['confidence']['n_clips'] == 4
  assert str(tmp_path) not in str(facts)
  # Exported again where the data are not, it says the same.
  again = tmp_path / 'again.safetensors'
  assert main(['export', f'--checkpoint={first}', f'--out={again}']) == 0
  said = inference.load(again).receipt
  assert said['trained_on'] == '4 patients of camus' and said['note'] == 'Research only.'
  line = receipt.describe('again', said)
  assert line.endswith('step 3), trained on 4 patients of camus. Research only.')
  with pytest.raises(SystemExit):
    main(['export', f'--checkpoint={run}', f'--out={tmp_path / "a.echoforge"}', note])
  assert 'ends in .safetensors' in capsys.readouterr().err
  with pytest.raises(SystemExit):  # It would be fitted on other clips than asked for.
    main(['export', f'--checkpoint={run}', f'--out={first}', '--calibrate', '--split=train'])
  assert 'wanted --data_dir' in capsys.readouterr().err
