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

# Chips that share a host, along each dimension, and so the smallest slice the
# compiler takes by default.
_HOST = (2, 2, 1)
_NAME = re.compile(r'(?P<chip>\w+):(?P<shape>\d+(x\d+){0,2})')
# "exceeds available HBM (15.75G)" or "Used 20.5G of 15.75G hbm".
_SIZE = r'([\d.]+)([KMGT]?)'
_AVAILABLE = re.compile(r'(?:available HBM \(|Used [\d.]+[KMGT]? of )' + _SIZE, re.IGNORECASE)
_NEEDED = re.compile(r'(?:Used |total memory required for [\w ]+\()' + _SIZE, re.IGNORECASE)
# The compiler's threads have 64 KB, in which it recurses: on v6e the step of
# camus_echoforge overflowed them.
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
  """Devices to compile for.

  Attributes:
    name: such as 'v5e:4x4', or 'local'.
    chip: its documented peaks; None where they are not known.
    kind: what the backend calls the device.
    shape: chips along each dimension.
    devices: one a chip.
    hbm: bytes a program can use on a chip; 0: not known.
  """

  name: str
  chip: chips.Chip | None
  kind: str
  shape: tuple[int, ...]
  devices: Sequence[jax.Device]
  hbm: int


def library_path() -> str:
  """Finds the compiler for TPUs: TPU_LIBRARY_PATH, the package, `.venv/tpu`.

  `make test` keeps it in the virtual environment's `tpu` folder and so out of
  the import path: JAX looks for a TPU at every start where it can import
  libtpu, and says at length that there is none.

  Raises:
    InputError: it is in none of these places.
  """
  given = os.environ.get('TPU_LIBRARY_PATH')
  places = [Path(given)] if given else []
  package = util.find_spec('libtpu')
  if package and package.origin:
    places.append(Path(package.origin).with_name('libtpu.so'))
  places.append(Path(sys.prefix) / 'tpu' / 'libtpu' / 'libtpu.so')
  for place in places:
    if place.is_file():
      return str(place)
  raise InputError(
    'a plan for TPUs needs their compiler, libtpu: pip install -r requirements-tpu.txt'
  )


def prepare_environment() -> None:
  """Lets libtpu compile where there is no TPU; once, at the entry point.

  No metadata server is asked, no log folder made, and no lock taken: the lock
  guards chips, and none is used.

  Raises:
    InputError: libtpu is missing.
  """
  os.environ['TPU_LIBRARY_PATH'] = library_path()
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
    ('TPU_LOG_DIR', 'disabled'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-4'),
  ):
    os.environ.setdefault(name, value)
  given = os.environ.get('LIBTPU_INIT_ARGS', '')
  if _STACK not in given:
    os.environ['LIBTPU_INIT_ARGS'] = f'{given} {_STACK}={2**26}'.strip()


def get_slice(name: str) -> Slice:
  """Returns a slice by its name.

  Args:
    name: 'CHIP:SHAPE' such as 'v5e:16x16' or 'v4:4x4x4', or 'local': the
      devices of JAX's default backend. For all but 'local',
      `prepare_environment` comes first.

  Raises:
    InputError: no such chip or shape, or libtpu does not load.
  """
  if name == 'local':
    return _local()
  match = _NAME.fullmatch(name)
  if not match:
    raise InputError(f'--topology={name}: wanted CHIP:SHAPE such as v5e:4x4 or v4:4x4x4, or local')
  chip = chips.get_chip(match['chip'])
  shape = tuple(int(n) for n in match['shape'].split('x'))
  if len(shape) != chip.dimensions or not 0 < math.prod(shape) <= 2**14:
    raise InputError(
      f'--topology={name}: {chip.name} has {chip.dimensions} dimensions, as '
      f'in {chip.name}:{"x".join(["4"] * chip.dimensions)}, and plans are '
      f'for 1 to {2**14} chips'
    )
  host = tuple(math.gcd(n, most) for n, most in zip(shape + (1,), _HOST, strict=False))
  try:
    devices = topologies.get_topology_desc(
      platform='tpu', topology_name=name, chips_per_host_bounds=host, **chip.options
    ).devices
  except (RuntimeError, ValueError) as error:
    raise InputError(f'--topology={name}: {first_line(error)}') from error
  kind, free = devices[0].device_kind, usable_memory(devices[0])
  return Slice(name, chip, kind, shape, devices, free)


def ladder(names: Sequence[str], scaling: bool) -> list[str]:
  """Lists the slices to plan for.

  Args:
    names: of slices.
    scaling: add smaller slices of each: the longest side halved again and
      again, down to a host of four chips.

  Returns:
    Names, each once, smaller slices before larger ones where they are added.
  """
  found: list[str] = []
  for name in names:
    steps = [name]
    match = _NAME.fullmatch(name)
    if scaling and match:
      shape = [int(n) for n in match['shape'].split('x')]
      while math.prod(shape) > 4:
        # Two halvings: four times fewer chips a line.
        for _ in range(2):
          longest = max(range(len(shape)), key=lambda n: (shape[n], n))
          shape[longest] = max(shape[longest] // 2, 1)
        steps.insert(0, f'{match["chip"]}:{"x".join(map(str, shape))}')
    found += [step for step in steps if step not in found]
  return found


def library_version() -> dict[str, str]:
  """Returns {'libtpu': VERSION}; {} where none is used."""
  path = os.environ.get('TPU_LIBRARY_PATH')
  if not path:
    return {}
  folder = Path(path).parents[1]
  return {
    found.metadata['Name']: found.version
    for found in metadata.distributions(path=[str(folder)])
    if found.metadata['Name'] == 'libtpu'
  }


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
  """Asks the compiler how many bytes a program can use on a chip (ours).

  It names the limit where a program is too large: one that could fit nowhere
  makes it tell, in less than a second. 0 where it does not say.
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
