"""study: a tiny study from nothing to a table, and what misuse says."""

import json

import jax
import numpy as np
import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.models import network_file
from echoforge_jax.training import build
from tests.configs import load_config


def write_weights(path):
  """A network of the tiny config that knows two classes, of the size of random ones."""
  config = load_config('tiny', 'baseline')
  with config.unlocked():
    config.data.classes = ('lv', 'myo')
  state = jax.eval_shape(build.make_parts(config).create_state)
  rng = np.random.default_rng(0)
  trees = {'params': state.params, 'batch_stats': state.batch_stats}
  variables = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), trees)
  network_file.write(path, config.to_dict(), variables, 5, 'teacher')
  return path


@pytest.mark.slow
def test_a_tiny_study_of_labels(tmp_path, capsys, disc_data_dir):
  """Random and other weights; the config that compiles fastest."""
  weights = write_weights(tmp_path / 'weights.safetensors')
  flags = [
    'study',
    '--study=labels',
    f'--out={tmp_path / "out"}',
    f'--data_dir={disc_data_dir}',
    f'--weights={weights}',
    '--patients=2',
    '--steps=2',
    '--split=validation',
    '--config=tiny.py:baseline',
    '--config.optimizer.warmup_steps=0',
  ]
  assert main([*flags, '--seeds=1', '--rows=random_2']) == 0
  assert '1 runs, 0 done; about 0 h 1 min left' in capsys.readouterr().out
  results = tmp_path / 'out' / 'results.jsonl'
  first = results.read_text()
  # One row more: what is done is not repeated.
  assert main([*flags, '--seeds=1']) == 0
  printed = capsys.readouterr().out
  assert results.read_text().startswith(first)
  lines = {(x['row'], x['seed']): x for x in map(json.loads, results.read_text().splitlines())}
  assert set(lines) == {('random_2', 0), ('phantom_2', 0)}
  assert '2 runs, 1 done' in printed and 'too few seeds for a claim' in printed
  one, other = (lines[name, 0]['receipt'] for name in ('phantom_2', 'random_2'))
  assert one['labeled_patients_sha256'] == other['labeled_patients_sha256']
  assert one['weights_sha256'] and not other['weights_sha256']
  assert (one['labeled_patients'], one['training_seed'], one['split']) == (2, 0, 'validation')
  assert one['config_digest'] and one['raw_fingerprint'] and one['trained_at'] and one['versions']
  values = lines['phantom_2', 0]['patients']
  assert len(values) == 1 and 'lv_dice_2CH_ES' in next(iter(values.values()))
  assert not any(str(tmp_path) in flag for flag in lines['phantom_2', 0]['flags'])
  log = tmp_path / 'out' / 'runs' / 'labels' / 'phantom_2_seed0' / 'train.log'
  assert 'not taken but new are decoder/fine/kernel' in log.read_text()
  for suffix in ('md', 'tex', 'json', 'png', 'pdf'):
    assert (tmp_path / 'out' / f'labels.{suffix}').stat().st_size > 500
  # The table alone, of one row.
  assert main([*flags, '--seeds=1', '--rows=random_2', '--table']) == 0
  assert '`phantom_2`' not in capsys.readouterr().out


@pytest.mark.slow
def test_cost(tmp_path, capsys):
  flags = [f'--out={tmp_path / "x"}', '--config=configs/tiny.py:baseline']
  assert main(['study', '--study=cost', *flags]) == 0
  assert '| configs/tiny.py:baseline | ' in capsys.readouterr().out
  found = json.loads((tmp_path / 'x' / 'cost.json').read_text())
  cost = found['costs']['configs/tiny.py:baseline']
  assert cost['gflop'] > 0 and cost['frames_per_second'] > 0
  assert (cost['frames'], cost['image_size']) == (10, 32)


@pytest.mark.parametrize(
  'flags, text',
  [
    (['--study=rowing'], 'rows, methods, anchors'),
    (['--rows=best'], 'baseline'),
    (['--seeds=-1'], 'negative number'),
    (['--patients=3'], 'belongs to --study=labels'),
    (['--study=labels', '--patients=few'], 'whole numbers'),
    (['--study=labels', '--data=camus_stills'], 'wanted --raw=DIR'),
    (['--config=phantom_lite:all'], 'choose what follows the colon'),
    (['--table'], 'found no run'),
    (['--config=none.py'], 'no file'),
    (['--config.stairs=2'], 'row baseline'),
    (['--study=cost', '--config=configs/none.py'], 'no file'),
  ],
)
def test_misuse_is_one_line(flags, text, capsys, tmp_path):
  assert main(['study', f'--out={tmp_path / "x"}', *flags]) == 2
  error = capsys.readouterr().err
  assert text in error and error.count('\n') == 1
  assert not (tmp_path / 'x').exists()
