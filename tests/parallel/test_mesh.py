"""The data mesh: sizes that divide, and errors that say what to do."""

import os
import subprocess
import sys

import jax
from jax.sharding import AxisType, PartitionSpec
import numpy as np
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import collectives

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason='needs eight devices')


def test_the_mesh_has_two_automatic_axes():
  mesh = mesh_lib.make_mesh(4)
  assert dict(mesh.shape) == {'data': 4, 'fsdp': 1}
  assert mesh.axis_types == (AxisType.Auto,) * 2
  assert dict(mesh_lib.make_mesh(8, 4).shape) == {'data': 2, 'fsdp': 4}
  assert mesh_lib.make_mesh().size == jax.device_count()
  assert mesh_lib.replicated(mesh).spec == PartitionSpec()


@pytest.mark.parametrize('fsdp', [1, 4])
def test_a_batch_is_split_over_its_clips(fsdp):
  mesh = mesh_lib.make_mesh(8, fsdp)
  video = np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)
  placed = mesh_lib.put_batch({'video': video}, mesh_lib.batch_sharding(mesh))
  shards = placed['video'].addressable_shards
  assert len(shards) == 8 and shards[0].data.shape == (2, 3)
  np.testing.assert_array_equal(placed['video'], video)


@pytest.mark.parametrize(
  'size, text',
  [
    (
      12,
      r'12 clips .* 8 devices; make it 8 or 16, or set '
      r'config.num_devices to 6',
    ),
    (4, r'4 clips .* 8 devices; make it 8, or set config.num_devices to 4'),
  ],
)
def test_a_batch_that_does_not_divide(size, text):
  mesh = mesh_lib.make_mesh(8)
  with pytest.raises(InputError, match=text):
    mesh_lib.check_batch(size, mesh)
  mesh_lib.check_batch(16, mesh)


@pytest.mark.parametrize(
  'sizes, parts, fits', [((16, 0), 3, '1, 2,'), ((16, 16), 4, '1, 2,'), ((16, 8), 2, '1,')]
)
def test_parts_that_do_not_divide(sizes, parts, fits):
  mesh = mesh_lib.make_mesh(8)
  with pytest.raises(InputError, match=f'{parts} equal parts .* one of {fits}'):
    mesh_lib.check_batch(sizes[0], mesh, sizes[1], parts)
  mesh_lib.check_batch(16, mesh, 0, 2)


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_parts_do_not_depend_on_devices_and_move_nothing(devices):
  mesh = mesh_lib.make_mesh(devices)
  split = mesh_lib.batch_sharding(mesh)
  rows = np.arange(16, dtype=np.int32)  # Even ones labeled, odd ones not.
  placed = mesh_lib.put_batch({'x': rows}, split)
  cut = jax.jit(lambda batch: mesh_lib.microbatches(batch, 2, 2, mesh))
  parts = cut(placed)['x']
  np.testing.assert_array_equal(parts, [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]])
  assert parts.sharding.shard_shape(parts.shape) == (2, 8 // devices)
  assert not collectives.find_exchanges(cut.lower(placed).compile().as_text())


def test_more_devices_than_there_are():
  with pytest.raises(InputError, match='asks for 99 devices but'):
    mesh_lib.make_mesh(99)


@pytest.mark.parametrize('fsdp', [0, 3, 16])
def test_shares_that_do_not_divide(fsdp):
  with pytest.raises(InputError, match=rf'fsdp is {fsdp}, .* of 1, 2, 4, 8'):
    mesh_lib.make_mesh(8, fsdp)


def test_large_leaves_are_divided_along_their_longest_axis():
  state = {
    name: jax.ShapeDtypeStruct(shape, np.float32)
    for name, shape in {
      'kernel': (3, 3, 64, 128),
      'odd': (7, 999),
      'tall': (4096, 3),
      'square': (64, 64),
      'bias': (128,),
      'step': (),
    }.items()
  }
  specs = {
    name: sharding.spec
    for name, sharding in mesh_lib.state_sharding(state, mesh_lib.make_mesh(8, 4)).items()
  }
  assert specs == {
    'kernel': PartitionSpec(None, None, None, 'fsdp'),
    'odd': PartitionSpec(),
    'tall': PartitionSpec('fsdp'),
    'square': PartitionSpec('fsdp'),
    'bias': PartitionSpec(),
    'step': PartitionSpec(),
  }
  whole = mesh_lib.state_sharding(state, mesh_lib.make_mesh(8))
  assert all(s.spec == PartitionSpec() for s in whole.values())


def test_processes_share_a_batch_equally():
  assert mesh_lib.local_batch_size('batch_size', 12, 4) == 3
  with pytest.raises(InputError, match='batch_size is 10, which 4 processes'):
    mesh_lib.local_batch_size('batch_size', 10, 4)


@pytest.mark.slow
def test_split_cpu():
  code = (
    'from echoforge_jax.parallel import mesh; mesh.split_cpu(3); '
    'import jax; print(jax.device_count())'
  )
  for flags, count in (('', 3), ('--xla_force_host_platform_device_count=2', 2)):
    out = subprocess.run(
      [sys.executable, '-c', code],
      check=True,
      capture_output=True,
      text=True,
      env=os.environ | {'XLA_FLAGS': flags},
    )
    assert int(out.stdout) == count
  with pytest.raises(InputError, match='cpu_devices is 0'):
    mesh_lib.split_cpu(0)
  before = jax.device_count()
  mesh_lib.split_cpu(before + 1)  # JAX has started here: nothing changes.
  assert jax.device_count() == before
