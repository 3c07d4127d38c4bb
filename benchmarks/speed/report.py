"""What `bench speed` found: JSON lines, a table, and new against old."""

from collections.abc import Iterator, Mapping, Sequence
import json
import pathlib
from typing import Any

from benchmarks.speed.timing import DURATIONS
from echoforge_jax import textio
from echoforge_jax.errors import InputError

Line = Mapping[str, Any]
# What makes two lines comparable.
_SAME = ('part', 'config', 'batch', 'device')
# What else may explain a difference, and is named.
_NAMED = ('frames', 'image_size', 'dtype', 'devices', 'cpus', 'overrides')
# Medians this close are the same.
_EQUAL = 0.005


def check_output(path: pathlib.Path) -> None:
  """Raises `InputError` where lines cannot be appended to a file.

  Args:
    path: of the file; made if missing.
  """
  if not path.resolve().parent.is_dir():
    raise InputError(f'--json={path}: no such folder; make it first')
  try:
    path.open('a').close()
  except OSError as error:
    raise InputError(
      f'--json={path}: cannot be written ({error.strerror}); '
      'choose a file that may be'
    ) from error


def append(line: Line, path: pathlib.Path) -> None:
  """Appends one line of strict JSON.

  Args:
    line: JSON-ready.
    path: of the file; made if missing.
  """
  with path.open('a') as file:
    file.write(json.dumps(line, allow_nan=False) + '\n')


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the lines of an earlier run.

  Args:
    path: of a file that `append` wrote.

  Returns:
    The lines.

  Raises:
    InputError: where it is no such file.
  """
  remedy = 'wanted a file that bench speed --json=FILE wrote'
  try:
    text = path.read_text()
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, 'strerror', None) or 'not text'
    raise InputError(f'--compare={path}: {reason}; {remedy}') from error
  lines = []
  for number, row in enumerate(text.splitlines(), start=1):
    if not row.strip():
      continue
    try:
      line = json.loads(row)
    except json.JSONDecodeError as error:
      raise InputError(
        f'--compare={path}: line {number} is not JSON; {remedy}'
      ) from error
    if not _is_line(line):
      raise InputError(
        f'--compare={path}: line {number} is no measurement; {remedy}'
      )
    lines.append(line)
  if not lines:
    raise InputError(f'--compare={path}: no measurement in it; {remedy}')
  return lines


def _is_line(line: Any) -> bool:
  if not isinstance(line, dict) or not all(name in line for name in _SAME):
    return False
  return line.get('median') is None or (
    isinstance(line.get('others'), dict)
    and all(
      isinstance(one, dict) and _is_number(one.get('median'))
      for one in (line, *line['others'].values())
    )
  )


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, (int, float))
    and not isinstance(value, bool)
    and value > 0
  )


def _series(line: Line) -> Iterator[tuple[str, Line]]:
  """Yields every quantity of a line with its name."""
  yield line['part'], line
  for name, series in line['others'].items():
    yield f'{line["part"]}: {name}', series


def _text(value: Any) -> str:
  if not isinstance(value, (int, float)):
    return 'n/a' if value is None else str(value)
  return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def table(lines: Sequence[Line]) -> str:
  """The measurements of one run as text.

  Args:
    lines: of `speed.measure`, one or more.

  Returns:
    Lines without a trailing newline.
  """
  rows = [
    (
      'part',
      'median',
      'unit',
      'min to max',
      'middle half',
      'repeats',
      'compile s',
    )
  ]
  notes, first, last = [], lines[0], lines[-1]
  for line in lines:
    if line['skipped']:
      rows.append((line['part'], 'skipped', '', '', '', '', ''))
      notes.append(f'{line["part"]}: skipped: {line["skipped"]}')
      continue
    rows += [
      (
        name,
        _text(one['median']),
        one['unit'],
        f'{_text(one["min"])} to {_text(one["max"])}',
        f'{_text(one["p25"])} to {_text(one["p75"])}',
        str(one['repeats']),
        f'{one["compile_s"]:.1f}' if one['compile_s'] else '',
      )
      for name, one in _series(line)
    ]
    if line['values']:
      notes.append(
        f'{line["part"]}: '
        + ', '.join(
          f'{name.replace("_", " ")} {_text(value)}'
          for name, value in line['values'].items()
        )
      )
  overrides = ' '.join(('', *first['overrides']))
  return '\n'.join(
    [
      f'{first["config"]}{overrides}: batch {first["batch"]}, '
      f'{first["frames"]} frames of {first["image_size"]}x'
      f'{first["image_size"]}, {first["dtype"]}',
      *textio.columns(rows),
      *(f'  {note}' for note in notes),
      f'  on {first["device"]} ({first["devices"]} used), {first["cpus"]} '
      f'cores, load {first["load_average"][0]:.1f} at first and '
      f'{last["load_average"][0]:.1f} at last, revision '
      f'{first["git_revision"]}',
    ]
  )


def _words(unit: str, ratio: float) -> str:
  """How a ratio of medians is said."""
  times = ratio if unit in DURATIONS else 1 / ratio
  if abs(times - 1) <= _EQUAL:
    return 'the same'
  return f'{times:.2f}x slower' if times > 1 else f'{1 / times:.2f}x faster'


def compare(new: Sequence[Line], old: Sequence[Line], name: str) -> str:
  """New medians against old ones.

  Args:
    new: of `speed.measure`.
    old: of `read`; of several lines of a part the last counts.
    name: of the old file.

  Returns:
    Lines without a trailing newline: of every quantity both medians, new over
    old, the same in words, and what else differs between both runs.
  """

  def key(line):
    return tuple(line[field] for field in _SAME)

  known = {key(line): line for line in old if line['median'] is not None}
  rows, lacking = [], []
  for line in new:
    if line['median'] is None:
      continue
    other = known.get(key(line))
    if other is None:
      lacking.append(line['part'])
      continue
    before, rest = dict(_series(other)), _differences(line, other)
    for quantity, one in _series(line):
      if quantity not in before or before[quantity].get('unit') != one['unit']:
        continue
      ratio = one['median'] / before[quantity]['median']
      rows.append(
        (
          quantity,
          f'{_text(before[quantity]["median"])} -> '
          f'{_text(one["median"])} {one["unit"]}',
          f'{ratio:.2f}',
          _words(one['unit'], ratio) + _overlap(one, before[quantity]),
          rest,
        )
      )
  text = [f'new/old of the medians, old: {name}']
  if rows:
    text += textio.columns(
      [('part', 'old -> new', 'ratio', 'in words', ''), *rows]
    )
  if lacking:
    text.append(
      '  not there for this config, batch and device: ' + ', '.join(lacking)
    )
  return '\n'.join(text)


def _overlap(one: Line, other: Line) -> str:
  """Says so where the middle halves of both overlap."""
  try:
    apart = one['p25'] > other['p75'] or other['p25'] > one['p75']
  except (KeyError, TypeError):
    return ''
  return '' if apart else ' (spreads overlap)'


def _differences(line: Line, other: Line) -> str:
  found = [
    f'{name} {other[name]} -> {line[name]}'
    for name in _NAMED
    if name in other and other[name] != line[name]
  ]
  return f'but {"; ".join(found)}' if found else ''
