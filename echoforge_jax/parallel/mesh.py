"""The data mesh and its shardings: the only place that names mesh axes."""

from collections.abc import Mapping, Sequence
import os

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from echoforge_jax.errors import InputError

DATA_AXIS = 'data'


def split_cpu(num_devices: int) -> None:
  """Makes JAX see the CPU as several devices, for data parallelism on cores.

  XLA runs much of a program on one core; a batch divided between as many
  devices as there are cores keeps them all busy. Call it at the entry point,
  before JAX starts: later, or where XLA_FLAGS already says how many devices
  the host has, it changes nothing. Accelerators are not affected.

  Args:
    num_devices: devices the CPU is split into, at least 1.

  Raises:
    InputError: `num_devices` is not positive.
  """
  if num_devices < 1:
    raise InputError(f'config.cpu_devices is {num_devices}; wanted 1 (the CPU '
                     'as one device) or more')
  if '--xla_force_host_platform_device_count' in os.environ.get(
      'XLA_FLAGS', ''):
    return
  try:
    jax.config.update('jax_num_cpu_devices', num_devices)
  except RuntimeError:  # JAX has started.
    pass


def make_data_mesh(num_devices: int = 0, *,
                   devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A one-dimensional mesh for data parallelism.

  Args:
    num_devices: how many devices to use; 0: all of them.
    devices: the devices to choose from; None: all devices of all processes.

  Returns:
    Mesh with the axis 'data' (automatic sharding propagation).

  Raises:
    InputError: where there are fewer devices than asked for.
  """
  devices = list(jax.devices() if devices is None else devices)
  count = num_devices or len(devices)
  if not 0 < count <= len(devices):
    raise InputError(
        f'config.num_devices asks for {num_devices} devices but '
        f'{len(devices)} are here; wanted 0 (all) to {len(devices)}')
  if jax.process_count() > 1 and count != len(devices):
    raise InputError(
        f'config.num_devices is {num_devices} in a run of '
        f'{jax.process_count()} processes; every process must take part: '
        'set config.num_devices to 0')
  return jax.make_mesh((count,), (DATA_AXIS,),
                       axis_types=(AxisType.Auto,), devices=devices[:count])


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of the state: whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Sharding of a batch: its leading dimension over the data axis."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def local_batch_size(name: str, size: int, process_count: int) -> int:
  """Divides a global batch size among processes.

  Args:
    name: the config field, for the message.
    size: clips over all processes.
    process_count: number of processes.

  Returns:
    Clips a process loads.

  Raises:
    InputError: where it does not divide.
  """
  if size % process_count:
    raise InputError(
        f'config.{name} is {size}, which {process_count} processes cannot '
        f'share equally; set it to a multiple of {process_count}')
  return size // process_count


def check_batch(size: int, mesh: Mesh) -> None:
  """Raises `InputError` unless `size` clips divide over the mesh's devices."""
  count = mesh.shape[DATA_AXIS]
  if size % count:
    below = size // count * count
    nearest = f'{below} or {below + count}' if below else str(count)
    usable = max(n for n in range(1, count + 1) if size % n == 0)
    raise InputError(
        f'a batch of {size} clips (config.batch_size + '
        f'config.unlabeled_batch_size) does not divide over {count} devices; '
        f'make it {nearest}, or set config.num_devices to {usable}')


def put_batch(batch: Mapping[str, np.ndarray],
              sharding: NamedSharding) -> dict[str, jax.Array]:
  """Puts each process's clips on its devices, as one global batch.

  Args:
    batch: numpy arrays [local batch, ...].
    sharding: `batch_sharding` or, for the same batch in every process,
      `replicated`.

  Returns:
    Global arrays [global batch, ...].
  """
  return {
      key: jax.make_array_from_process_local_data(sharding, np.asarray(value))
      for key, value in batch.items()
  }
