"""The tables of the report page, as rows of text."""

from collections.abc import Callable
import itertools
import math

from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.evaluation.report.case_files import case_id
from echoforge_jax.formats.camus_view import QUALITIES
from echoforge_jax.textio import NAMES, interval, number

# Keys of an EF block that carry an interval: label, digits.
EF_KEYS = {'pearson_r': ('Pearson r', 3), 'bias': ('bias (points)', 2), 'mae': ('MAE (points)', 2)}

_LONG = 400  # Characters of a value in the receipt's table.
# Keys of metrics' temporal block.
OVER_TIME = {
  'area_roughness': 'area roughness (%)',
  'inconsistent_share': 'inconsistent frames (%)',
  'valid_share': 'anatomically valid (%)',
}


def metric_form(metric: str, unit: str) -> tuple[str, float]:
  """Returns a metric's label with its unit, and the scale for display."""
  share = metric in ('dice', 'iou')
  return f'{NAMES[metric]} ({"%" if share else unit})', 100 if share else 1


def mean_texts(entry: dict, scale: float = 1, digits: int = 2):
  """Returns an entry's mean and 95 % interval as (text, text)."""
  return (number(entry['mean'], digits, scale), interval(entry['ci95'], digits, scale))


def ef_texts(ef: dict, key: str, digits: int = 2) -> tuple[str, str]:
  """Returns a quantity of an EF block and its interval as (text, text)."""
  return number(ef[key], digits), interval(ef['ci95'][key], digits)


def dice_of_classes(result: Result, dice: Callable[[str], float], digits: int) -> str:
  """Returns dice(class), 0 to 1, in percent: '93.1' of one class, else 'LV 93.1, MYO 84.9'."""
  texts = {name: number(dice(name), digits, 100) for name in result.classes}
  if len(texts) == 1:
    return next(iter(texts.values()))
  return ', '.join(f'{name.upper()} {text}' for name, text in texts.items())


def headline_rows(result: Result) -> list[tuple[str, ...]]:
  """Returns (class, metric, mean, interval, median, n) per class and metric."""
  rows = []
  for name, entries in result.metrics['classes'].items():
    for metric, entry in entries.items():
      label, scale = metric_form(metric, result.metrics['unit'])
      texts = *mean_texts(entry, scale), number(entry['median'], 2, scale), str(entry['n'])
      rows.append((name.upper(), label, *texts))
  return rows


def ef_rows(result: Result) -> list[tuple[str, str, str]]:
  """Returns (quantity, value, interval) of the EF; empty without patients."""
  ef = result.metrics['ef']
  if not ef['n']:
    return []
  return [
    ('Pearson r', *ef_texts(ef, 'pearson_r', 3)),
    ('bias (points)', *ef_texts(ef, 'bias')),
    ('SD of differences', number(ef['sd'], 2), ''),
    ('limits of agreement', interval(ef['loa'], 2), ''),
    ('MAE', *ef_texts(ef, 'mae')),
    ('RMSE', *ef_texts(ef, 'rmse')),
  ]


def cards(result: Result) -> list[tuple[str, str, str]]:
  """Returns (label, value, interval) of what a reader looks for first."""
  name, ef = result.classes[0], result.metrics['ef']
  entries, unit = result.metrics['classes'][name], result.metrics['unit']
  dice, hd = mean_texts(entries['dice'], 100), mean_texts(entries['hd'])
  found = [(f'Dice, {name.upper()}', f'{dice[0]} %', dice[1])]
  for other in result.classes[1:]:
    dice = mean_texts(result.metrics['classes'][other]['dice'], 100)
    found.append((f'Dice, {other.upper()}', f'{dice[0]} %', dice[1]))
  found += [(f'Hausdorff distance, {name.upper()}', f'{hd[0]} {unit}', hd[1])]
  if ef['n']:
    bias = ef_texts(ef, 'bias')
    found.append(('EF bias', f'{bias[0]} points', bias[1]))
    found.append(('EF correlation r', *ef_texts(ef, 'pearson_r', 3)))
  return found


def group_rows(result: Result) -> list[tuple[str, ...]]:
  """Returns Dice and HD of every class by view, quality and phase."""

  def order(key):
    return QUALITIES.index(key) if key in QUALITIES else len(QUALITIES), key

  rows = []
  for kind, groups in result.metrics['groups'].items():
    for key in sorted(groups, key=order):
      for name, entries in groups[key].items():
        dice, hd = entries['dice'], entries['hd']
        texts = *mean_texts(dice, 100), *mean_texts(hd)
        rows.append((kind, key, name.upper(), str(dice['n']), *texts))
  return rows


def temporal_rows(block: dict) -> list[tuple[str, str, str, str]]:
  """Returns (quantity, prediction, interval, truth) of metrics' temporal."""
  return [
    (label, *mean_texts(block[key], 100), mean_texts(block[key]['truth'], 100)[0])
    for key, label in OVER_TIME.items()
  ]


def whole_rows(result: Result) -> list[tuple[str, ...]]:
  """Returns known beside unknown ED and ES; empty without whole clips."""
  m = result.metrics
  whole = m['whole_clip']
  if not whole:
    return []
  rows = []
  for name, metric in itertools.product(result.classes, ('dice', 'hd', 'asd')):
    label, scale = metric_form(metric, m['unit'])
    label = label.replace(' (', f', {name.upper()} (')
    both = [mean_texts(b['classes'][name][metric], scale) for b in (m, whole)]
    rows.append((label, *both[0], *both[1]))
  for key, (label, digits) in EF_KEYS.items():
    both = [ef_texts(b['ef'], key, digits) for b in (m, whole)]
    rows.append((f'EF {label}', *both[0], *both[1]))
  for key in ('ed', 'es'):
    mean, ci = mean_texts(whole[f'{key}_error_frames'], digits=1)
    ms = number(whole[f'{key}_error_ms']['mean'], 0)
    rows.append((f'{key.upper()} found within (frames)', '', '', f'{mean} ({ms} ms)', ci))
  return rows


def case_table(result: Result):
  """Returns the table of every clip, the worst Dice first.

  It is (columns as (label, numeric), rows as (case id, [(text, sort key)]), the number of the Dice
  column).
  """
  name, unit = result.classes[0], result.metrics['unit']
  of = f'{name.upper()} ' if len(result.classes) > 1 else ''
  columns = [('patient', 'patient', None), ('view', 'view', None)]
  if any(row['quality'] for row in result.per_case):
    columns.append(('quality', 'quality', None))
  worst_by = len(columns)
  columns += [
    *((f'{c.upper()} Dice (%)', f'{c}_dice', (2, 100)) for c in result.classes),
    (f'{of}HD ({unit})', f'{name}_hd', (2, 1)),
    (f'{of}ASD ({unit})', f'{name}_asd', (2, 1)),
  ]
  if unit == 'mm':
    columns += [('EDV (ml)', 'edv_predicted_ml', (0, 1)), ('ESV (ml)', 'esv_predicted_ml', (0, 1))]
  columns += [('EF ref. (%)', 'ef_reference', (1, 1)), ('EF pred. (%)', 'ef_predicted', (1, 1))]
  if result.metrics['whole_clip']:
    columns.append(('EF whole clip (%)', 'ef_whole_clip', (1, 1)))
  columns += [('certainty (%)', 'confidence', (1, 100)), ('flags', 'flags', None)]

  def cell(row, key, form):
    value = row[key]
    if form is None:
      return (_flags(value) if key == 'flags' else str(value),) * 2
    return number(value, *form), f'{value:.6g}' if math.isfinite(value) else ''

  def badness(row):
    dice = row[f'{name}_dice']
    return not math.isfinite(dice), dice, row['patient'], row['view']

  rows = [
    (case_id(row['patient'], row['view']), [cell(row, key, form) for _, key, form in columns])
    for row in sorted(result.per_case, key=badness)
  ]
  heads = [(label, form is not None) for label, _, form in columns]
  return heads, rows, worst_by


def facts(row: dict, result: Result) -> list[tuple[str, str]]:
  """Returns (name, text) of what the viewer says beside a clip's frames."""
  name, unit = result.classes[0], row['unit']
  of = f'{name.upper()} ' if len(result.classes) > 1 else ''
  hd, asd = (number(row[f'{name}_{m}'], 2) for m in ('hd', 'asd'))
  predicted, known = (number(row[f'ef_{key}'], 1) for key in ('predicted', 'reference'))
  found = [
    ('Dice', dice_of_classes(result, lambda c: row[f'{c}_dice'], 2) + ' %'),
    (f'{of}HD, ASD', f'{hd} {unit}, {asd} {unit}'),
    ('EF predicted, reference', f'{predicted} %, {known} %'),
  ]
  if math.isfinite(row['edv_predicted_ml']):
    edv, esv = (number(row[f'{v}_predicted_ml'], 0) for v in ('edv', 'esv'))
    found.append(('EDV, ESV predicted', f'{edv} ml, {esv} ml'))
  if math.isfinite(row['ef_whole_clip']):
    ed, es = (number(row[f'{t}_found'] + 1, 0) for t in ('ed', 'es'))
    ef = number(row['ef_whole_clip'], 1)
    found.append(('EF, ED and ES found', f'{ef} % (frames {ed}, {es} of the whole clip)'))
  found += [('quality', row['quality'] or 'unknown'), ('flags', _flags(row['flags']) or 'none')]
  if row['whole_clip_flags']:
    found.append(('flags, whole clip', _flags(row['whole_clip_flags'])))
  return found


def receipt_rows(receipt: dict) -> list[tuple[str, str]]:
  """Returns (name, text) of a receipt, versions last."""
  rows = [
    (key.replace('_', ' '), 'unknown' if value is None else str(value)[:_LONG])
    for key, value in receipt.items()
    if key not in ('versions', 'protocol')
  ]
  return rows + list(receipt.get('versions', {}).items())


def _flags(text: str) -> str:
  """Returns 'no cavity, holes' of 'no_cavity holes'."""
  return ', '.join(text.split()).replace('_', ' ')
