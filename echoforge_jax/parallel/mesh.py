"""The mesh and its shardings: the only place that names mesh axes."""

from collections.abc import Mapping, Sequence
import math
import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from echoforge_jax.errors import InputError

DATA_AXIS = 'data'
FSDP_AXIS = 'fsdp'
# Leaves with fewer numbers are whole on every device (ours): a collective costs
# more than their memory.
SPLIT_AT_LEAST = 4096


def split_cpu(num_devices: int) -> None:
  """Makes JAX see the CPU as several devices, for data parallelism on cores.

  XLA runs much of a program on one core; a batch divided between as many devices as there are cores
  keeps them all busy. Call it at the entry point, before JAX starts: later, or where XLA_FLAGS
  already says how many devices the host has, it changes nothing.
  """
  if num_devices < 1:
    raise InputError(
      f'config.cpu_devices is {num_devices}; wanted 1 (the CPU as one device) or more'
    )
  if '--xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
    return
  try:
    jax.config.update('jax_num_cpu_devices', num_devices)
  except RuntimeError:  # JAX has started.
    pass


def make_mesh(
  num_devices: int = 0, fsdp: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Makes a mesh for data parallelism, with the axes 'data' and 'fsdp'.

  A batch is divided over all devices. Groups of `fsdp` devices hold one copy of the state between
  them; with 1 every device holds it whole. `num_devices` 0: all of `devices`, whose None means all
  devices of all processes.
  """
  devices = list(jax.devices() if devices is None else devices)
  count = num_devices or len(devices)
  if not 0 < count <= len(devices):
    raise InputError(
      f'config.num_devices asks for {num_devices} devices but {len(devices)} are here; '
      f'wanted 0 (all) to {len(devices)}'
    )
  if jax.process_count() > 1 and count != len(devices):
    raise InputError(
      f'config.num_devices is {num_devices} in a run of {jax.process_count()} processes; '
      'every process must take part: set config.num_devices to 0'
    )
  if fsdp < 1 or count % fsdp:
    fits = ', '.join(str(n) for n in range(1, count + 1) if count % n == 0)
    raise InputError(
      f'config.fsdp is {fsdp}, which does not divide {count} devices; wanted one of {fits}'
    )
  shape, types = (count // fsdp, fsdp), (AxisType.Auto, AxisType.Auto)
  return jax.make_mesh(shape, (DATA_AXIS, FSDP_AXIS), axis_types=types, devices=devices[:count])


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns a batch's sharding: its leading dimension over all devices."""
  return NamedSharding(mesh, PartitionSpec((DATA_AXIS, FSDP_AXIS)))


def state_sharding(state: Any, mesh: Mesh) -> Any:
  """Returns shardings of a training state, or of any tree of such leaves.

  A leaf is divided over 'fsdp' along its longest dimension that divides, so parameters, their
  averages and their optimizer moments are divided alike. Small leaves, and all where that axis is
  1, are whole.
  """
  shares = mesh.shape[FSDP_AXIS]

  def leaf_sharding(leaf: Any) -> NamedSharding:
    shape = tuple(leaf.shape)
    dividing = [axis for axis, size in enumerate(shape) if size % shares == 0]
    if shares == 1 or math.prod(shape) < SPLIT_AT_LEAST or not dividing:
      return replicated(mesh)
    longest = max(dividing, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, FSDP_AXIS))

  return jax.tree.map(leaf_sharding, state)


def gather(tree: Any, mesh: Mesh) -> Any:
  """Makes values whole on every device, inside jit."""
  return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def scatter(tree: Any, mesh: Mesh) -> Any:
  """Divides values as `state_sharding` says, inside jit."""
  return jax.lax.with_sharding_constraint(tree, state_sharding(tree, mesh))


def microbatches(batch: Any, parts: int, mixture: int, mesh: Mesh | None) -> Any:
  """Cuts a batch into `parts` A on the devices where its rows are, inside jit.

  `batch` is a tree of arrays [B, ...], B a multiple of A times `mixture` times the devices of
  `mesh` (None: one). Labeled and unlabeled clips repeat after `mixture` rows; part a takes every
  A-th such run from the a-th on, whatever the number of devices. Returns arrays [A, B / A, ...],
  divided along the second dimension.
  """

  def cut(x: jax.Array) -> jax.Array:
    rest = x.shape[1:]
    x = x.reshape(-1, parts, mixture, *rest).swapaxes(0, 1).reshape(parts, -1, *rest)
    if mesh is None:
      return x
    sharding = NamedSharding(mesh, PartitionSpec(None, (DATA_AXIS, FSDP_AXIS)))
    return jax.lax.with_sharding_constraint(x, sharding)

  return jax.tree.map(cut, batch)


def local_batch_size(name: str, size: int, process_count: int) -> int:
  """Divides a global batch size, the config field `name`, among processes."""
  if size % process_count:
    raise InputError(
      f'config.{name} is {size}, which {process_count} processes cannot '
      f'share equally; set it to a multiple of {process_count}'
    )
  return size // process_count


def check_batch(labeled: int, mesh: Mesh, unlabeled: int = 0, parts: int = 1) -> None:
  """Checks that a batch divides over the mesh's devices; the error says what would.

  Each of `parts` (`config.grad_accum_steps`) is divided over the devices, and has labeled and
  unlabeled clips in the batch's proportion.
  """
  count, size = mesh.size, labeled + unlabeled
  if size % count:
    below = size // count * count
    nearest = f'{below} or {below + count}' if below else str(count)
    usable = max(n for n in range(1, count + 1) if size % n == 0)
    raise InputError(
      f'a batch of {size} clips (config.batch_size + config.unlabeled_batch_size) does not '
      f'divide over {count} devices; make it {nearest}, or set config.num_devices to {usable}'
    )
  runs = math.gcd(labeled, unlabeled)
  if parts > 1 and runs % (parts * count):
    fits = ['1'] + [str(n) for n in range(2, runs + 1) if runs % (n * count) == 0]
    raise InputError(
      f'config.grad_accum_steps is {parts}: a batch of {labeled} labeled and {unlabeled} '
      f'unlabeled clips cannot be cut into {parts} equal parts on each of {count} devices; '
      f'wanted one of {", ".join(fits)}, or other batch sizes'
    )


def process_place(mesh: Mesh) -> tuple[int, int]:
  """Returns which block of a batch this process loads, and of how many.

  Blocks follow the mesh, whose order of devices need not be that of the processes.
  """
  order = list(dict.fromkeys(d.process_index for d in mesh.devices.flat))
  return order.index(jax.process_index()), len(order)


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
  """Puts each process's clips on its devices, as one global batch."""
  with jax.transfer_guard('allow'):  # Meant, and asked for here.
    return {
      key: jax.make_array_from_process_local_data(sharding, np.asarray(value))
      for key, value in batch.items()
    }


def put_same(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
  """Puts a batch that every process holds whole on the devices."""
  with jax.transfer_guard('allow'):  # Meant, and asked for here.
    return {
      key: jax.make_array_from_callback(np.shape(value), sharding, np.asarray(value).__getitem__)
      for key, value in batch.items()
    }
