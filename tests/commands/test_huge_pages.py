"""The command starts itself once with large pages, where the kernel waits."""

import os
import subprocess
import sys

import pytest

from echoforge_jax import huge_pages

WANTED = 'glibc.malloc.hugetlb=1'


@pytest.fixture
def asks(tmp_path):
  path = tmp_path / 'enabled'
  path.write_text('always [madvise] never\n')
  return str(path)


@pytest.mark.skipif(sys.platform != 'linux', reason='a setting of Linux')
def test_only_where_it_changes_something(asks, tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'confstr', lambda name: 'glibc 2.36')
  assert huge_pages.helps({}, asks)
  assert not huge_pages.helps({'GLIBC_TUNABLES': ''}, asks)
  assert not huge_pages.helps({}, str(tmp_path / 'nowhere'))
  always = tmp_path / 'always'
  always.write_text('[always] madvise never\n')
  assert not huge_pages.helps({}, str(always))
  monkeypatch.setattr(os, 'confstr', lambda name: 'glibc 2.31')
  assert not huge_pages.helps({}, asks)


@pytest.mark.parametrize('given', [None, 'glibc.malloc.check=0'])
def test_a_process_starts_once_more_with_its_arguments(given):
  program = (
    'import os, sys\n'
    'from echoforge_jax import huge_pages\n'
    'huge_pages.helps = lambda environ: "GLIBC_TUNABLES" not in environ\n'
    'print(len(sys.argv), flush=True)\n'
    'huge_pages.restart(("train",))\n'
    'print(os.environ["GLIBC_TUNABLES"], sys.argv[1:])\n'
  )
  environ = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  if given:
    environ['GLIBC_TUNABLES'] = given
  done = subprocess.run(
    [sys.executable, '-c', program, 'train', '--a=b c'],
    env=environ,
    capture_output=True,
    text=True,
    check=True,
  )
  starts = 1 if given else 2
  assert done.stdout.splitlines() == ['3'] * starts + [
    f"{given or WANTED} ['train', '--a=b c']"
  ]
