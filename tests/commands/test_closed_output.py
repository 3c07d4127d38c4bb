"""Commands whose output nobody reads any more, as in `echoforge verify ... | head`."""

import os
import subprocess
import sys

import pytest

from echoforge_jax.__main__ import main
from tests import folders


def run(*argv, buffered=True, with_errors=False):
  """Runs a command whose output is a pipe without a reader; returns its status and errors."""
  reader, writer = os.pipe()
  os.close(reader)
  environment = os.environ | {'PYTHONUNBUFFERED': '' if buffered else '1'}
  try:
    done = subprocess.run(
      [sys.executable, '-m', 'echoforge_jax', *argv],
      stdout=writer,
      stderr=writer if with_errors else subprocess.PIPE,
      env=environment,
      check=False,
    )
  finally:
    os.close(writer)
  return done.returncode, done.stderr


@pytest.mark.parametrize('buffered', [True, False])
@pytest.mark.parametrize('argv', [['--help'], ['verify', '--help']])
def test_help_ends_without_a_traceback(argv, buffered):
  status, error = run(*argv, buffered=buffered)
  assert status in (141, 0) and error == b''  # 0 where argparse itself passes over it.


def test_errors_that_nobody_reads():
  assert run('nonsense', with_errors=True) == (141, None)
  status, error = run('nonsense')
  assert status == 2 and b'unknown verb' in error


@pytest.mark.slow
def test_a_report_is_written_all_the_same(tmp_path):
  folders.write_stills(tmp_path / 'raw', 'p_4CH', 1)
  flags = ['--dataset=folder', f'--raw={tmp_path / "raw"}', f'--json={tmp_path / "x.json"}']
  assert run('verify', *flags, buffered=False) == (141, b'')
  assert (tmp_path / 'x.json').stat().st_size > 50


def test_a_broken_pipe_of_something_else_is_no_closed_output(monkeypatch):
  def broken(argv):
    raise BrokenPipeError

  monkeypatch.setattr('echoforge_jax.commands.verify.main', broken)
  with pytest.raises(BrokenPipeError):
    main(['verify'])
