"""What a receipt says, and when two runs count as one experiment."""

import json
import types

from ml_collections import ConfigDict
import pytest

from configs import tiny
from echoforge_jax import provenance
from echoforge_jax.evaluation import receipt


def changed(**fields):
  config = ConfigDict(tiny.get_config().to_dict())
  config.update_from_flattened_dict(fields)
  return config.config_digest(config)


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
  from echoforge_jax.training.workdir import claim_workdir, read_config

  config = tiny.get_config()
  claim_workdir(tmp_path, config)
  assert config.config_digest(read_config(tmp_path)) == config.config_digest(
    config
  )


def test_receipt_identifies_model_data_and_machine():
  source = types.SimpleNamespace(
    split='test', synthetic=True, fingerprint='f' * 64, image_size=64
  )
  config = tiny.get_config()
  found = receipt.make_receipt(
    config,
    source,
    step=12,
    which='student',
    workdir='/some/where/run_3',
    dataset='echonet',
    split_scheme='official',
  )
  assert json.loads(json.dumps(found)) == found
  assert found['run'] == 'run_3' and '/' not in found['run']
  assert found['checkpoint_step'] == 12 and found['which'] == 'student'
  assert found['training_seed'] == config.seed
  assert found['dataset'] == 'echonet'
  assert found['trained_on'] == config.data.dataset
  assert found['device'].startswith('cpu: ')
  assert found['config_digest'] == config.config_digest(config)
  for name in (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'grain',
    'numpy',
    'scipy',
    'python',
    'echoforge_jax',
  ):
    assert found['versions'][name]


def test_versions_leave_out_what_is_not_installed(monkeypatch):
  monkeypatch.setattr(receipt, '_PACKAGES', ('numpy', 'no-such-package-9'))
  assert set(provenance.versions()) == {'echoforge_jax', 'python', 'numpy'}
