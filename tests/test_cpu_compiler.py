"""Compile options are given where they can be."""

import jax
import pytest

from echoforge_jax import cpu_compiler


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='it is for CPUs')
@pytest.mark.parametrize(
  'options', [cpu_compiler.INFERENCE, cpu_compiler.TRAINING]
)
def test_this_jax_knows_them(options, monkeypatch):
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  assert cpu_compiler.known(options, 'cpu') == options
  # A plan for TPUs is made on a CPU.
  assert cpu_compiler.known(options, 'tpu') is None
  # Who sets the option has decided.
  monkeypatch.setenv('XLA_FLAGS', f'--xla_x=1 --{cpu_compiler.OPTION}=')
  assert cpu_compiler.known(options, 'cpu') is None


@pytest.mark.parametrize(
  'options',
  [{'xla_cpu_no_such_option': '1'}, {cpu_compiler.OPTION: 'NO_SUCH_TYPE'}],
)
def test_what_this_jax_lacks_is_left_out(options):
  assert cpu_compiler.known(options, jax.default_backend()) is None


def test_accelerators_get_none(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  for platform in ('cpu', 'gpu'):
    assert cpu_compiler.known(cpu_compiler.TRAINING, platform) is None
