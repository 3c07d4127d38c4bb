"""Data of your own from its files to scores, by the documented commands."""

import json

import pytest

from echoforge_jax.__main__ import main
from tests import folders
from tests.configs import ROOT


@pytest.mark.slow
def test_own_data_is_trained_on_and_scored_in_a_fold(tmp_path, capsys):
  raw, data, run, out = (tmp_path / name for name in ('raw', 'data', 'run', 'out'))
  for n in range(6):
    folders.write_stills(raw, f'p{n}_4CH', n)
  where = ['--dataset=folder', f'--raw={raw}']
  assert main(['verify', *where]) == 0
  assert main(['prepare', *where, f'--data_dir={data}', '--image_size=32', '--fold=2/3']) == 0
  config = {
    'data.dataset': 'folder',
    'data.data_dir': data,
    'data.split_scheme': 'fold2of3',
    'num_steps': 3,
    'eval.every': 0,
  }
  flags = [f'--config.{name}={value}' for name, value in config.items()]
  tiny = f'--config={ROOT / "configs" / "tiny.py"}:baseline'
  assert main(['train', tiny, f'--workdir={run}', *flags]) == 0
  assert (
    main(['evaluate', f'--workdir={run}', '--protocol=own', f'--out={out}', '--skip_whole_clip'])
    == 0
  )
  metrics = json.loads((out / 'metrics.json').read_text())
  receipt = metrics['receipt']
  assert (receipt['dataset'], receipt['split_scheme']) == ('folder', 'fold2of3')
  assert metrics['n_patients'] == 2 and metrics['n_frames'] == 4
  # A protocol for CAMUS uses other patient lists.
  assert main(['evaluate', f'--workdir={run}', '--protocol=camus_semi', f'--out={out}']) == 2
  assert 'camus' in capsys.readouterr().err
