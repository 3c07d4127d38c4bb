"""study: a tiny study from nothing to a table, and what misuse says."""

import json

import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.data.prepare import prepare
from echoforge_jax.phantom import camus_writer
from tests.phantom import ellipses


@pytest.mark.slow
def test_a_tiny_study(tmp_path, capsys):
  """The row that compiles fastest, on ellipses; each command a process."""
  camus_writer.write_camus(
    tmp_path / 'raw',
    num_patients=4,
    num_test=2,
    seed=0,
    config=ellipses.Config(),
    generate=ellipses.generate,
  )
  prepare('camus', tmp_path / 'raw', tmp_path / 'data', 32)
  flags = [
    'study',
    f'--out={tmp_path / "out"}',
    f'--data_dir={tmp_path / "data"}',
    '--rows=baseline',
    '--config=tiny.py',
    '--seeds=1',
    '--config.num_steps=4',
    '--config.eval.every=0',
    '--config.checkpoint_every=4',
    '--config.batch_size=2',
    '--config.num_devices=1',
  ]
  assert main(flags) == 0
  printed = capsys.readouterr().out
  assert '(`baseline`)' in printed and 'GFLOP' in printed
  results = tmp_path / 'out' / 'results.jsonl'
  (line,) = [json.loads(x) for x in results.read_text().splitlines()]
  assert line['row'] == 'baseline' and line['receipt']['trained_at']
  assert len(line['patients']) == 2
  assert '--config.num_steps=4' in line['flags']
  assert not any(str(tmp_path) in flag for flag in line['flags'])
  # The same command finds everything done.
  stamp = results.stat().st_mtime_ns
  assert main([*flags, '--no_cost']) == 0
  assert results.stat().st_mtime_ns == stamp


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
    (['--seeds=0'], 'at least 1'),
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
