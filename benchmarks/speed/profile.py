"""Where a step's time goes: the operations that take most of it.

The step runs a few times under `jax.profiler`; the trace says how long each
operation of the compiled program ran, the program itself what it is and which
line of the model it comes from.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
import contextlib
import dataclasses
import pathlib
import re
import tempfile
import time
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict
import numpy as np

from benchmarks.speed import parts as speed_parts
from echoforge_jax import cpu, provenance
from echoforge_jax.errors import InputError
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import plan
from echoforge_jax.training import build, steps

TARGETS = ('train', 'forward', 'stream')
TOP = 10
# By backend. Eigen's threads work on after an operation has ended as the trace
# sees it: on a CPU each operation gets one core, so that its whole time counts.
# On a GPU a graph of kernels is launched as a whole, and their names are lost.
_OPTIONS = {
  'cpu': {'xla_cpu_multi_thread_eigen': False},
  'gpu': {'xla_gpu_enable_command_buffer': ''},
}
# Operations that only contain others, which the trace has as well.
_CONTAINERS = ('while', 'conditional', 'call', 'async-start', 'async-done')
_COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'all-to-all',
  'reduce-scatter',
  'collective-permute',
  'collective-broadcast',
)
_COPIES = (
  'copy',
  'copy-start',
  'copy-done',
  'transpose',
  'concatenate',
  'slice',
  'pad',
  'reverse',
  'reshape',
  'dynamic-slice',
  'dynamic-update-slice',
  'gather',
  'bitcast-convert',
)
# What an operation is called after: the first of these that it contains.
_KINDS = (
  ('convolution', ('convolution',)),
  ('matrix product', ('dot',)),
  ('collective', _COLLECTIVES),
  ('sort', ('sort', 'topk')),
  ('scatter', ('scatter', 'select-and-scatter')),
  ('reduction', ('reduce', 'reduce-window')),
)
_LIBRARIES = (
  ('conv', 'convolution'),
  ('gemm', 'matrix product'),
  ('matmul', 'matrix product'),
  ('topk', 'sort'),
)
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) .*\{$')
_INSTRUCTION = re.compile(
  r'^\s+(?:ROOT )?%?([\w.\-]+) = .*?[\]})] ([a-z][\w\-]*)\('
)
_CALLED = re.compile(r'calls=%?([\w.\-]+)')
_LIBRARY = re.compile(r'custom_call_target="([^"]*)"')
_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """An operation of a compiled program.

  Attributes:
    opcode: XLA's.
    kind: in words, such as 'convolution fusion'.
    where: modules of the model, such as 'backbone/layer1_0/conv2'; '' where
      the compiler does not say.
    backward: whether it belongs to the gradient.
    others: from how many further places operations were joined with it, as
      all-reduces are.
  """

  opcode: str
  kind: str
  where: str
  backward: bool
  others: int = 0


def instructions(text: str) -> dict[str, Instruction]:
  """The operations of a program by name.

  Args:
    text: of `compiled.as_text()`.

  Returns:
    Those of all its computations.
  """
  contents, sources, lines, here = {}, {}, {}, ''
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      here = found[1]
      contents[here] = []
    elif found := _INSTRUCTION.match(line):
      lines[found[1]] = (found[2], line)
      contents.setdefault(here, []).append(found[2])
      if source := _SOURCE.search(line):
        sources.setdefault(here, source[1])
  known = {}
  for name, (opcode, line) in lines.items():
    called = _CALLED.search(line)
    inside = contents.get(called[1], []) if called else [opcode]
    library, source = _LIBRARY.search(line), _SOURCE.search(line)
    # A fusion that the compiler made up says at most inside where it is from.
    source = source[1] if source else called and sources.get(called[1])
    first, *others = (
      dict.fromkeys(where(one) for one in origins(source))
      if source
      else [('', False)]
    )
    known[name] = Instruction(
      opcode,
      _kind(opcode, inside, library[1] if library else ''),
      *first,
      len(others),
    )
  return known


def _kind(opcode: str, inside: list[str], library: str) -> str:
  for part, kind in _LIBRARIES:
    if part in library.lower():
      return kind
  bare = {one.removesuffix('-start').removesuffix('-done') for one in inside}
  fusion = ' fusion' if opcode == 'fusion' else ''
  for kind, opcodes in _KINDS:
    if bare.intersection(opcodes):
      return kind + fusion
  if bare <= {*_COPIES, 'bitcast', 'parameter', 'constant'}:
    return 'copy'
  return 'elementwise' + fusion if fusion or not library else library


def origins(source: str) -> list[str]:
  """Names of the operations that the compiler joined into one.

  Args:
    source: as XLA writes it: 'jit(step)/(A/reduce_sum:B/c/dot_general)', or
      one name alone.

  Returns:
    What `where` takes, each with what they have in common.
  """
  head, found, joined = ('/' + source).partition('/(')
  if not found or not joined.endswith(')') or ':' not in joined:
    return [source]
  return [f'{head}/{one}'[1:] for one in joined[:-1].split(':')]


def where(source: str) -> tuple[str, bool]:
  """Modules of the model that an operation comes from.

  Args:
    source: as JAX names it, such as
      'jit(step)/transpose(jvp(Net))/backbone/conv1/conv_general_dilated'.

  Returns:
    Names of the modules below the model itself, joined by '/', or the
    primitive alone outside of it; and whether it is part of the gradient.
  """
  backward = 'transpose(' in source
  parts = [
    part
    for part in re.sub(
      r'[a-z_]*\([^()/]*\)/',
      '',
      re.sub(
        r'(?:transpose|jvp|vmap|remat|checkpoint)\(+([^()/]*)\)+', r'\1', source
      ),
    ).split('/')
    if part and '(' not in part and ')' not in part
  ]
  # A class is not where, but what: EchoForge, SSCF._segment.
  modules = [
    part
    for part in parts[:-1]
    if part[0].islower()
    and part not in ('closed_call', 'while', 'body', 'checkpoint')
    and not part.startswith('branch_')
  ]
  return '/'.join(modules) or ''.join(parts[-1:]), backward


@dataclasses.dataclass(frozen=True)
class Event:
  """One run of an operation.

  Attributes:
    name: of the operation.
    start: nanoseconds.
    end: nanoseconds.
  """

  name: str
  start: float
  end: float


def read_trace(folder: pathlib.Path) -> list[list[Event]]:
  """What ran when, by device.

  Args:
    folder: that `jax.profiler` wrote to.

  Returns:
    The events of every device that has any; those of all CPU devices together.

  Raises:
    InputError: this JAX cannot read traces, or there is none.
  """
  if not hasattr(jax.profiler, 'ProfileData'):
    raise InputError(
      f'bench profile: JAX {jax.__version__} has no jax.profiler.ProfileData '
      'to read traces with; install jax of requirements.txt, or open the '
      'trace of --trace=DIR in XProf'
    )
  planes = []
  for file in sorted(folder.rglob('*.xplane.pb')):
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
      if plane.name.startswith(('/device:', '/host:CPU')):
        planes.append(list(_events(plane)))
  if not any(planes):
    raise InputError(
      f'bench profile: {folder} has no operation of any device; '
      'wanted a trace that jax.profiler wrote'
    )
  return [events for events in planes if events]


def _events(plane: Any) -> Iterable[Event]:
  for line in plane.lines:
    # TPUs have lines of whole steps and modules beside the one of operations.
    if plane.name.startswith('/device:TPU') and line.name != 'XLA Ops':
      continue
    for event in line.events:
      name = dict(event.stats).get('hlo_op')
      if name is None and line.name == 'XLA Ops':
        name = event.name.split(' ')[0]
      if name:
        yield Event(
          str(name).removeprefix('%'),
          event.start_ns,
          event.start_ns + event.duration_ns,
        )


def shares(
  events: Iterable[Event], seconds: float
) -> tuple[dict[str, float], float]:
  """Divides the time of a device among its operations.

  Where several run at once, each gets an equal part of the time.

  Args:
    events: of one device.
    seconds: that passed.

  Returns:
    Share of each operation, and the share in which none ran; the sum is 1.
  """
  edges = sorted(
    [(event.start, 1, event.name) for event in events]
    + [(event.end, -1, event.name) for event in events]
  )
  running, spent, before = Counter(), Counter(), 0.0
  for now, step, name in edges:
    if (count := running.total()) and now > before:
      for one, times in running.items():
        spent[one] += times * (now - before) / count
    before = now
    running[name] += step
    if not running[name]:
      del running[name]
  whole = max(1e9 * seconds, spent.total())
  return (
    {name: value / whole for name, value in spent.items()},
    1 - spent.total() / whole,
  )


def summarise(
  devices: list[list[Event]],
  known: Mapping[str, Instruction],
  seconds: float,
  repeats: int,
) -> dict[str, Any]:
  """The operations that take longest.

  Args:
    devices: of `read_trace`.
    known: of `instructions`; operations of other programs do not count.
    seconds: of all repeats.
    repeats: of the program.

  Returns:
    `uncovered` (share in which no operation ran), `kinds` (share by kind),
    `parts` (share by module of the model, forward and gradient apart) and
    `operations`: all of them, the largest share first, each with `op`, `kind`,
    `calls` and `ms` a step and device, `share`, `where`, `others` and
    `pass`.
  """
  spent, taken, calls, uncovered = Counter(), Counter(), Counter(), 0.0
  for events in devices:
    events = [
      event
      for event in events
      if event.name in known and known[event.name].opcode not in _CONTAINERS
    ]
    found, idle = shares(events, seconds)
    spent.update(found)
    uncovered += idle / len(devices)
    for event in events:
      taken[event.name] += event.end - event.start
      calls[event.name] += 1
  each, kinds, parts = len(devices), Counter(), Counter()
  for name, share in spent.items():
    kinds[known[name].kind] += share / each
    parts[_part(known[name])] += share / each
  return {
    'uncovered': uncovered,
    'kinds': dict(kinds.most_common()),
    'parts': dict(parts.most_common()),
    'operations': [
      {
        'op': name,
        'kind': known[name].kind,
        'calls': calls[name] / repeats / each,
        'ms': taken[name] / 1e6 / repeats / each,
        'share': share / each,
        'where': known[name].where,
        'others': known[name].others,
        'pass': 'backward' if known[name].backward else 'forward',
      }
      for name, share in spent.most_common()
    ],
  }


def _part(instruction: Instruction) -> str:
  """Its top module, below the branch of a condition that it is in."""
  names = [name for name in instruction.where.split('/') if name != 'cond']
  return (names[0] if names else '?') + ' gradient' * instruction.backward


def _program(
  bench: speed_parts.Bench, target: str
) -> tuple[Any, Callable[[Any], Any]]:
  """The compiled step, and one call of it, given what the last one returned."""
  options = _OPTIONS.get(jax.default_backend())
  model = bench.model
  if target == 'train':
    parts = build.make_parts(bench.config, model, bench.mesh)
    state, sharding = speed_parts.make_state(bench.config, parts, bench.mesh)
    split = mesh_lib.batch_sharding(bench.mesh)
    batch = speed_parts.host_batch(bench.config)
    batch = mesh_lib.put_batch(
      {key: batch[key] for key in parts.batch_keys}, split
    )
    done = (
      steps.jit_train_step(parts.train_step, sharding, split)
      .lower(state, batch)
      .compile(compiler_options=options)
    )
    return done, lambda last: done(last[0] if last else state, batch)
  variables = bench.variables(model, bench.video[:1], train=False)
  if target == 'forward':
    done = (
      cpu.jit(
        lambda values, video: model.apply(values, video, train=False)['logits']
      )
      .lower(variables, bench.video)
      .compile(compiler_options=options)
    )
    return done, lambda last: done(variables, bench.video)
  from echoforge_jax.inference import segmenter

  here = SingleDeviceSharding(bench.mesh.devices.flat[0])
  side = bench.image_size
  variables, frame, memory = jax.device_put(
    (
      variables,
      np.random.default_rng(0).integers(0, 256, (side, side), np.uint8),
      model.init_memory(1, (side, side)),
    ),
    here,
  )
  done = (
    segmenter.jit_frame_step()
    .lower(model, variables, frame, memory)
    .compile(compiler_options=options)
  )
  return done, lambda last: done(variables, frame, last[1] if last else memory)


def measure(
  config: ConfigDict,
  *,
  name: str,
  target: str = 'train',
  repeats: int = 3,
  batch: int = 0,
  trace: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Runs a config's step under the profiler, on noise.

  Args:
    config: a config of `configs/`.
    name: of the config, for the result.
    target: one of `TARGETS`: the training step, the model on a batch of clips,
      or one frame of a stream.
    repeats: of the step in the trace, after two that are not.
    batch: clips B, labeled and unlabeled; 0 takes the config's.
    trace: folder to keep the trace and the program in; None keeps neither.

  Returns:
    As `summarise`, with `step_ms` (traced; on a CPU with one core an
    operation) and what it ran on.

  Raises:
    InputError: an argument or a config cannot be used, or the trace not read.
  """
  if target not in TARGETS:
    raise InputError(
      f'bench profile: found {target!r}, wanted one of {", ".join(TARGETS)}'
    )
  if batch:
    config, _ = plan.with_clips(config, 1, batch)
  if trace and any(trace.rglob('*.xplane.pb')):
    raise InputError(
      f'--trace={trace}: found a trace in it already; wanted a '
      'folder without any'
    )
  bench = speed_parts.Bench(config, 1)
  program, call = _program(bench, target)
  last = None
  for _ in range(2):
    last = jax.block_until_ready(call(last))
  with contextlib.ExitStack() as stack:
    folder = trace or pathlib.Path(
      stack.enter_context(tempfile.TemporaryDirectory())
    )
    # Before the trace, which may turn out unreadable.
    text = program.as_text()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'program.txt').write_text(text)
    with jax.profiler.trace(str(folder)):
      start = time.perf_counter()
      for _ in range(repeats):
        last = jax.block_until_ready(call(last))
      seconds = time.perf_counter() - start
    devices = read_trace(folder)
  return summarise(devices, instructions(text), seconds, repeats) | {
    'step_ms': 1000 * seconds / repeats,
    'target': target,
    'config': name,
    'batch': bench.clips,
    'frames': bench.frames,
    'image_size': bench.image_size,
    'dtype': config.dtype,
    'device': provenance.device_kind(),
    'devices': bench.mesh.size,
    'git_revision': provenance.git_revision(),
    'versions': provenance.versions(),
  }


def lines(found: Mapping[str, Any], top: int = TOP) -> list[dict[str, Any]]:
  """JSON-ready lines: the whole step, then its largest operations.

  Args:
    found: of `measure`.
    top: how many operations.

  Returns:
    The lines.
  """
  rest = {key: value for key, value in found.items() if key != 'operations'}
  same = {key: rest[key] for key in ('target', 'config', 'batch', 'device')}
  return [rest, *({**same, **one} for one in found['operations'][:top])]


def table(found: Mapping[str, Any], top: int = TOP) -> str:
  """The step and its largest operations as text.

  Args:
    found: of `measure`.
    top: how many operations.

  Returns:
    Lines without a trailing newline.
  """
  from echoforge_jax import textio

  rows = [('share', 'ms', 'calls', 'kind', 'pass', 'where', 'operation')]
  rows += [
    (
      f'{one["share"]:.1%}',
      f'{one["ms"]:.3g}',
      f'{one["calls"]:g}',
      one['kind'],
      one['pass'],
      (one['where'] or '?')
      + f' and {one["others"]} more' * bool(one['others']),
      one['op'],
    )
    for one in found['operations'][:top]
  ]
  kinds, parts = (
    ', '.join(
      f'{name} {share:.1%}'
      for name, share in found[key].items()
      if share > 5e-4
    )
    for key in ('kinds', 'parts')
  )
  return '\n'.join(
    [
      f'{found["target"]} of {found["config"]}: batch {found["batch"]}, '
      f'{found["frames"]} frames of {found["image_size"]}x'
      f'{found["image_size"]}, {found["dtype"]}, on {found["device"]}: '
      f'{found["step_ms"]:.3g} ms a step while traced',
      *textio.columns(rows),
      f'  by kind: {kinds}',
      f'  by part: {parts}',
      f'  no operation ran in {found["uncovered"]:.1%} of the step',
    ]
  )
