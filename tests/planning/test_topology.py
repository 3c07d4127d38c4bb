"""Slices by name, documented peaks, and what a compiler's message says."""

import os
import sys
from unittest import mock

import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.planning import chips, topology

# As libtpu 0.0.42 words them; the second is older compilers' wording.
TOO_LARGE = (
  'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
  'for HLO temporaries (8.00T) exceeds available HBM (15.75G).'
)
OLDER = (
  'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in '
  'memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by '
  '4.75G.'
)


@pytest.mark.parametrize(
  'name, shape, links',
  [
    ('v5e', (1, 1), 0),
    ('v5e', (2, 2), 2),
    ('v5e', (8, 16), 3),
    ('v5e', (16, 16), 4),
    ('v4', (2, 2, 1), 2),
    ('v4', (4, 4, 4), 6),
    ('v5p', (8, 8, 4), 6),
  ],
)
def test_links_of_lines_and_rings(name, shape, links):
  chip = chips.get_chip(name)
  assert chips.exchange_bandwidth(chip, shape) == pytest.approx(links * chip.link_bandwidth)


def test_a_full_pod_sends_over_all_links():
  # The vendor's all-reduce bandwidth of a pod of 256: 51.2 and 102.4 TB/s.
  for name, total in (('v5e', 51.2e12), ('v6e', 102.4e12)):
    assert 256 * chips.exchange_bandwidth(chips.get_chip(name), (16, 16)) == pytest.approx(total)


@pytest.mark.parametrize(
  'message, used, free',
  [
    (TOO_LARGE, 8 * 2**40, 15.75 * 2**30),
    (OLDER, 20.5 * 2**30, 15.75 * 2**30),
    ('INTERNAL: something', 0, 0),
  ],
)
def test_an_out_of_memory_message(message, used, free):
  assert topology.needed(message) == used
  assert topology.available(message) == free


@pytest.mark.parametrize(
  'name, text',
  [
    ('v5e', 'CHIP:SHAPE'),
    ('v5e:axb', 'CHIP:SHAPE'),
    ('v9:2x2', 'choose one of v4'),
    ('v5e:2x2x2', 'has 2 dimensions'),
    ('v4:4x4', 'has 3 dimensions'),
    ('v5e:0x4', '1 to 16384 chips'),
    ('v5e:999x999', '1 to 16384 chips'),
  ],
)
def test_names_that_are_no_slice(name, text):
  with pytest.raises(InputError, match=text):
    topology.get_slice(name)


def test_smaller_slices():
  assert topology.ladder(['v5e:16x16'], True) == ['v5e:2x2', 'v5e:4x4', 'v5e:8x8', 'v5e:16x16']
  assert topology.ladder(['v4:4x4x4', 'v5e:2x2', 'v4:4x4x4'], True) == [
    'v4:2x2x1',
    'v4:4x2x2',
    'v4:4x4x4',
    'v5e:2x2',
  ]
  assert topology.ladder(['local'], True) == ['local']
  assert topology.ladder(['v5e:4x4', 'v6e:4x4'], False) == ['v5e:4x4', 'v6e:4x4']


def test_without_libtpu(monkeypatch, tmp_path):
  monkeypatch.delenv('TPU_LIBRARY_PATH', raising=False)
  monkeypatch.setattr(topology.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(sys, 'prefix', str(tmp_path))
  with pytest.raises(InputError, match='pip install -r requirements-tpu.txt'):
    topology.library_path()
  library = tmp_path / 'tpu' / 'libtpu' / 'libtpu.so'
  library.parent.mkdir(parents=True)
  library.touch()
  assert topology.library_path() == str(library)


def test_the_environment_of_the_compiler(tmp_path):
  library = tmp_path / 'libtpu.so'
  library.touch()
  with mock.patch.dict(
    os.environ,
    {
      'TPU_LIBRARY_PATH': str(library),
      'LIBTPU_INIT_ARGS': '--theirs=1',
      'TPU_WORKER_HOSTNAMES': 'there',
    },
  ):
    for _ in range(2):
      topology.prepare_environment()
      theirs, stack = os.environ['LIBTPU_INIT_ARGS'].split()
      assert theirs == '--theirs=1'
      # 64 KB, its default, overflowed.
      assert int(stack.partition('=')[2]) >= 2**23
    assert os.environ['TPU_WORKER_HOSTNAMES'] == 'there'
    assert os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] == '1'


def test_the_devices_here():
  import jax

  place = topology.get_slice('local')
  assert list(place.devices) == jax.devices()
  assert place.chip is None or place.chip.name in chips.CHIPS


@pytest.mark.parametrize(
  'name, count, kind, gib',
  [
    ('v5e:4x4', 16, 'TPU v5 lite', 15.75),
    ('v5e:1x1', 1, 'TPU v5 lite', 15.75),
    ('v6e:2x4', 8, 'TPU v6 lite', 31.25),
    ('v5p:2x2x2', 8, 'TPU v5', 95.74),
    ('v4:2x2x1', 4, 'TPU v4', 30.75),
  ],
)
def test_slices_that_are_not_here(libtpu, name, count, kind, gib):
  place = topology.get_slice(name)
  assert (len(place.devices), place.kind) == (count, kind)
  # One device a chip; v5p's 95 GiB are rather 96.
  assert place.hbm == pytest.approx(gib * 2**30, rel=1e-3)
  assert 0.95 < place.hbm / place.chip.hbm_bytes < 1.01
