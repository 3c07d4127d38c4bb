"""Goals of speed, set against what `speed_table.py` measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence

# Clips a batch, of an accelerator's cases.
BATCHES = (4, 8, 16, 32, 64)
# Of the batch on which models and steps are set in relation.
MIDDLE = 16


class Lines:
  """Measured lines, to be asked for quantities.

  Attributes:
    lines: of all cases.
  """

  def __init__(self, lines: Sequence[Mapping]):
    self.lines = lines

  def part(self, case: str, part: str) -> Mapping | None:
    """A measurement; None where it was not made."""
    return next(
      (
        x
        for x in self.lines
        if x['case'] == case and x.get('part') == part and x.get('median')
      ),
      None,
    )

  def median(
    self, case: str, part: str, amount: float = 0
  ) -> tuple[float, ...] | None:
    """Median and middle half of a rate; of a duration where `amount` is."""
    line = self.part(case, part)
    if line is None:
      return None
    found = [line[name] for name in ('median', 'p25', 'p75')]
    return (
      tuple(sorted(amount / x for x in found)[i] for i in (1, 0, 2))
      if (amount)
      else tuple(found)
    )

  def value(self, case: str, part: str, name: str) -> tuple[float] | None:
    """A number without a spread."""
    line = self.part(case, part)
    found = line and line['values'].get(name)
    return None if found is None else (found,)

  def best(
    self, prefix: str, part: str, of: Callable[[str], tuple[float, ...] | None]
  ) -> tuple[float, ...] | None:
    """The largest over the batch sizes."""
    found = [
      of(f'{prefix}_{batch}')
      for batch in BATCHES
      if self.part(f'{prefix}_{batch}', part)
    ]
    return max(filter(None, found), default=None)

  def dice(self) -> tuple[float, ...] | None:
    """Of the left ventricle after the whole training, and its interval."""
    found = next((x['metrics'] for x in self.lines if 'metrics' in x), None)
    if not found:
      return None
    dice = found['classes']['lv']['dice']
    return (dice['mean'], *(x for x in dice['ci95'] if x is not None))

  def share(self, case: str) -> tuple[float] | None:
    """Of the matrix product's ceiling that a training step reaches."""
    step = self.part(case, 'train')
    # Of the same machine, where the case itself has none.
    ceiling = self.part(case, 'ceiling') or self.part(
      f'model_{MIDDLE}', 'ceiling'
    )
    if not ceiling or not step:
      return None
    key = f'matmul {step["dtype"]}'
    top = ceiling['others'].get(key, ceiling)['median']
    return (step['values']['gflop_a_call'] / step['values']['step_s'] / top,)


# Quantity, what was measured, goal, and whether less is better.
Goal = tuple[str, tuple[float, ...] | None, float | None, bool]


def goals(found: Lines, machine: str) -> Iterator[Goal]:
  """The goals that this machine decides."""
  median, value = found.median, found.value
  if machine == 'gpu':
    model, train = f'model_{MIDDLE}', f'train_{MIDDLE}'
    yield (
      'paper forward, best batch, frames/s',
      found.best('model', 'forward', lambda c: median(c, 'forward')),
      2000,
      False,
    )
    for name, limit in (('p50', None), ('p99', 5)):
      yield (
        f'streaming step, {name}, ms',
        value('stream', 'stream', name),
        limit,
        True,
      )
    yield (
      'training, best batch, clips/s',
      found.best('train', 'train', lambda c: median(c, 'train')),
      None,
      False,
    )
    yield (
      'training step, share of the matmul ceiling, best batch',
      found.best('train', 'train', found.share),
      0.4,
      False,
    )
    yield (
      'whole training on phantoms, LV Dice (and 95 % interval)',
      found.dice(),
      None,
      False,
    )
    for name in ('trunk_train', 'torch_trunk_train'):
      yield (
        f'{name.replace("_", " ")}, batch {MIDDLE}, frames/s',
        median('trunk_train', name),
        None,
        False,
      )
    for batch in BATCHES:
      yield (
        f'training step, batch {batch}, memory, MB',
        value(f'train_{batch}', 'train', 'memory_mb'),
        None,
        True,
      )
  else:
    model = train = 'paper'
    yield ('paper forward, s a clip', median('paper', 'forward', 10), 1.3, True)
    yield (
      'lite forward over trunk and decoder',
      value('lite', 'trunk_decoder', 'forward_time_over_this'),
      1.25,
      True,
    )
    yield from steps_over_forward(found, 'lite', 'lite', 'forward_plain')
  yield (
    'paper forward over trunk and decoder',
    value(model, 'trunk_decoder', 'forward_time_over_this'),
    1.25,
    True,
  )
  ours, torch = median(model, 'forward'), median(model, 'torch_trunk')
  yield (
    'paper forward over torch trunk alone',
    ours and torch and (torch[0] / ours[0],),
    1.0,
    True,
  )
  yield from steps_over_forward(
    found, 'paper', train, 'forward' if machine == 'gpu' else 'forward_plain'
  )
  case = 'trunk_train' if machine == 'gpu' else model
  yield (
    "trunk's gradients over the same in torch",
    value(case, 'torch_trunk_train', 'trunk_train_time_over_this'),
    None,
    True,
  )
  for frames in (1, 10):
    yield (
      f'SSCF over its torch twin, {frames} target frames',
      value(f'sscf_{frames}', 'torch_sscf', 'forward_time_over_this'),
      0.8,
      True,
    )
    yield (
      f'SSCF, s a target frame of {frames}',
      median(f'sscf_{frames}', 'forward', 1),
      None,
      True,
    )
  for side, limit in ((112, 1500), (256, 150)):
    yield (
      f'input, 10 x {side} x {side}, clips/s',
      median(f'input_{side}', 'input'),
      limit,
      False,
    )
    yield (
      f'first batch, {side}, s',
      value(f'input_{side}', 'input', 'first_batch_s'),
      2,
      True,
    )
  case = 'starvation' if machine == 'gpu' else 'lite'
  yield (
    'device waits for data, share of the step',
    value(case, 'starvation', 'idle_share'),
    0.05,
    True,
  )


def steps_over_forward(
  found: Lines, name: str, case: str, goal_for: str
) -> Iterator[Goal]:
  """A training step's time over the forward's.

  The goal is for the forward with the step's own convolutions; inference on
  CPUs has faster ones.
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
  """Goals against what was measured, as Markdown."""

  def text(x):
    return f'{x:,.0f}' if abs(x) >= 100 else f'{x:.3g}'

  rows = [
    '| quantity | measured | middle half | goal | |',
    '|---|---:|---:|---:|---|',
  ]
  for quantity, measured, goal, less in goals(found, machine):
    half = verdict = ''
    if not measured:
      verdict = 'not measured'
    else:
      half = ' to '.join(map(text, measured[1:]))
      if goal is not None:
        ratio = measured[0] / goal if less else goal / measured[0]
        verdict = 'met' if ratio <= 1 else f'**missed, {ratio:.2f} x**'
    limit = '' if goal is None else f'{"<=" if less else ">="} {text(goal)}'
    rows.append(
      f'| {quantity} | {text(measured[0]) if measured else ""} | '
      f'{half} | {limit} | {verdict} |'
    )
  failed = [
    f'- {x["case"]}: {x["failed"]}' for x in found.lines if x.get('failed')
  ]
  skipped = [
    f'- {x["case"]}, {x["part"]}: {x["skipped"]}'
    for x in found.lines
    if x.get('skipped')
  ]
  first = next((x for x in found.lines if 'device' in x), {})
  # Several where --only measured some cases again.
  revisions = dict.fromkeys(
    x['git_revision'] for x in found.lines if x.get('git_revision')
  )
  about = (
    f'{first.get("device")}, {first.get("cpus")} cores, revision '
    f'{", ".join(revisions)}; medians of repeats after warm-up.'
  )
  return (
    '\n'.join(
      [
        about,
        '',
        *rows,
        *(['', 'Failed or skipped:', ''] if failed or skipped else []),
        *failed,
        *skipped,
      ]
    )
    + '\n'
  )
