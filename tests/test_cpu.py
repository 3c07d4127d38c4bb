"""Compile options are given where they can be, and change no result."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from echoforge_jax import cpu

pytestmark = pytest.mark.skipif(jax.default_backend() != 'cpu', reason='it is for CPUs')


@pytest.mark.parametrize('options', [cpu.INFERENCE, cpu.TRAINING])
def test_this_jax_knows_the_options(options, monkeypatch):
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  assert cpu.known_options(options, 'cpu') == options
  # A plan for TPUs is made on a CPU.
  assert cpu.known_options(options, 'tpu') is None
  # XLA_FLAGS takes precedence.
  monkeypatch.setenv('XLA_FLAGS', f'--xla_x=1 --{cpu.OPTION}=')
  assert cpu.known_options(options, 'cpu') is None


@pytest.mark.parametrize('options', [{'xla_cpu_no_such_option': '1'}, {cpu.OPTION: 'NO_SUCH_TYPE'}])
def test_what_this_jax_lacks_is_left_out(options):
  assert cpu.known_options(options, 'cpu') is None


@pytest.mark.slow
def test_a_model_gives_the_same():
  conv = nn.Conv(8, (3, 3))
  x = np.random.default_rng(0).standard_normal((2, 16, 16, 3), np.float32)
  variables = conv.init(jax.random.key(0), x)
  found = cpu.jit(conv.apply)(variables, x)
  np.testing.assert_allclose(found, conv.apply(variables, x), atol=1e-5)
  static = cpu.jit(lambda n, x: n * x, static_argnums=0)
  assert static(3, np.float32(2)) == 6


@pytest.mark.slow
def test_flags_of_the_user_decide():
  code = (
    'import jax; from echoforge_jax import cpu;'
    'print(cpu.known_options(cpu.INFERENCE, "cpu"), cpu.jit(lambda x: x)(1.0))'
  )
  flags = f'--{cpu.OPTION}=+LIBRARY_FUSION_TYPE_REDUCE'
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split() == ['None', '1.0']
