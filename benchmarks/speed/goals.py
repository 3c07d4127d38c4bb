"""Goals of speed, set against what `table.py` measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence

# Clips a batch, of an accelerator's cases.
BATCHES = (4, 8, 16, 32, 64)
# Of the batch on which models and steps are set in relation.
MIDDLE = 16

# Median and middle half, or one number without a spread.
Measured = tuple[float, ...] | None
# Quantity, what was measured, goal, and whether less is better.
Goal = tuple[str, Measured, float | None, bool]


class Lines:
  """Measured lines of all cases, to be asked for quantities."""

  def __init__(self, lines: Sequence[Mapping]):
    self.lines = lines

  def part(self, case: str, part: str) -> Mapping | None:
    """Returns a measurement; None where it was not made."""
    return next(
      (x for x in self.lines if x['case'] == case and x.get('part') == part and x.get('median')),
      None,
    )

  def median(self, case: str, part: str, amount: float = 0) -> Measured:
    """Returns a rate; where `amount` is given, the duration it takes."""
    line = self.part(case, part)
    if line is None:
      return None
    found = [line[name] for name in ('median', 'p25', 'p75')]
    if not amount:
      return tuple(found)
    low, median, high = sorted(amount / x for x in found)
    return median, low, high

  def value(self, case: str, part: str, name: str) -> Measured:
    """Returns a number without a spread."""
    line = self.part(case, part)
    found = line and line['values'].get(name)
    return None if found is None else (found,)

  def best(self, prefix: str, part: str, of: Callable[[str], Measured]) -> Measured:
    """Returns the largest over the batch sizes."""
    cases = [f'{prefix}_{batch}' for batch in BATCHES]
    found = [of(case) for case in cases if self.part(case, part)]
    return max(filter(None, found), default=None)

  def dice(self) -> Measured:
    """Returns LV Dice after the whole training, and its interval."""
    found = next((x['metrics'] for x in self.lines if 'metrics' in x), None)
    if not found:
      return None
    dice = found['classes']['lv']['dice']
    return (dice['mean'], *(x for x in dice['ci95'] if x is not None))

  def share(self, case: str) -> Measured:
    """Returns the share of the matmul ceiling that a training step reaches."""
    step = self.part(case, 'train')
    # Of the same machine, where the case itself has none.
    ceiling = self.part(case, 'ceiling') or self.part(f'model_{MIDDLE}', 'ceiling')
    if not ceiling or not step:
      return None
    key = f'matmul {step["dtype"]}'
    top = ceiling['others'].get(key, ceiling)['median']
    return (step['values']['gflop_a_call'] / step['values']['step_s'] / top,)


def goals(found: Lines, machine: str) -> Iterator[Goal]:
  """Yields the goals that a machine decides."""
  gpu = machine == 'gpu'
  yield from (_gpu_goals if gpu else _cpu_goals)(found)
  model, train = ('paper', 'paper')
  if gpu:
    model, train = f'model_{MIDDLE}', f'train_{MIDDLE}'
  yield (
    'paper forward over trunk and decoder',
    found.value(model, 'trunk_decoder', 'forward_time_over_this'),
    1.25,
    True,
  )
  ours, torch = (found.median(model, 'forward'), found.median(model, 'torch_trunk'))
  yield (
    'paper forward over torch trunk alone',
    ours and torch and (torch[0] / ours[0],),
    1.0,
    True,
  )
  yield from _steps_over_forward(found, 'paper', train, 'forward' if gpu else 'forward_plain')
  yield (
    "trunk's gradients over the same in torch",
    found.value('trunk_train' if gpu else model, 'torch_trunk_train', 'trunk_train_time_over_this'),
    None,
    True,
  )
  for n in (1, 10):
    over = found.value(f'sscf_{n}', 'torch_sscf', 'forward_time_over_this')
    # Without Winograd's convolutions, which computed half of the products.
    yield f'SSCF over its torch twin, {n} target frames', over, 0.95, True
    seconds = found.median(f'sscf_{n}', 'forward', 1)
    yield f'SSCF, s a target frame of {n}', seconds, None, True
  for side, limit in ((112, 1500), (256, 150)):
    case = f'input_{side}'
    rate = found.median(case, 'input')
    yield f'input, 10 x {side} x {side}, clips/s', rate, limit, False
    first = found.value(case, 'input', 'first_batch_s')
    yield f'first batch, {side}, s', first, 2, True
  idle = found.value('starvation' if gpu else 'lite', 'starvation', 'idle_share')
  yield 'device waits for data, share of the step', idle, 0.05, True


def _cpu_goals(found: Lines) -> Iterator[Goal]:
  yield ('paper forward, s a clip', found.median('paper', 'forward', 10), 1.3, True)
  yield (
    'lite forward over trunk and decoder',
    found.value('lite', 'trunk_decoder', 'forward_time_over_this'),
    1.25,
    True,
  )
  yield from _steps_over_forward(found, 'lite', 'lite', 'forward_plain')


def _gpu_goals(found: Lines) -> Iterator[Goal]:
  forward = found.best('model', 'forward', lambda c: found.median(c, 'forward'))
  yield 'paper forward, best batch, frames/s', forward, 2000, False
  for name, limit in (('p50', None), ('p99', 5)):
    step = found.value('stream', 'stream', name)
    yield f'streaming step, {name}, ms', step, limit, True
  train = found.best('train', 'train', lambda c: found.median(c, 'train'))
  yield 'training, best batch, clips/s', train, None, False
  yield (
    'training step, share of the matmul ceiling, best batch',
    found.best('train', 'train', found.share),
    0.4,
    False,
  )
  yield ('whole training on phantoms, LV Dice (and 95 % interval)', found.dice(), None, False)
  for name in ('trunk_train', 'torch_trunk_train'):
    title = f'{name.replace("_", " ")}, batch {MIDDLE}, frames/s'
    yield title, found.median('trunk_train', name), None, False
  for batch in BATCHES:
    memory = found.value(f'train_{batch}', 'train', 'memory_mb')
    yield f'training step, batch {batch}, memory, MB', memory, None, True


def _steps_over_forward(found: Lines, name: str, case: str, goal_for: str) -> Iterator[Goal]:
  """Yields a training step's time over the forward's.

  The goal is for the forward compiled as the step is; inference on CPUs has
  other options.
  """
  titles = {'forward': 'forward', 'forward_plain': 'its forward'}
  for objective, part, limit in (
    ('mean teacher', 'train', 5),
    ('supervised', 'train_supervised', 3.5),
  ):
    for forward, title in titles.items():
      if forward in (goal_for, 'forward'):
        yield (
          f'{name} step over {title}, {objective}',
          found.value(case, part, f'time_over_{forward}'),
          limit if forward == goal_for else None,
          True,
        )


def table(found: Lines, machine: str) -> str:
  """Returns goals against what was measured, as Markdown."""

  def text(x):
    return f'{x:,.0f}' if abs(x) >= 100 else f'{x:.3g}'

  first = next((x for x in found.lines if 'device' in x), {})
  # Several where --only measured some cases again.
  revisions = dict.fromkeys(x['git_revision'] for x in found.lines if x.get('git_revision'))
  rows = [
    f'{first.get("device")}, {first.get("cpus")} cores, revision '
    f'{", ".join(revisions)}; medians of repeats after warm-up.',
    '',
    '| quantity | measured | middle half | goal | |',
    '|---|---:|---:|---:|---|',
  ]
  for quantity, measured, goal, less in goals(found, machine):
    cells = [quantity, '', '', '', '']
    if goal is not None:
      cells[3] = f'{"<=" if less else ">="} {text(goal)}'
    if not measured:
      cells[4] = 'not measured'
    else:
      cells[1:3] = text(measured[0]), ' to '.join(map(text, measured[1:]))
      if goal is not None:
        ratio = measured[0] / goal if less else goal / measured[0]
        cells[4] = 'met' if ratio <= 1 else f'**missed, {ratio:.2f} x**'
    rows.append(f'| {" | ".join(cells)} |')
  bad = [f'- {x["case"]}: {x["failed"]}' for x in found.lines if x.get('failed')]
  bad += [f'- {x["case"]}, {x["part"]}: {x["skipped"]}' for x in found.lines if x.get('skipped')]
  if bad:
    rows += ['', 'Failed or skipped:', '', *bad]
  return '\n'.join(rows) + '\n'
