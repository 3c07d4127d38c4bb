"""report/index.html: one self-contained page, its figures inside it."""

import base64
from collections.abc import Sequence
import math
import pathlib

import jinja2

from echoforge_jax.evaluation import figures, results
from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.evaluation.scoring import Case


def write_report(result: Result, cases: Sequence[Case], report_dir, *,
                 log_path=None) -> pathlib.Path:
  """Writes the figures and the page.

  Args:
    result: the evaluation.
    cases: the evaluated clips in the same order; overlays need their frames.
    report_dir: folder for index.html and figures/.
    log_path: a training run's metrics.jsonl, or None.

  Returns:
    Path of index.html.
  """
  report_dir = pathlib.Path(report_dir)
  indices = figures.pick_examples(result)
  drawn = {'ef': figures.ef_figure(result),
           'areas': figures.area_figure(result, indices) if indices else None,
           'training': figures.training_figure(log_path) if log_path else None}
  if indices and all(cases[k].frames is not None for k in indices):
    drawn['overlays'] = figures.overlay_figure(cases, result, indices)
  images = {}
  for name, figure in drawn.items():
    file = report_dir / 'figures' / f'{name}.png'
    if figure is None:
      file.unlink(missing_ok=True)  # Of an earlier evaluation.
      continue
    data = figures.save(figure, file).read_bytes()
    images[name] = 'data:image/png;base64,' + base64.b64encode(data).decode()
  page = render_page(result, images)
  path = report_dir / 'index.html'
  path.write_text(page)
  return path


def render_page(result: Result, images: dict[str, str]) -> str:
  """The page as text.

  Args:
    result: the evaluation.
    images: data URIs by name: 'overlays', 'ef', 'areas', 'training'.

  Returns:
    HTML.
  """
  environment = jinja2.Environment(
      loader=jinja2.PackageLoader('echoforge_jax.evaluation', 'templates'),
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True)
  metrics = result.metrics
  return environment.get_template('report.html').render(
      metrics=metrics, protocol=result.protocol, images=images,
      classes=result.classes, receipt=_receipt_rows(metrics['receipt']),
      headline=results.headline_rows(result), ef=results.ef_rows(result),
      cards=_cards(result), groups=_group_rows(result),
      temporal=_temporal_rows(metrics['temporal']),
      cases=_case_rows(result), notes=_notes(result),
      synthetic=results.is_synthetic(metrics))


def _cards(result: Result) -> list[tuple[str, str, str]]:
  """The three or four numbers a reader looks for first."""
  name = result.classes[0]
  entries, unit = result.metrics['classes'][name], result.metrics['unit']
  cards = [
      (f'Dice, {name.upper()}',
       results.number(entries['dice']['mean'], 2, 100) + ' %',
       results.interval(entries['dice']['ci95'], 2, 100)),
      (f'Hausdorff distance, {name.upper()}',
       f'{results.number(entries["hd"]["mean"], 2)} {unit}',
       results.interval(entries['hd']['ci95'], 2))]
  ef = result.metrics['ef']
  if ef['n']:
    cards += [('EF bias', results.number(ef['bias'], 2) + ' points',
               results.interval(ef['ci95']['bias'], 2)),
              ('EF correlation r', results.number(ef['pearson_r'], 3),
               results.interval(ef['ci95']['pearson_r'], 3))]
  return cards


def _group_rows(result: Result) -> list[tuple[str, ...]]:
  """Dice and HD of the first class by view, quality and phase."""
  name, rows = result.classes[0], []
  for kind, groups in result.metrics['groups'].items():
    for key, entries in groups.items():
      dice, hd = entries[name]['dice'], entries[name]['hd']
      rows.append((kind, key, str(dice['n']),
                   results.number(dice['mean'], 2, 100),
                   results.interval(dice['ci95'], 2, 100),
                   results.number(hd['mean'], 2),
                   results.interval(hd['ci95'], 2)))
  return rows


def _temporal_rows(block: dict) -> list[tuple[str, str, str, str]]:
  rough, bad = block['area_roughness'], block['inconsistent_share']
  rows = []
  for label, entry, truth in (
      ('area roughness (%)', rough, rough['truth']),
      ('inconsistent frames (%)', bad, bad['truth']),
      ('frames in one piece, no holes (%)', block['valid_share'], None)):
    rows.append((label, results.number(entry['mean'], 2, 100),
                 results.interval(entry['ci95'], 2, 100),
                 results.number(truth['mean'], 2, 100) if truth else ''))
  return rows


def _case_rows(result: Result) -> list[dict]:
  name = result.classes[0]
  rows = []
  for row in sorted(result.per_case,
                    key=lambda r: (r['patient'], r['view'])):
    rows.append({
        'patient': row['patient'], 'view': row['view'],
        'quality': row['quality'],
        'dice': results.number(row[f'{name}_dice'], 2, 100),
        'hd': results.number(row[f'{name}_hd'], 2),
        'asd': results.number(row[f'{name}_asd'], 2),
        'edv': results.number(row['edv_predicted_ml'], 0),
        'esv': results.number(row['esv_predicted_ml'], 0),
        'ef_reference': results.number(row['ef_reference'], 1),
        'ef_predicted': results.number(row['ef_predicted'], 1),
        'flags': row['flags'].replace('_', ' ')})
  return rows


def _receipt_rows(receipt: dict) -> list[tuple[str, str]]:
  skipped = ('versions', 'protocol')
  rows = [(key.replace('_', ' '), 'unknown' if value is None else str(value))
          for key, value in receipt.items() if key not in skipped]
  for name, version in receipt.get('versions', {}).items():
    rows.append((name, version))
  return rows


def _notes(result: Result) -> list[str]:
  """What a reader must know before quoting a number."""
  metrics = result.metrics
  ef, unit = metrics['ef'], metrics['unit']
  notes = [
      'Intervals are 95 % percentile bootstrap intervals that resample '
      f'patients ({metrics["receipt"]["resamples"]} resamples, seed '
      f'{metrics["receipt"]["seed"]}). They do not cover the variation '
      'between training runs.',
      'The clip runs from the known ED to the known ES, as in the papers; in '
      'use, these instants are not known.',
      f'Distances are in {unit}, between pixel centres of the two outlines, '
      'on the true pixel spacing.' if unit == 'mm' else
      'No pixel spacing is known: distances are in pixels of the native grid '
      'and no volume is given.']
  if ef['reference'] == ['dataset']:
    notes.append(
        'The EF reference is the value the dataset gives, which need not '
        'come from the masks: true masks themselves differ from it by '
        + _plain(metrics['ef_masks_against_dataset']) + '.')
  elif ef['reference'] == ['masks']:
    notes.append('The dataset gives no EF: the reference is measured on the '
                 'true masks by the same method.')
  elif ef['reference']:
    notes.append('The EF reference is the dataset\'s value where it has one, '
                 'else measured on the true masks.')
  if metrics['n_patients'] < 30:
    notes.append(f'Only {metrics["n_patients"]} patients: intervals this '
                 'small a sample gives are too narrow.')
  for name in result.classes:
    both, one = metrics['not_applicable'][name], metrics['one_empty'][name]
    if both or one:
      notes.append(
          f'{name.upper()}: {both} scored frames have neither truth nor '
          f'prediction (left out); {one} have only one of them (Dice 0, '
          'distance = diagonal of the field of view).')
  if ef['not_measurable'] or ef['out_of_range']:
    notes.append(
        f'{ef["not_measurable"]} patients have no measurable predicted EF and '
        f'are left out of the EF block; {ef["out_of_range"]} lie outside '
        '0-90 % and are kept in it.')
  if results.is_synthetic(metrics):
    notes.insert(0, f'{results.SYNTHETIC_NOTE.capitalize()}.')
  notes.append('Research software, not a medical device and not for clinical '
               'use.')
  return notes


def _plain(agreement: dict) -> str:
  if not agreement['n'] or not math.isfinite(agreement['bias']):
    return 'an unknown amount'
  return (f'{agreement["bias"]:+.2f} points on average (SD '
          f'{results.number(agreement["sd"], 2)}, n = {agreement["n"]})')
