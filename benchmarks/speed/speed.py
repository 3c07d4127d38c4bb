"""How fast every part of this project is here, side by side in one run.

    ceiling         what this machine computes at best
    forward         the config's model on a batch of clips
    forward_plain   the same, convolved and compiled as a training step is
    trunk           its backbone alone
    trunk_decoder   backbone, neck and decoder alone
    stream          one frame of a live stream
    train           a training step on the config's objective
    train_supervised  the same without a teacher
    trunk_train     gradients of the backbone alone
    input           batches from prepared data to the devices
    starvation      training on its input against training on one batch
    phantom         phantom clips and patients
    metrics         scores of a frame
    checkpoint      a training state to disk and back
    torch_trunk     the backbone in torch, where it is installed
    torch_trunk_train  its gradients there
    torch_sscf      SSCF as published, in torch

Weights and data are noise: nothing needs to be trained or prepared. A part that
cannot be measured says why and does not stop the others.
"""

from collections.abc import Callable, Sequence
import os
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks.speed import host as speed_host
from benchmarks.speed import input as speed_input
from benchmarks.speed import parts as speed_parts
from benchmarks.speed import starvation as speed_starvation
from benchmarks.speed import torch_twins as speed_torch
from benchmarks.speed.timing import Found, NotMeasuredError
from echoforge_jax import provenance
from echoforge_jax.errors import InputError
from echoforge_jax.planning import plan
from echoforge_jax.textio import to_json
from echoforge_jax.training.checkpoint import SaveError

# In the order they run: ratios are to parts further up.
PARTS: dict[str, Callable[[speed_parts.Bench], Found]] = {
  'ceiling': speed_parts.ceiling,
  'forward': speed_parts.forward,
  'forward_plain': speed_parts.forward_plain,
  'trunk': speed_parts.trunk,
  'trunk_decoder': speed_parts.trunk_decoder,
  'stream': speed_parts.stream,
  'train': speed_parts.train,
  'train_supervised': speed_parts.train_supervised,
  'trunk_train': speed_parts.trunk_train,
  'input': speed_input.data_input,
  'starvation': speed_starvation.starvation,
  'phantom': speed_host.phantom,
  'metrics': speed_host.metrics,
  'checkpoint': speed_host.checkpoints,
  'torch_trunk': speed_torch.torch_trunk,
  'torch_trunk_train': speed_torch.torch_trunk_train,
  'torch_sscf': speed_torch.torch_sscf,
}
# Of a part that was skipped; `Series.summary` has the same.
_NOTHING = dict.fromkeys(
  (
    'unit',
    'compile_s',
    'repeats',
    'calls_per_repeat',
    'median',
    'min',
    'max',
    'p25',
    'p75',
  )
)


def check_parts(names: Sequence[str]) -> tuple[str, ...]:
  """Names of parts in the order they run.

  Args:
    names: keys of `PARTS`; none means all.

  Returns:
    The same, each once.

  Raises:
    InputError: on an unknown name.
  """
  if unknown := sorted(set(names) - set(PARTS)):
    raise InputError(
      f'--parts: found {unknown[0]!r}; choose from {", ".join(PARTS)}'
    )
  return tuple(name for name in PARTS if name in names or not names)


def measure(
  config: ConfigDict,
  *,
  name: str,
  overrides: Sequence[str] = (),
  parts: Sequence[str] = (),
  repeats: int = 10,
  batch: int = 0,
  on_line: Callable[[dict[str, Any]], None] = lambda line: None,
) -> list[dict[str, Any]]:
  """Measures parts, one after another.

  Args:
    config: a config of `configs/`.
    name: of the config, for the lines.
    overrides: flags that changed it, for the lines.
    parts: keys of `PARTS`; none means all.
    repeats: measurements of each, after warm-up.
    batch: clips B, labeled and unlabeled; 0 takes the config's.
    on_line: called with every line as soon as it is known.

  Returns:
    One JSON-ready line a part: `skipped` (why, or None); `median`, `min`,
    `max`, `p25`, `p75` over `repeats`, in `unit`; `compile_s`; `values`
    (numbers without a spread) and `others` (further quantities like the line's
    own); `seconds` that the part took; and what it ran on.

  Raises:
    InputError: for an argument or a config that cannot be used.
  """
  parts = check_parts(parts)
  if repeats < 1 or batch < 0:
    raise InputError(f'repeats {repeats} and batch {batch}: wanted at least 1')
  if batch:
    config, _ = plan.with_clips(config, 1, batch)
  bench = speed_parts.Bench(config, repeats)
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
  for part in parts:
    if sys.stderr.isatty():
      print(f'{part} ...', file=sys.stderr, flush=True)
    lines.append(to_json({'part': part} | _line(bench, part) | shared))
    on_line(lines[-1])
  return lines


def _line(bench: speed_parts.Bench, part: str) -> dict[str, Any]:
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
    return {'skipped': reason, **_NOTHING, 'values': {}, 'others': {}} | spent
  return {
    'skipped': None,
    **found.main.summary(),
    'values': found.values,
    'others': {name: series.summary() for name, series in found.others.items()},
  } | spent
