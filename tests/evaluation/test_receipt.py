"""What a receipt says."""

import json
import types

from configs import tiny
from echoforge_jax.config import config_digest
from echoforge_jax.evaluation.evaluate import make_receipt
from echoforge_jax.evaluation.protocols import get_protocol


def test_receipt_identifies_model_data_and_machine():
  source = types.SimpleNamespace(split='test', synthetic=True, fingerprint='f' * 64, image_size=64)
  config = tiny.get_config()
  found = make_receipt(
    config, source, get_protocol('echonet'), step=12, which='student', workdir='/some/where/run_3'
  )
  assert json.loads(json.dumps(found)) == found
  assert found['run'] == 'run_3' and '/' not in found['run']
  assert found['checkpoint_step'] == 12 and found['which'] == 'student'
  assert found['training_seed'] == config.seed
  assert found['dataset'] == 'echonet'
  assert found['trained_on'] == config.data.dataset
  assert found['device'].startswith('cpu: ')
  assert found['config_digest'] == config_digest(config)
  for name in ('jax', 'flax', 'grain', 'numpy', 'python', 'echoforge_jax'):
    assert found['versions'][name]
  assert 'no-such-package-9' not in found['versions']
