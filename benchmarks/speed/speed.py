"""Measures how fast every part of this project is, side by side in one run.

Weights and data are noise: nothing needs to be trained or prepared. A part that
cannot be measured says why and does not stop the others. `PARTS` lists them;
the docstring of each says what it does.
"""

from collections.abc import Callable, Sequence
import os
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks.speed import host, input, latency, parts, torch_twins, training
from benchmarks.speed.timing import Found, NotMeasuredError, Series
from echoforge_jax import provenance
from echoforge_jax.errors import InputError
from echoforge_jax.planning import plan
from echoforge_jax.textio import to_json
from echoforge_jax.training.checkpoint import SaveError

# In the order they run: ratios are to parts further up.
PARTS: dict[str, Callable[[parts.Bench], Found]] = {
  'ceiling': parts.ceiling,
  'forward': parts.forward,
  'forward_plain': parts.forward_plain,
  'trunk': parts.trunk,
  'trunk_decoder': parts.trunk_decoder,
  'stream': parts.stream,
  'latency': latency.latency,
  'train': training.train,
  'train_supervised': training.train_supervised,
  'trunk_train': parts.trunk_train,
  'input': input.data_input,
  'starvation': input.starvation,
  'phantom': host.phantom,
  'metrics': host.metrics,
  'checkpoint': host.checkpoints,
  'torch_trunk': torch_twins.torch_trunk,
  'torch_trunk_train': torch_twins.torch_trunk_train,
  'torch_sscf': torch_twins.torch_sscf,
}


def check_parts(names: Sequence[str]) -> tuple[str, ...]:
  """Returns keys of `PARTS` in the order they run, all where none is given."""
  if unknown := sorted(set(names) - set(PARTS)):
    raise InputError(f'--parts: found {unknown[0]!r}; choose from {", ".join(PARTS)}')
  return tuple(name for name in PARTS if name in names or not names)


def measure(
  config: ConfigDict,
  *,
  name: str,
  overrides: Sequence[str] = (),
  names: Sequence[str] = (),
  repeats: int = 10,
  batch: int = 0,
  on_line: Callable[[dict[str, Any]], None] = lambda line: None,
) -> list[dict[str, Any]]:
  """Measures parts, one after another.

  Args:
    config: any config.
    name: of the config, for the lines.
    overrides: flags that changed it, for the lines.
    names: keys of `PARTS`; none means all.
    repeats: measurements of each, after warm-up.
    batch: clips, labeled and unlabeled; 0 takes the config's.
    on_line: called with every line as soon as it is known.

  Returns:
    A line per part, ready for JSON: `skipped` (why, or None), median and quartiles in `unit`,
    `values` (without a spread), `others` (quantities like the line's own), `seconds` that the
    part took, and what it ran on.
  """
  names = check_parts(names)
  if repeats < 1 or batch < 0:
    raise InputError(f'repeats {repeats} and batch {batch}: wanted at least 1')
  if batch:
    config, _ = plan.with_clips(config, 1, batch)
  bench = parts.Bench(config, repeats)
  shared = {
    'config': name,
    'overrides': list(overrides),
    'batch': bench.clips,
    'frames': bench.frames,
    'image_size': bench.image_size,
    'dtype': config.dtype,
    'device': provenance.device_kind(),
    'devices': bench.mesh.size,
    'cpus': os.cpu_count(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'git_revision': provenance.git_revision(),
    'versions': provenance.versions(),
  }
  lines = []
  for part in names:
    if sys.stderr.isatty():
      print(f'{part} ...', file=sys.stderr, flush=True)
    lines.append(to_json({'part': part} | _line(bench, part) | shared))
    on_line(lines[-1])
  return lines


def _line(bench: parts.Bench, part: str) -> dict[str, Any]:
  load, start = list(os.getloadavg()), time.perf_counter()
  found, reason = None, None
  try:
    found = PARTS[part](bench)
    bench.found[part] = found
  except (NotMeasuredError, InputError, SaveError) as error:
    reason = str(error)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    reason = f'out of memory: {str(error).splitlines()[0][:200]}'
  spent = {'load_average': load, 'seconds': time.perf_counter() - start}
  if found is None:
    nothing = dict.fromkeys(Series('', (0.0,)).summary())
    return {'skipped': reason, **nothing, 'values': {}, 'others': {}} | spent
  return {
    'skipped': None,
    **found.main.summary(),
    'values': found.values,
    'others': {name: series.summary() for name, series in found.others.items()},
  } | spent
