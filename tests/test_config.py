"""Configs are found, read with changes, and told apart."""

from ml_collections import ConfigDict
import pytest

from configs import tiny
from echoforge_jax.config import base_config, config_digest, parse_config
from echoforge_jax.errors import InputError
from echoforge_jax.training.workdir import claim_workdir, read_config


@pytest.mark.parametrize(
  'flags',
  [
    ['--config=configs/tiny.py:tsf', '--config.batch_size=8'],
    ['--config.batch_size=8', '--config=tiny:tsf'],
    ['--config.batch_size=8', '--config', 'tiny.py:tsf'],
  ],
)
def test_a_shipped_config_from_anywhere(flags, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = parse_config(flags)
  assert config.is_locked and config.batch_size == 8
  assert config.model.dim == 16 and not config.model.use_arc


def test_a_config_of_ones_own(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(
    'from echoforge_jax.config import base_config\n'
    'def get_config(width=8):\n'
    "  config = base_config('sscf', lite=True)\n"
    '  config.model.width = int(width)\n'
    '  return config\n'
  )
  assert parse_config([f'--config={file}']).model.width == 8
  flags = [f'--config={file}:12', '--config.objective.name=supervised']
  config = parse_config(flags)
  assert config.is_locked and config.model.width == 12
  assert config.objective.name == 'supervised'


def test_an_unknown_name_lists_the_configs():
  with pytest.raises(InputError, match='no file nope.*camus_echoforge, .*tiny'):
    parse_config(['--config=nope'])


def test_models_have_their_own_fields_only():
  forge, sscf = base_config().model, base_config('sscf').model
  assert 'anchors' in forge and 'width' not in forge
  assert 'anchors' not in sscf and 'width' in sscf


def changed(**fields):
  config = ConfigDict(tiny.get_config().to_dict())
  config.update_from_flattened_dict(fields)
  return config_digest(config)


def test_digest_ignores_the_seed_and_where_things_lie():
  base = changed()
  assert len(base) == 16 and base == changed()
  assert base == changed(**{'seed': 7})
  assert base == changed(**{'data.data_dir': 'elsewhere'})
  assert base == changed(**{'log_every': 12345, 'eval.every': 99})


@pytest.mark.parametrize(
  'fields',
  [
    {'num_steps': 12345},
    {'optimizer.learning_rate': 0.5},
    {'data.label_seed': 4},
    {'model.anchors': 3},
    {'batch_size': 77},
  ],
)
def test_digest_sees_what_is_learned(fields):
  assert changed(**fields) != changed()


def test_digest_survives_the_workdir(tmp_path):
  config = tiny.get_config()
  claim_workdir(tmp_path, config)
  assert config_digest(read_config(tmp_path)) == config_digest(config)
