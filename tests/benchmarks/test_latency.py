"""Latency of a stream: what is counted, and what is said."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import latency
from echoforge_jax.__main__ import main
from echoforge_jax.formats import sector as sectors
from echoforge_jax.inference import programs


def test_compilations_are_counted_only_inside():
  function = jax.jit(lambda x: jnp.sin(x) + 1)
  with latency.Compilations() as first:
    function(np.ones(3, np.float32))
  with latency.Compilations() as again:
    function(np.ones(3, np.float32))
  with latency.Compilations() as other:
    function(np.ones(4, np.float32))
  assert first.count >= 1 and first.seconds > 0
  assert again.count == 0 and other.count >= 1


_HOLDS = """
import numpy as np
from echoforge_jax.bench import latency
before = latency.resident_bytes()
held = np.ones(200_000_000, np.uint8)
print(latency.resident_bytes() - before, held.all())
"""


def test_resident_memory_follows_what_is_held():
  # A process of its own: others free memory of their own meanwhile.
  grown, held = subprocess.run(
    [sys.executable, '-c', _HOLDS], capture_output=True, text=True, check=True
  ).stdout.split()
  assert 190e6 < int(grown) < 260e6 and held == 'True'


def test_frames_are_speckle_in_a_sector():
  frames = programs.frames_of((90, 120))
  assert frames.shape == (32, 90, 120) and frames.dtype == np.uint8
  assert not frames[:, -1].any() and not frames[:, :30, :20].any()
  assert len({frame.tobytes() for frame in frames}) == 32
  found = sectors.find_sector(frames[:1])
  assert found.found and found.inside is not None


@pytest.mark.parametrize('lag', [0, 2])
def test_stream_benchmark(tmp_path, capsys, monkeypatch, lag):
  monkeypatch.setattr(latency, '_WARM_UP', 4)
  jax.clear_caches()  # Other tests may have compiled this model.
  out = tmp_path / 'stream.json'
  jax.config.update('jax_disable_most_optimizations', True)
  try:
    assert (
      main(
        [
          'bench',
          'stream',
          '--config=configs/tiny.py',
          '--frames=20',
          '--size=60x80',
          f'--lag={lag}',
          f'--json={out}',
        ]
      )
      == 0
    )
  finally:
    jax.config.update('jax_disable_most_optimizations', False)
  printed = capsys.readouterr().out
  assert 'p50' in printed and 'p99' in printed and 'load' in printed
  found = json.loads(out.read_text())
  ms = found['latency_ms']
  assert 0 < ms['p50'] <= ms['p95'] <= ms['p99'] <= ms['max']
  assert 0 < found['cpu_ms']['p50'] <= found['cpu_ms']['p99']
  assert found['compilations'] == {
    'before': found['compilations']['before'],
    'timed': 0,
  }
  assert 0 < found['compile_s'] and found['fps'] is None
  assert found['frames'] == 20 and found['lag'] == lag
  assert found['dtype'] == 'float32' and found['image_size'] == 32
  assert found['versions']['jax'] == jax.__version__
  assert {'before', 'after', 'growth'} == set(found['memory_mb']['process'])


@pytest.mark.parametrize(
  'flags, text',
  [
    (['--size=12'], 'wanted HxW'),
    (['--size=4x4'], 'at least 16x16'),
    (['--frames=0'], 'at least 1'),
    (['--lag=-1'], 'from 0 to 30'),
    (['--json=none/x.json'], 'no such folder'),
    (['--checkpoint=none', '--config.seed=1'], 'with --config only'),
    (['--checkpoint=none'], 'no such directory'),
  ],
)
def test_misuse_is_one_line(flags, text, capsys):
  if not any('checkpoint' in flag for flag in flags):
    flags = ['--config=configs/tiny.py', *flags]
  assert main(['bench', 'stream', *flags]) == 2
  error = capsys.readouterr().err
  assert text in error and error.count('\n') == 1
