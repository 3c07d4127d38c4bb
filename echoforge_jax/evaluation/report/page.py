"""report/index.html: one self-contained page, its figures inside it."""

import base64
from collections.abc import Sequence
import json
import math
import pathlib

import jinja2
from markupsafe import Markup

from echoforge_jax import textio
from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.evaluation.report import charts, figures, tables
from echoforge_jax.evaluation.report.case_files import CaseFiles, case_id
from echoforge_jax.evaluation.report.notes import notes
from echoforge_jax.evaluation.scoring import Case


def write_report(
  result: Result,
  cases: Sequence[Case],
  report_dir,
  *,
  log_path=None,
  case_files: CaseFiles | None = None,
) -> pathlib.Path:
  """Writes the figures and the page; returns the path of index.html.

  Args:
    cases: the evaluated clips in the same order; only the few that the overlay figure shows are
      read.
    log_path: a training run's metrics.jsonl, or None.
  """
  report_dir = pathlib.Path(report_dir)
  folder = report_dir / 'figures'
  folder.mkdir(parents=True, exist_ok=True)
  for old in folder.iterdir():  # Of an earlier evaluation.
    old.unlink()
  drawn = charts.page_charts(result)
  indices = figures.pick_examples(result)
  shown = {k: cases[k] for k in indices}
  overlays = None
  if indices:
    drawn['areas'] = figures.area_chart(result, indices)
    if all(case.frames is not None for case in shown.values()):
      overlays = figures.png(figures.overlay_figure(shown, result, indices))
      (folder / 'overlays.png').write_bytes(overlays)
  if log_path and (training := figures.training_chart(log_path)):
    drawn['training'] = training
  for name, chart in drawn.items():
    (folder / f'{name}.svg').write_text(chart.svg(name))
  path = report_dir / 'index.html'
  path.write_text(_render(result, drawn, overlays, case_files))
  return path


def _render(result: Result, drawn, overlays: bytes | None, case_files: CaseFiles | None) -> str:
  """Returns the page as text: styles, script, figures and numbers are inside it."""
  loader = jinja2.PackageLoader(__package__, 'templates')
  options = dict(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
  environment = jinja2.Environment(loader=loader, autoescape=True, **options)

  def source(name):
    return Markup(environment.loader.get_source(environment, name)[0])

  metrics = result.metrics
  columns, rows, worst_by = tables.case_table(result)
  calibration = metrics['calibration'] or {'ece': {'mean': math.nan}}
  facts = {case_id(r['patient'], r['view']): tables.facts(r, result) for r in result.per_case}
  return environment.get_template('report.html').render(
    metrics=metrics,
    protocol=result.protocol,
    charts={name: Markup(c.element(name)) for name, c in drawn.items()},
    overlays=overlays and base64.b64encode(overlays).decode(),
    classes=result.classes,
    receipt=tables.receipt_rows(metrics['receipt']),
    headline=tables.headline_rows(result),
    ef=tables.ef_rows(result),
    cards=tables.cards(result),
    groups=tables.group_rows(result),
    temporal=tables.temporal_rows(metrics['temporal']),
    whole=tables.whole_rows(result),
    columns=columns,
    cases=rows,
    sorted_by=worst_by,
    ece=textio.number(calibration['ece']['mean'], 2, 100),
    files=case_files or {'count': 0},
    notes=notes(result),
    synthetic=textio.is_synthetic(metrics),
    css=source('report.css'),
    js=source('report.js'),
    data=_embedded({'cases': facts}),
  )


def _embedded(value) -> Markup:
  """Returns JSON that no text in it can end the <script> element of."""
  text = json.dumps(textio.to_json(value), allow_nan=False, separators=(',', ':'))
  for char in '<>&':
    text = text.replace(char, f'\\u{ord(char):04x}')
  return Markup(text)
