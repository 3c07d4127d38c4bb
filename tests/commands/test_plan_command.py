"""plan: a table and a file for the devices here; what misuse says."""

import json
import os
from unittest import mock

import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.planning import topology

TINY = '--config=configs/tiny.py:baseline'


@pytest.mark.slow
def test_the_devices_here(tmp_path, capsys):
  path = tmp_path / 'plan.json'
  assert main(['plan', TINY, f'--json={path}', '--config.num_devices=2', '--per_chip=2']) == 0
  printed = capsys.readouterr().out
  assert 'local: 2 x' in printed and 'training step fits' in printed
  assert 'inference step' in printed and '--config.batch_size=4' in printed
  written = json.loads(path.read_text())
  (found,) = written['plans']
  assert found['clips_per_chip'] == 2 and found['train']['flops'] > 0
  exchanged = found['train']['exchanges']['all-reduce']['bytes']
  assert 1 <= exchanged / found['gradient_bytes'] < 1.1
  assert found['state_bytes'] <= found['train']['memory']['arguments']
  assert written['versions']['jax'] and written['peak_memory_bytes'] > 1e8
  assert str(tmp_path) not in path.read_text()


@pytest.mark.parametrize(
  'flags, text',
  [
    ([TINY, '--topology=v5e:2x2,local'], 'local alone'),
    ([TINY, '--topology=,'], 'wanted slices'),
    ([TINY, '--topology=v9:2x2'], 'no chip'),
    ([TINY, '--per_chip=-1'], 'at least 1'),
    ([TINY, '--json=nowhere/plan.json'], 'no such folder'),
    ([TINY, '--config.stairs=2'], 'no such field'),
    (['--config=none.py'], 'no file none.py'),
    ([TINY, '--config.num_devices=3', '--config.fsdp=2'], 'config.fsdp'),
  ],
)
def test_misuse_is_one_line(flags, text, capsys, tmp_path):
  library = tmp_path / 'libtpu.so'
  library.touch()
  with mock.patch.dict(os.environ, {'TPU_LIBRARY_PATH': str(library)}):
    assert main(['plan', *flags]) == 2
  error = capsys.readouterr().err
  assert text in error and error.count('\n') == 1


def test_without_libtpu(capsys, monkeypatch, tmp_path):
  monkeypatch.delenv('TPU_LIBRARY_PATH', raising=False)
  monkeypatch.setattr(topology.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(topology.sys, 'prefix', str(tmp_path))
  assert main(['plan', TINY, '--topology=v5e:2x2']) == 2
  error = capsys.readouterr().err
  assert 'pip install -r requirements-tpu.txt' in error
  assert error.count('\n') == 1
