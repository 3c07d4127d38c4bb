"""Text in and out: strict JSON, and numbers and tables as people read them."""

from collections.abc import Sequence
import json
import math
import pathlib

import numpy as np

NAMES = {'dice': 'Dice', 'iou': 'IoU', 'hd': 'HD', 'hd95': 'HD95', 'asd': 'ASD'}
SYNTHETIC_NOTE = (
  'synthetic patients: these scores say nothing about real ultrasound'
)


def is_synthetic(metrics: dict) -> bool:
  """Whether the receipt says that the patients are phantoms.

  Args:
    metrics: content of metrics.json.

  Returns:
    False where the receipt does not know.
  """
  receipt = metrics['receipt']
  return bool(
    receipt.get('synthetic') or 'phantom' in str(receipt.get('dataset', ''))
  )


def to_json(value):
  """The value in strict JSON's types: NaN and infinity become None.

  Args:
    value: nested dicts, sequences, numpy or Python scalars.

  Returns:
    The same with dicts, lists, str, bool, int, float and None only.
  """
  if isinstance(value, dict):
    return {str(k): to_json(v) for k, v in value.items()}
  if isinstance(value, (list, tuple, np.ndarray)):
    return [to_json(v) for v in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def number(value, digits: int, scale: float = 1) -> str:
  """A number as text, 'n/a' if it is not finite.

  Args:
    value: the number or None.
    digits: after the decimal point.
    scale: multiplied first.

  Returns:
    The text.
  """
  if value is None or not math.isfinite(value):
    return 'n/a'
  return f'{value * scale:.{digits}f}'


def interval(pair, digits: int, scale: float = 1) -> str:
  """An interval as '[low, high]', '' if it is not finite.

  Args:
    pair: (low, high).
    digits: after the decimal point.
    scale: multiplied first.

  Returns:
    The text.
  """
  if any(v is None or not math.isfinite(v) for v in pair):
    return ''
  return f'[{number(pair[0], digits, scale)}, {number(pair[1], digits, scale)}]'


def p_text(value: float | None) -> str:
  """A p value as text.

  Args:
    value: in [0, 1], or None.

  Returns:
    Four digits, '<.0001' below them, 'n/a' for None.
  """
  if value is None or not math.isfinite(value):
    return 'n/a'
  if value < 1e-4:
    return '<.0001'
  return f'{value:.4f}'.removeprefix('0')


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
  """Rows as left-aligned columns.

  Args:
    rows: one or more, all of one length.

  Returns:
    One line a row, indented by two.
  """
  widths = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
  return [
    '  ' + '  '.join(c.ljust(w) for c, w in zip(row, widths)).rstrip()
    for row in rows
  ]


def write_json(path, result: dict) -> None:
  """Writes strict JSON (no NaN) in one move, so that no half file is left."""
  path = pathlib.Path(path)
  partial = path.with_name(path.name + '.partial')
  partial.write_text(json.dumps(result, indent=2, allow_nan=False) + '\n')
  partial.replace(path)
