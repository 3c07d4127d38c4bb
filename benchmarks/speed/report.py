"""Measured lines: JSON, a table, and new against old."""

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
_HEAD = ('part', 'median', 'unit', 'min to max', 'middle half', 'repeats', 'compile s')


def check_output(path: pathlib.Path) -> None:
  """Raises `InputError` where lines cannot be appended to a file."""
  if not path.resolve().parent.is_dir():
    raise InputError(f'--json={path}: no such folder; make it first')
  try:
    path.open('a').close()
  except OSError as error:
    raise InputError(
      f'--json={path}: cannot be written ({error.strerror}); choose a file that may be'
    ) from error


def append(line: Line, path: pathlib.Path) -> None:
  """Appends one line of strict JSON to a file, made if missing."""
  with path.open('a') as file:
    file.write(json.dumps(line, allow_nan=False) + '\n')


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the lines that `append` wrote in an earlier run."""
  remedy = 'wanted a file that python -m benchmarks.speed --json=FILE wrote'
  try:
    rows = path.read_text().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, 'strerror', None) or 'not text'
    raise InputError(f'--compare={path}: {reason}; {remedy}') from error
  lines = []
  for number, row in enumerate(rows, start=1):
    try:
      lines.append(json.loads(row))
    except json.JSONDecodeError as error:
      raise InputError(f'--compare={path}: line {number} is not JSON; {remedy}') from error
    if not _is_line(lines[-1]):
      raise InputError(f'--compare={path}: line {number} is no measurement; {remedy}')
  if not lines:
    raise InputError(f'--compare={path}: no measurement in it; {remedy}')
  return lines


def _is_line(line: Any) -> bool:
  try:
    return all(name in line for name in _SAME) and (
      line['median'] is None or all(one['median'] > 0 for _, one in _series(line))
    )
  except (TypeError, KeyError, AttributeError):
    return False


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
  """Returns the measurements of one run as text, without a last newline."""
  rows, notes, first, last = [_HEAD], [], lines[0], lines[-1]
  for line in lines:
    if line['skipped']:
      rows.append((line['part'], 'skipped', *[''] * (len(_HEAD) - 2)))
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
    values = ', '.join(
      f'{name.replace("_", " ")} {_text(value)}' for name, value in line['values'].items()
    )
    notes += [f'{line["part"]}: {values}'] * bool(values)
  side = first['image_size']
  text = [
    ' '.join((first['config'], *first['overrides']))
    + f': batch {first["batch"]}, {first["frames"]} frames of {side}x{side}, '
    f'{first["dtype"]}',
    *textio.columns(rows),
    *(f'  {note}' for note in notes),
    f'  on {first["device"]} ({first["devices"]} used), {first["cpus"]} cores, '
    f'load {first["load_average"][0]:.1f} at first and '
    f'{last["load_average"][0]:.1f} at last, revision {first["git_revision"]}',
  ]
  return '\n'.join(text)


def _words(unit: str, ratio: float) -> str:
  """Says a ratio of medians."""
  times = ratio if unit in DURATIONS else 1 / ratio
  if abs(times - 1) <= _EQUAL:
    return 'the same'
  return f'{times:.2f}x slower' if times > 1 else f'{1 / times:.2f}x faster'


def compare(new: Sequence[Line], old: Sequence[Line], name: str) -> str:
  """Sets new medians against old ones.

  Of several old lines of a part the last counts. Returns, for every quantity, both medians and
  new over old, also in words, and what else differs between the runs.
  """

  def key(line):
    return tuple(line[field] for field in _SAME)

  known = {key(line): line for line in old if line['median'] is not None}
  rows, lacking = [('part', 'old -> new', 'ratio', 'in words', '')], []
  for line in new:
    other = known.get(key(line))
    if line['median'] is None:
      continue
    if other is None:
      lacking.append(line['part'])
      continue
    before, rest = dict(_series(other)), _differences(line, other)
    for quantity, one in _series(line):
      was = before.get(quantity)
      if was is None or was.get('unit') != one['unit']:
        continue
      ratio = one['median'] / was['median']
      medians = f'{_text(was["median"])} -> {_text(one["median"])}'
      words = _words(one['unit'], ratio) + _overlap(one, was)
      medians += f' {one["unit"]}'
      rows.append((quantity, medians, f'{ratio:.2f}', words, rest))
  text = [f'new/old of the medians, old: {name}']
  if len(rows) > 1:
    text += textio.columns(rows)
  if lacking:
    text.append('  not there for this config, batch and device: ' + ', '.join(lacking))
  return '\n'.join(text)


def _overlap(one: Line, other: Line) -> str:
  """Says so where the middle halves of both overlap."""
  if not {'p25', 'p75'} <= other.keys():
    return ''
  apart = one['p25'] > other['p75'] or other['p25'] > one['p75']
  return '' if apart else ' (spreads overlap)'


def _differences(line: Line, other: Line) -> str:
  found = [
    f'{name} {other[name]} -> {line[name]}'
    for name in _NAMED
    if name in other and other[name] != line[name]
  ]
  return f'but {"; ".join(found)}' if found else ''
