"""Text in and out: strict JSON, whole files, numbers and tables for people."""

from collections.abc import Iterator, Sequence
import contextlib
import json
import math
from typing import Any

from etils import epath
import numpy as np

NAMES = {'dice': 'Dice', 'iou': 'IoU', 'hd': 'HD', 'hd95': 'HD95', 'asd': 'ASD'}
SYNTHETIC_NOTE = 'synthetic patients: these scores say nothing about real ultrasound'


def is_synthetic(metrics: dict) -> bool:
  """Returns True if the receipt of metrics.json says they are phantoms."""
  receipt = metrics['receipt']
  return bool(receipt.get('synthetic') or 'phantom' in str(receipt.get('dataset', '')))


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[epath.Path]:
  """Yields a temporary path that becomes `path` in one move at the end.

  An interrupted write leaves `path` as it was; an error removes what was written. The folder must
  exist. Works in buckets as well.
  """
  path = epath.Path(path)
  temporary = path.with_name(path.name + '.partial')
  try:
    yield temporary
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text file, whole or not at all."""
  with replacing(path) as temporary:
    temporary.write_text(text)


def to_json(value: Any, digits: int | None = None) -> Any:
  """Returns nested values, arrays too, in strict JSON's types; NaN and infinity become None.

  Floats are rounded to `digits` decimals; None keeps them.
  """
  if isinstance(value, dict):
    return {str(k): to_json(v, digits) for k, v in value.items()}
  if isinstance(value, (list, tuple, np.ndarray)):
    return [to_json(v, digits) for v in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float):
    if not math.isfinite(value):
      return None
    return value if digits is None else round(value, digits)
  return value


def write_json(path: epath.PathLike, value: Any) -> None:
  """Writes a value as strict JSON (see `to_json`), whole or not at all."""
  write_text(path, json.dumps(to_json(value), indent=2, allow_nan=False) + '\n')


def first_line(error: Exception) -> str:
  """Returns at most 200 characters of an error's message, or else its kind."""
  lines = str(error).strip().splitlines()
  return lines[0][:200] if lines else type(error).__name__


def number(value: float | None, digits: int, scale: float = 1) -> str:
  """Returns `scale * value` with `digits` decimals; 'n/a' if not finite."""
  if value is None or not math.isfinite(value):
    return 'n/a'
  return f'{value * scale:.{digits}f}'


def interval(pair, digits: int, scale: float = 1) -> str:
  """Returns (low, high) as '[low, high]'; '' if one of them is not finite."""
  if any(v is None or not math.isfinite(v) for v in pair):
    return ''
  return f'[{number(pair[0], digits, scale)}, {number(pair[1], digits, scale)}]'


def p_text(value: float | None) -> str:
  """Returns a p value: four digits, '<.0001' below them, 'n/a' for None."""
  if value is None or not math.isfinite(value):
    return 'n/a'
  return '<.0001' if value < 1e-4 else f'{value:.4f}'.removeprefix('0')


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
  """Returns rows of equal length as left-aligned lines, indented by two."""
  widths = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
  return ['  ' + '  '.join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
