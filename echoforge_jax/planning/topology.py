"""Slices of chips that need not be here: devices to compile for."""

from collections.abc import Sequence
import dataclasses
from importlib import metadata, util
import math
import os
from pathlib import Path
import re
import sys

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from echoforge_jax.errors import InputError
from echoforge_jax.planning import chips
from echoforge_jax.textio import first_line

# Chips that share a host, along each dimension: the compiler's smallest slice by default.
_HOST = (2, 2, 1)
_NAME = re.compile(r'(?P<chip>\w+):(?P<shape>\d+(x\d+){0,2})')
# "exceeds available HBM (15.75G)" or "Used 20.5G of 15.75G hbm".
_SIZE = r'([\d.]+)([KMGT]?)'
_AVAILABLE = re.compile(r'(?:available HBM \(|Used [\d.]+[KMGT]? of )' + _SIZE, re.IGNORECASE)
_NEEDED = re.compile(r'(?:Used |total memory required for [\w ]+\()' + _SIZE, re.IGNORECASE)
# The compiler recurses in threads of 64 KB: on v6e the step of camus_echoforge overflowed them.
_STACK = '--fibers_default_thread_stack_size'
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# What a TPU that is here calls itself.
_KINDS = {
  'TPU v4': 'v4',
  'TPU v5 lite': 'v5e',
  'TPU v5': 'v5p',
  'TPU v5p': 'v5p',
  'TPU v6 lite': 'v6e',
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Devices to compile for, one per chip."""

  name: str  # Such as 'v5e:4x4', or 'local'.
  chip: chips.Chip | None  # None where its peaks are not known.
  kind: str  # The backend's name of the device.
  shape: tuple[int, ...]
  devices: Sequence[jax.Device]
  hbm: int  # Bytes that a program can use on a chip; 0: not known.


def library_path() -> str:
  """Finds the compiler for TPUs: TPU_LIBRARY_PATH, the package, `.venv/tpu`.

  `make test` keeps it in the `tpu` folder, out of the import path: where JAX can import libtpu,
  it looks for a TPU at every start and says at length that there is none.
  """
  package = util.find_spec('libtpu')
  for path in (
    os.environ.get('TPU_LIBRARY_PATH'),
    package and package.origin and Path(package.origin).with_name('libtpu.so'),
    Path(sys.prefix, 'tpu', 'libtpu', 'libtpu.so'),
  ):
    if path and Path(path).is_file():
      return str(path)
  raise InputError(
    'a plan for TPUs needs their compiler, libtpu: pip install -r requirements-tpu.txt'
  )


def prepare_environment() -> None:
  """Lets libtpu compile where there is no TPU; call it once, at the entry point."""
  os.environ['TPU_LIBRARY_PATH'] = library_path()
  for name, value in {
    'TPU_SKIP_MDS_QUERY': '1',  # Asks no metadata server.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # Takes no lock: it guards chips, and none is used.
    'TPU_LOG_DIR': 'disabled',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  }.items():
    os.environ.setdefault(name, value)
  given = os.environ.get('LIBTPU_INIT_ARGS', '')
  if _STACK not in given:
    os.environ['LIBTPU_INIT_ARGS'] = f'{given} {_STACK}={2**26}'.strip()


def get_slice(name: str) -> Slice:
  """Returns the slice called 'CHIP:SHAPE', such as 'v4:4x4x4', or 'local'.

  The latter has the devices of JAX's default backend; others need `prepare_environment` first.
  """
  if name == 'local':
    return _local()
  match = _NAME.fullmatch(name)
  if not match:
    raise InputError(f'--topology={name}: wanted CHIP:SHAPE such as v5e:4x4 or v4:4x4x4, or local')
  chip = chips.get_chip(match['chip'])
  shape = tuple(int(n) for n in match['shape'].split('x'))
  if len(shape) != chip.dimensions or not 0 < math.prod(shape) <= 2**14:
    example = f'{chip.name}:{"x".join(["4"] * chip.dimensions)}'
    raise InputError(
      f'--topology={name}: {chip.name} has {chip.dimensions} dimensions, as '
      f'in {example}, and plans are for 1 to {2**14} chips'
    )
  host = tuple(math.gcd(n, most) for n, most in zip(shape + (1,), _HOST, strict=False))
  try:
    devices = topologies.get_topology_desc(
      platform='tpu', topology_name=name, chips_per_host_bounds=host, **chip.options
    ).devices
  except (RuntimeError, ValueError) as error:
    raise InputError(f'--topology={name}: {first_line(error)}') from error
  return Slice(name, chip, devices[0].device_kind, shape, devices, usable_memory(devices[0]))


def ladder(names: Sequence[str], scaling: bool) -> list[str]:
  """Lists the slices to plan for, each once.

  `scaling` adds smaller slices before each: the longest side is halved down to four chips.
  """
  found: list[str] = []
  for name in names:
    steps = [name]
    match = _NAME.fullmatch(name)
    if scaling and match:
      shape = [int(n) for n in match['shape'].split('x')]
      while math.prod(shape) > 4:
        for _ in range(2):  # Four times fewer chips per line.
          longest = max(range(len(shape)), key=lambda n: (shape[n], n))
          shape[longest] = max(shape[longest] // 2, 1)
        steps.insert(0, f'{match["chip"]}:{"x".join(map(str, shape))}')
    found += [step for step in steps if step not in found]
  return found


def library_version() -> dict[str, str]:
  """Returns {'libtpu': VERSION}; {} where none is used."""
  path = os.environ.get('TPU_LIBRARY_PATH')
  folders = [str(Path(path).parents[1])] if path else []
  found = metadata.distributions(name='libtpu', path=folders)
  return {x.metadata['Name']: x.version for x in found}


def _local() -> Slice:
  devices = jax.devices()
  kind = devices[0].device_kind
  stats = devices[0].memory_stats() or {}
  free = int(stats.get('bytes_limit', 0))
  if devices[0].platform == 'cpu':
    free = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // len(devices)
  chip = chips.CHIPS.get(_KINDS.get(kind, ''))
  return Slice('local', chip, kind, (len(devices),), devices, free)


def usable_memory(device: jax.Device) -> int:
  """Asks the compiler how many bytes a program can use on a chip (ours); 0: not known.

  It names the limit in its refusal of a program that could fit nowhere.
  """
  huge = jax.ShapeDtypeStruct((2**20, 2**20), 'float32', sharding=SingleDeviceSharding(device))
  try:
    jax.jit(lambda x: x + 1).lower(huge).compile()
  except jax.errors.JaxRuntimeError as error:
    return available(str(error))
  return 0


def available(message: str) -> int:
  """Reads the bytes there are from an out-of-memory message, or 0."""
  return _size(_AVAILABLE, message)


def needed(message: str) -> int:
  """Reads the bytes wanted from an out-of-memory message, or 0."""
  return _size(_NEEDED, message)


def _size(pattern: re.Pattern, message: str) -> int:
  found = pattern.search(message)
  return int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
