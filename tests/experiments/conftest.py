"""Lines of a study with known values, as the runner writes them."""

import pytest

from echoforge_jax.experiments import study as study_lib
from tests.commands.conftest import disc_data_dir  # noqa: F401

RECEIPT = {
  'protocol': {'name': 'camus_full'},
  'dataset': 'camus',
  'split': 'test',
  'synthetic': True,
  'raw_fingerprint': '0123abcd' * 8,
  'device': 'cpu: cpu',
  'trained_at': 'abc1234',
  'versions': {'jax': '0.10.2'},
}


def make_line(row, seed, gain, patients=12, study='rows', **receipt):
  """A run whose patients have the Dice .8 + gain + something of their own."""
  values = {}
  for k in range(patients):
    dice = 0.8 + gain + 0.01 * (k % 4) + 0.001 * seed
    values[f'p{k}'] = {
      'dice': dice,
      'iou': dice / (2 - dice),
      'hd': 5.0,
      'hd95': 4.0 - gain,
      'asd': 2.0 - gain,
      'ef_reference': 40.0 + k,
      'ef_predicted': 38.0 + k,
      'inconsistent': 0.2 - gain,
      'roughness': 0.01,
      'valid': 1.0,
      'lv_dice_4CH_ED': dice,
      'lv_asd_4CH': 2.0,
      'ef_4CH_masks': 40.0 + k,
      'ef_4CH_predicted': 41.0 + k,
    }
  mean = sum(v['dice'] for v in values.values()) / patients
  return {
    'study': study,
    'row': row,
    'seed': seed,
    'label': row,
    'flags': [],
    'dice': mean,
    'train_seconds': 60.0 + seed,
    'patients': values,
    'receipt': RECEIPT | receipt,
  }


@pytest.fixture
def line():
  return make_line


@pytest.fixture
def small_study():
  """Two rows, two seeds of each."""
  return study_lib.get_study('rows', ['baseline', 'all'], seeds=2)
