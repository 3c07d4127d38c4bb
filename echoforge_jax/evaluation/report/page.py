"""report/index.html: one self-contained page, its figures inside it."""

import base64
from collections.abc import Sequence
import json
import math
import pathlib

import jinja2
import markupsafe
from plotly import offline

from echoforge_jax import textio
from echoforge_jax.evaluation import results
from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.evaluation.report import figures, plots
from echoforge_jax.evaluation.report.case_files import CaseFiles, case_id
from echoforge_jax.evaluation.scoring import Case

_GRADES = ('Good', 'Medium', 'Poor')


def write_report(
  result: Result,
  cases: Sequence[Case],
  report_dir,
  *,
  log_path=None,
  case_files: CaseFiles | None = None,
) -> pathlib.Path:
  """Writes the figures and the page.

  Args:
    result: the evaluation.
    cases: the evaluated clips in the same order; only the few that the
      overlay figure shows are read.
    report_dir: folder for index.html and figures/.
    log_path: a training run's metrics.jsonl, or None.
    case_files: the clips' files, or None if there are none.

  Returns:
    Path of index.html.
  """
  report_dir = pathlib.Path(report_dir)
  indices = figures.pick_examples(result)
  drawn = {
    'ef': figures.ef_figure(result),
    'areas': figures.area_figure(result, indices) if indices else None,
    'training': figures.training_figure(log_path) if log_path else None,
  }
  shown = {k: cases[k] for k in indices}
  if indices and all(case.frames is not None for case in shown.values()):
    drawn['overlays'] = figures.overlay_figure(shown, result, indices)
  images = {}
  for name, figure in drawn.items():
    file = report_dir / 'figures' / f'{name}.png'
    if figure is None:
      file.unlink(missing_ok=True)  # Of an earlier evaluation.
      continue
    data = figures.save(figure, file).read_bytes()
    images[name] = 'data:image/png;base64,' + base64.b64encode(data).decode()
  page = render_page(result, images, case_files)
  path = report_dir / 'index.html'
  path.write_text(page)
  return path


def render_page(
  result: Result, images: dict[str, str], case_files: CaseFiles | None = None
) -> str:
  """The page as text: styles, scripts and numbers are all inside it.

  Args:
    result: the evaluation.
    images: data URIs by name: 'overlays', 'areas', 'training'.
    case_files: the clips' files beside the page, or None.

  Returns:
    HTML.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('echoforge_jax.evaluation.report', 'templates'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )

  def source(name):
    return markupsafe.Markup(
      environment.loader.get_source(environment, name)[0]
    )

  metrics = result.metrics
  drawn = plots.page_plots(result)
  columns, rows, worst_by = _case_table(result)
  data = {
    'plots': drawn,
    'cases': {
      case_id(r['patient'], r['view']): _facts(r, result)
      for r in result.per_case
    },
  }
  calibration = metrics['calibration'] or {'ece': {'mean': math.nan}}
  return environment.get_template('report.html').render(
    metrics=metrics,
    protocol=result.protocol,
    images=images,
    classes=result.classes,
    receipt=_receipt_rows(metrics['receipt']),
    headline=results.headline_rows(result),
    ef=results.ef_rows(result),
    cards=_cards(result),
    groups=_group_rows(result),
    temporal=_temporal_rows(metrics['temporal']),
    whole=_whole_rows(result),
    columns=columns,
    cases=rows,
    sorted_by=worst_by,
    plots=drawn,
    ece=textio.number(calibration['ece']['mean'], 2, 100),
    files=case_files or {'count': 0},
    notes=_notes(result),
    synthetic=textio.is_synthetic(metrics),
    css=source('report.css'),
    js=source('report.js'),
    data=_embedded(data),
    # The library's source holds no closing tag of its own.
    plotly=markupsafe.Markup(offline.get_plotlyjs()),
  )


def _embedded(value) -> markupsafe.Markup:
  """JSON that no text in it can end the <script> element of."""
  text = json.dumps(
    textio.to_json(value), allow_nan=False, separators=(',', ':')
  )
  for char in '<>&':
    text = text.replace(char, f'\\u{ord(char):04x}')
  return markupsafe.Markup(text)


def _cards(result: Result) -> list[tuple[str, str, str]]:
  """The three or four numbers a reader looks for first."""
  name = result.classes[0]
  entries, unit = result.metrics['classes'][name], result.metrics['unit']
  cards = [
    (
      f'Dice, {name.upper()}',
      textio.number(entries['dice']['mean'], 2, 100) + ' %',
      textio.interval(entries['dice']['ci95'], 2, 100),
    ),
    (
      f'Hausdorff distance, {name.upper()}',
      f'{textio.number(entries["hd"]["mean"], 2)} {unit}',
      textio.interval(entries['hd']['ci95'], 2),
    ),
  ]
  ef = result.metrics['ef']
  if ef['n']:
    cards += [
      (
        'EF bias',
        textio.number(ef['bias'], 2) + ' points',
        textio.interval(ef['ci95']['bias'], 2),
      ),
      (
        'EF correlation r',
        textio.number(ef['pearson_r'], 3),
        textio.interval(ef['ci95']['pearson_r'], 3),
      ),
    ]
  return cards


def _group_rows(result: Result) -> list[tuple[str, ...]]:
  """Dice and HD of the first class by view, quality and phase."""
  name, rows = result.classes[0], []
  for kind, groups in result.metrics['groups'].items():
    for key, entries in sorted(
      groups.items(),
      key=lambda g: (
        _GRADES.index(g[0]) if g[0] in _GRADES else len(_GRADES),
        g[0],
      ),
    ):
      dice, hd = entries[name]['dice'], entries[name]['hd']
      rows.append(
        (
          kind,
          key,
          str(dice['n']),
          textio.number(dice['mean'], 2, 100),
          textio.interval(dice['ci95'], 2, 100),
          textio.number(hd['mean'], 2),
          textio.interval(hd['ci95'], 2),
        )
      )
  return rows


def _temporal_rows(block: dict) -> list[tuple[str, str, str, str]]:
  rough, bad = block['area_roughness'], block['inconsistent_share']
  rows = []
  for label, entry, truth in (
    ('area roughness (%)', rough, rough['truth']),
    ('inconsistent frames (%)', bad, bad['truth']),
    (
      'anatomically valid frames (%)',
      block['valid_share'],
      block['valid_share']['truth'],
    ),
  ):
    rows.append(
      (
        label,
        textio.number(entry['mean'], 2, 100),
        textio.interval(entry['ci95'], 2, 100),
        textio.number(truth['mean'], 2, 100) if truth else '',
      )
    )
  return rows


def _whole_rows(result: Result) -> list[tuple[str, ...]]:
  """Known against unknown ED and ES; empty where whole clips were left out."""
  metrics = result.metrics
  block, name = metrics['whole_clip'], result.classes[0]
  if not block:
    return []
  rows = []
  for metric, digits, scale in (('dice', 2, 100), ('hd', 2, 1), ('asd', 2, 1)):
    unit = '%' if scale == 100 else metrics['unit']
    label = textio.NAMES[metric]
    rows.append(
      (
        f'{label}, {name.upper()} ({unit})',
        *(
          text
          for entry in (
            metrics['classes'][name][metric],
            block['classes'][name][metric],
          )
          for text in (
            textio.number(entry['mean'], digits, scale),
            textio.interval(entry['ci95'], digits, scale),
          )
        ),
      )
    )
  for key, label, digits in (
    ('pearson_r', 'EF, Pearson r', 3),
    ('bias', 'EF bias (points)', 2),
    ('mae', 'EF mean absolute error (points)', 2),
  ):
    rows.append(
      (
        label,
        *(
          text
          for ef in (metrics['ef'], block['ef'])
          for text in (
            textio.number(ef[key], digits),
            textio.interval(ef['ci95'][key], digits),
          )
        ),
      )
    )
  for key in ('ed', 'es'):
    frames, ms = block[f'{key}_error_frames'], block[f'{key}_error_ms']
    rows.append(
      (
        f'{key.upper()} found within (frames)',
        '',
        '',
        f'{textio.number(frames["mean"], 1)} '
        f'({textio.number(ms["mean"], 0)} ms)',
        textio.interval(frames['ci95'], 1),
      )
    )
  return rows


def _case_table(result: Result):
  """Columns (label, numeric), rows (id, [(text, sort key)]), Dice's column.

  The worst come first.
  """
  name, unit = result.classes[0], result.metrics['unit']
  columns = [('patient', 'patient', None), ('view', 'view', None)]
  if any(row['quality'] for row in result.per_case):
    columns.append(('quality', 'quality', None))
  worst_by = len(columns)
  columns += [
    (f'{name.upper()} Dice (%)', f'{name}_dice', (2, 100)),
    (f'HD ({unit})', f'{name}_hd', (2, 1)),
    (f'ASD ({unit})', f'{name}_asd', (2, 1)),
  ]
  if unit == 'mm':
    columns += [
      ('EDV (ml)', 'edv_predicted_ml', (0, 1)),
      ('ESV (ml)', 'esv_predicted_ml', (0, 1)),
    ]
  columns += [
    ('EF ref. (%)', 'ef_reference', (1, 1)),
    ('EF pred. (%)', 'ef_predicted', (1, 1)),
  ]
  if result.metrics['whole_clip']:
    columns.append(('EF whole clip (%)', 'ef_whole_clip', (1, 1)))
  columns += [
    ('certainty (%)', 'confidence', (1, 100)),
    ('flags', 'flags', None),
  ]

  def cell(row, key, form):
    value = row[key]
    if form is None:
      text = _flags(value) if key == 'flags' else str(value)
      return text, text
    known = math.isfinite(value)
    return textio.number(value, *form), f'{value:.6g}' if known else ''

  def badness(row):
    dice = row[f'{name}_dice']
    return (not math.isfinite(dice), dice, row['patient'], row['view'])

  rows = [
    (
      case_id(row['patient'], row['view']),
      [cell(row, key, form) for _, key, form in columns],
    )
    for row in sorted(result.per_case, key=badness)
  ]
  return (
    [(label, form is not None) for label, _, form in columns],
    rows,
    worst_by,
  )


def _facts(row: dict, result: Result) -> list[tuple[str, str]]:
  """What the viewer says about a clip beside its frames."""
  name, unit = result.classes[0], row['unit']
  number = textio.number
  facts = [
    ('Dice', f'{number(row[f"{name}_dice"], 2, 100)} %'),
    (
      'HD, ASD',
      f'{number(row[f"{name}_hd"], 2)} {unit}, '
      f'{number(row[f"{name}_asd"], 2)} {unit}',
    ),
    (
      'EF predicted, reference',
      f'{number(row["ef_predicted"], 1)} %, {number(row["ef_reference"], 1)} %',
    ),
  ]
  if math.isfinite(row['edv_predicted_ml']):
    facts.append(
      (
        'EDV, ESV predicted',
        f'{number(row["edv_predicted_ml"], 0)}'
        f' ml, {number(row["esv_predicted_ml"], 0)} ml',
      )
    )
  if math.isfinite(row['ef_whole_clip']):
    facts.append(
      (
        'EF, ED and ES found',
        f'{number(row["ef_whole_clip"], 1)} '
        f'% (frames {number(row["ed_found"] + 1, 0)}, '
        f'{number(row["es_found"] + 1, 0)} of the whole clip)',
      )
    )
  facts += [
    ('quality', row['quality'] or 'unknown'),
    ('flags', _flags(row['flags']) or 'none'),
  ]
  if row['whole_clip_flags']:
    facts.append(('flags, whole clip', _flags(row['whole_clip_flags'])))
  return facts


def _flags(text: str) -> str:
  """'no_cavity holes' -> 'no cavity, holes'."""
  return ', '.join(text.split()).replace('_', ' ')


def _receipt_rows(receipt: dict) -> list[tuple[str, str]]:
  skipped = ('versions', 'protocol')
  rows = [
    (key.replace('_', ' '), 'unknown' if value is None else str(value))
    for key, value in receipt.items()
    if key not in skipped
  ]
  for name, version in receipt.get('versions', {}).items():
    rows.append((name, version))
  return rows


def _notes(result: Result) -> list[str]:
  """What a reader must know before quoting a number."""
  metrics = result.metrics
  ef, unit = metrics['ef'], metrics['unit']
  notes = [
    'Intervals are 95 % bootstrap intervals that resample '
    f'patients ({metrics["receipt"]["resamples"]} resamples, seed '
    f'{metrics["receipt"]["seed"]}). They do not cover the variation '
    'between training runs.',
    'Clips run from the known ED to the known ES, as in the papers; in use, '
    'these instants are not known'
    + (': see the whole clips.' if metrics['whole_clip'] else '.'),
    f'Distances are in {unit}, between pixel centres of the two outlines, '
    'on the true pixel spacing.'
    if unit == 'mm'
    else 'No pixel spacing is known: distances are in native pixels '
    'and no volume is given.',
  ]
  if ef['reference'] == ['dataset']:
    notes.append(
      'The EF reference is the value the dataset gives, which need not '
      'come from the masks: true masks themselves differ from it by '
      + _plain(metrics['ef_masks_against_dataset'])
      + '.'
    )
  elif ef['reference'] == ['masks']:
    notes.append(
      'The dataset gives no EF: the reference is measured on the '
      'true masks by the same method.'
    )
  elif ef['reference']:
    notes.append(
      "The EF reference is the dataset's value where it has one, "
      'else measured on the true masks.'
    )
  share = metrics['temporal']['inconsistent_share']
  if share['n'] and not share['truth']['n']:
    notes.append(
      'No clip has a truth on every frame: how many of its frames the '
      'thresholds would call inconsistent, the floor of that share, is not '
      'known.'
    )
  if metrics['n_patients'] < 30:
    notes.append(
      f'Only {metrics["n_patients"]} patients: one patient more '
      'or less moves these numbers.'
    )
  for name in result.classes:
    both, one = metrics['not_applicable'][name], metrics['one_empty'][name]
    if both or one:
      notes.append(
        f'{name.upper()}: {both} scored frames have neither truth nor '
        f'prediction (left out); {one} have only one of them (Dice 0, '
        'distance = diagonal of the field of view).'
      )
  if ef['not_measurable'] or ef['out_of_range']:
    notes.append(
      f'{ef["not_measurable"]} patients have no measurable predicted EF and '
      f'are left out of the EF block; {ef["out_of_range"]} lie outside '
      '0-90 % and are kept in it.'
    )
  if textio.is_synthetic(metrics):
    notes.insert(0, f'{textio.SYNTHETIC_NOTE.capitalize()}.')
  notes.append(
    'Research software, not a medical device and not for clinical use.'
  )
  return notes


def _plain(agreement: dict) -> str:
  if not agreement['n'] or not math.isfinite(agreement['bias']):
    return 'an unknown amount'
  return (
    f'{agreement["bias"]:+.2f} points on average (SD '
    f'{textio.number(agreement["sd"], 2)}, n = {agreement["n"]})'
  )
