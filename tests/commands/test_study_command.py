"""bench: a tiny study from nothing to a table, and what misuse says."""

import json

import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.data import prepare as builder
from echoforge_jax.phantom import camus_writer
from tests.phantom import ellipses


@pytest.mark.slow
def test_a_tiny_study(tmp_path, monkeypatch, capsys):
  """The row that compiles fastest, on ellipses; each command a process."""
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  camus_writer.write_camus(
    tmp_path / 'raw',
    num_patients=4,
    num_test=2,
    seed=0,
    config=ellipses.Config(),
    generate=ellipses.generate,
  )
  builder.prepare('camus', tmp_path / 'raw', tmp_path / 'data', 32)
  flags = [
    'bench',
    'ablation',
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


def test_cost(capsys):
  assert (
    main(
      ['bench', 'cost', '--config=configs/tiny.py', '--frames=2', '--repeats=1']
    )
    == 0
  )
  assert 'M parameters' in capsys.readouterr().out


@pytest.mark.parametrize(
  'flags, text',
  [
    (['ablation', '--out=x', '--study=rowing'], 'rows, anchors'),
    (['ablation', '--out=x', '--rows=best'], 'baseline'),
    (['ablation', '--out=x', '--seeds=0'], 'at least 1'),
    (['ablation', '--out=x', '--config=none.py'], 'no such file in configs'),
    (['ablation', '--out=x', '--config.stairs=2'], 'row baseline'),
    (['cost', '--config=configs/tiny.py', '--frames=0'], 'at least 1'),
    (['profile', '--config=configs/tiny.py', '--top=0'], 'at least 1'),
    (
      ['profile', '--config=configs/tiny.py', '--target=walk'],
      "found 'walk', wanted one of train, forward, stream",
    ),
    (['speed', '--config=configs/none.py'], 'no file'),
    (
      ['speed', '--config=configs/tiny.py', '--parts=trunk,warp'],
      "found 'warp'; choose from ceiling, forward",
    ),
    (['speed', '--config=configs/tiny.py', '--repeats=0'], 'at least 1'),
    (['speed', '--config=configs/tiny.py', '--batch=0'], 'at least 1'),
    (
      ['speed', '--config=configs/tiny.py', '--json=none/x.jsonl'],
      'no such folder',
    ),
    (
      ['speed', '--config=configs/tiny.py', '--json=configs'],
      'cannot be written',
    ),
    (
      ['speed', '--config=configs/tiny.py', '--compare=none.jsonl'],
      'No such file',
    ),
    (
      ['speed', '--config=configs/tiny.py', '--compare=configs/tiny.py'],
      'line 1 is not JSON',
    ),
    (
      ['speed', '--config=configs/tiny.py', '--config.stairs=2'],
      'no such field',
    ),
    (
      [
        'speed',
        '--config=configs/tiny.py',
        '--config.num_devices=1',
        '--config.unlabeled_batch_size=2',
        '--batch=1',
      ],
      'cannot be labeled',
    ),
  ],
)
def test_misuse_is_one_line(flags, text, capsys, tmp_path, monkeypatch):
  flags = [f.replace('--out=x', f'--out={tmp_path / "x"}') for f in flags]
  assert main(['bench', *flags]) == 2
  error = capsys.readouterr().err
  assert text in error and error.count('\n') == 1
  assert not (tmp_path / 'x').exists()
