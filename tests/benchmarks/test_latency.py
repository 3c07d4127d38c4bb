"""Latency of a stream: what is counted, and what the line says."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import speed
from benchmarks.speed.timing import Compilations
from echoforge_jax.config import parse_config
from echoforge_jax.formats import sector as sectors
from echoforge_jax.inference import programs


def test_compilations_are_counted_only_inside():
  function = jax.jit(lambda x: jnp.sin(x) + 1)
  with Compilations() as first:
    function(np.ones(3, np.float32))
  with Compilations() as again:
    function(np.ones(3, np.float32))
  with Compilations() as other:
    function(np.ones(4, np.float32))
  assert first.count >= 1 and first.seconds > 0
  assert again.count == 0 and other.count >= 1


_HOLDS = """
import numpy as np
from benchmarks.speed import latency
before = latency.resident_mb()
held = np.ones(200_000_000, np.uint8)
print(latency.resident_mb() - before, held.all())
"""


@pytest.mark.slow
def test_resident_memory_follows_what_is_held():
  # A process of its own: others free memory of their own meanwhile.
  grown, held = subprocess.run(
    [sys.executable, '-c', _HOLDS], capture_output=True, text=True, check=True
  ).stdout.split()
  assert 190 < float(grown) < 260 and held == 'True'


def test_frames_are_speckle_in_a_sector():
  frames = programs.frames_of((90, 120))
  assert frames.shape == (32, 90, 120) and frames.dtype == np.uint8
  assert not frames[:, -1].any() and not frames[:, :30, :20].any()
  assert len({frame.tobytes() for frame in frames}) == 32
  found = sectors.find_sector(frames[:1])
  assert found.found and found.inside is not None


@pytest.mark.slow
def test_a_stream_compiles_before_it_is_timed():
  jax.clear_caches()  # Of tests before this one.
  config = parse_config(['--config=configs/tiny.py'])
  (line,) = speed.measure(config, name='x', repeats=1, names=('latency',))
  values = line['values']
  assert line['unit'] == 'ms' and line['repeats'] == 20
  assert 0 < values['p50'] <= values['p95'] <= values['p99'] <= values['max']
  assert values['p50'] == line['median']
  assert 0 < values['cpu_p50'] <= values['cpu_p99']
  assert values['compiled_while_timing'] == 0 and line['compile_s'] > 0
  assert values['native_size'] == '480x640'
  assert values['process_mb'] > 0
