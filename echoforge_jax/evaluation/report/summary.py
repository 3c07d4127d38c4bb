"""What a terminal shows after an evaluation: numbers, doubt, flags.

At most about forty lines: the rest is in metrics.json and the report.
"""

from collections.abc import Iterable
import math

from echoforge_jax import textio
from echoforge_jax.evaluation import results
from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.metrics import statistics, temporal

_FEW = 30
_SHOWN = 4  # Flagged patients that are listed.
# With several classes these alone; the rest is in metrics.json.
_SHORT = ('dice', 'hd', 'asd')
_DOUBTS = (
  ('no_cavity', 'no ventricle'),
  ('es_larger_than_ed', 'a larger ventricle at ES than at ED'),
)
_WHOLE_DOUBTS = (
  ('no_cavity', 'no ventricle'),
  ('empty_frames', 'frames without a ventricle'),
  ('es_before_ed', 'ES found before ED'),
  ('no_contraction', 'no visible contraction'),
  ('es_larger_than_ed', 'a larger ventricle at ES than at ED'),
)


def summary_text(result: Result) -> str:
  """What was measured, how sure it is, and what is to be doubted.

  The tests in it are two-sided Wilcoxon signed-rank tests over patients: of
  predicted minus reference EF, and of a prediction's roughness, inconsistent
  and valid frames minus the truth's.

  Args:
    result: what `score_predictions` returned.

  Returns:
    Lines of text without a trailing newline.
  """
  m = result.metrics
  blocks = [
    _overlap(result),
    _ejection(result),
    _over_time(result),
    _trust(m),
    _sure(m),
    _flags(result),
    [_receipt(m)],
  ]
  return '\n\n'.join('\n'.join(block) for block in blocks if block)


def _overlap(result: Result) -> list[str]:
  """Who was scored, and the table of overlaps and distances."""
  m, receipt = result.metrics, result.metrics['receipt']
  lines = [
    f'protocol {m["protocol"]}: {_count(m["n_patients"], "patient")}, '
    f'{_count(m["n_clips"], "clip")}, '
    f'{_count(m["n_frames"], "frame")} scored'
  ]
  if receipt.get('run'):
    lines.append(
      f'{receipt.get("which", "network")} of {receipt["run"]} after '
      f'{receipt.get("checkpoint_step")} steps, on '
      f'{receipt.get("dataset")} {receipt.get("split")}'
    )
  if textio.is_synthetic(m):
    lines.append(textio.SYNTHETIC_NOTE)
  lines.append('mean [95 % interval over patients]')
  whole = m.get('whole_clip') or {}
  several = len(m['classes']) > 1
  table = [('', '', 'ED, ES known', '', *(('whole clip', '') if whole else ()))]
  for name, entries in m['classes'].items():
    for metric, entry in entries.items():
      if several and metric not in _SHORT:
        continue
      share = metric in ('dice', 'iou')
      scale, digits = (100, 2) if share else (1, 2)
      row = [
        name.upper(),
        f'{textio.NAMES[metric]} ({"%" if share else m["unit"]})',
      ]
      for one in [entry] + ([whole['classes'][name][metric]] if whole else []):
        row += [
          textio.number(one['mean'], digits, scale),
          textio.interval(one['ci95'], digits, scale),
        ]
      table.append(tuple(row))
  return lines + textio.columns(table)


def _ejection(result: Result) -> list[str]:
  """The EF with ED and ES known and, beside it, found by the network."""
  m = result.metrics
  whole = m.get('whole_clip') or {}
  ef = [m['ef'], *([whole['ef']] if whole else [])]
  if not any(e['n'] for e in ef):
    return ['ejection fraction: not measurable here', *_found(whole)]
  table = [('', 'ED, ES known', '', *(('whole clip', '') if whole else ()))]
  for label, key, digits in (
    ('Pearson r', 'pearson_r', 3),
    ('bias (points)', 'bias', 2),
    ('MAE (points)', 'mae', 2),
  ):
    table.append(
      (
        label,
        *(
          text
          for e in ef
          for text in (
            textio.number(e[key], digits),
            textio.interval(e['ci95'][key], digits),
          )
        ),
      )
    )
  table.append(
    (
      'limits of agreement',
      *(text for e in ef for text in (textio.interval(e['loa'], 2), '')),
    )
  )
  columns = ['ef_predicted', *(['ef_whole_clip'] if whole else [])]
  table.append(
    (
      'bias is not 0',
      *(text for column in columns for text in (_bias(result, column), '')),
    )
  )
  counts = ' and '.join(str(e['n']) for e in ef)
  return [
    f'ejection fraction, {counts} patients '
    f'(reference: {" and ".join(m["ef"]["reference"])})',
    *textio.columns(table),
    *_found(whole),
  ]


def _found(whole: dict) -> list[str]:
  """How far the instants that were found lie from the true ones."""
  parts = []
  for key, label in (('ed_error', 'ED'), ('es_error', 'ES')):
    frames, ms = whole.get(f'{key}_frames'), whole.get(f'{key}_ms')
    if frames and frames['n']:
      time = f' ({ms["mean"]:.0f} ms)' if ms and ms['n'] else ''
      parts.append(
        f'{label} {frames["mean"]:.1f} '
        f'{textio.interval(frames["ci95"], 1)} frames{time}'
      )
  return [f'  found in whole clips within: {", ".join(parts)}'] if parts else []


def _bias(result: Result, column: str) -> str:
  pairs = {
    r['patient']: (r[column], r['ef_reference']) for r in result.per_case
  }.values()
  return _difference(pairs, 'over', 'under', 'unclear')


def _over_time(result: Result) -> list[str]:
  """Roughness, inconsistency and validity beside the truth's own."""
  ranges = temporal.attribute_ranges(
    [c.truth_attributes for c in result.clips if c.truth_attributes]
  )
  table = [('over time', 'predicted', '', 'truth', '')]
  for label, key, measure in (
    (
      'area roughness (%)',
      'area_roughness',
      lambda c: (
        temporal.roughness(c.areas),
        temporal.roughness(c.truth_areas),
      ),
    ),
    (
      'inconsistent frames (%)',
      'inconsistent_share',
      lambda c: (
        temporal.inconsistent_share(c.attributes, ranges),
        temporal.inconsistent_share(c.complete_truth, ranges),
      ),
    ),
    (
      'anatomically valid (%)',
      'valid_share',
      lambda c: (c.valid, c.truth_valid),
    ),
  ):
    entry = result.metrics['temporal'].get(key)
    if not entry or not entry['n']:
      continue
    truth = entry.get('truth') or {}
    verdict = ''
    if truth.get('n'):
      verdict = _difference(
        _patient_pairs(result, measure),
        'more than the truth',
        'less than the truth',
        'not distinguishable from the truth',
      )
    table.append(
      (
        label,
        textio.number(entry['mean'], 2, 100),
        textio.interval(entry['ci95'], 2, 100),
        textio.number(truth.get('mean'), 2, 100),
        verdict,
      )
    )
  lines = textio.columns(table)
  return [lines[0][2:], *lines[1:]] if len(lines) > 1 else []


def _patient_pairs(result: Result, measure) -> list[tuple[float, float]]:
  """Means over each patient's clips of a pair of numbers."""
  found: dict[str, list[tuple[float, float]]] = {}
  for clip in result.clips:
    pair = measure(clip)
    if all(map(math.isfinite, pair)):
      found.setdefault(clip.case.patient, []).append(pair)
  return [
    tuple(sum(v) / len(v) for v in zip(*pairs)) for pairs in found.values()
  ]


def _difference(
  pairs: Iterable[tuple[float, float]], larger: str, smaller: str, neither: str
) -> str:
  """What a signed-rank test of pairs may say, with its p."""
  pairs = [p for p in pairs if all(map(math.isfinite, p))]
  if not pairs:
    return ''
  test = statistics.wilcoxon(*zip(*pairs))
  if not test['n_different']:
    return 'no difference'
  if test['smallest_p'] >= statistics.ALPHA:
    return f'too few patients ({test["n_different"]} differ)'
  p = textio.p_text(test['p_value'])
  if test['p_value'] >= statistics.ALPHA:
    return f'{neither} (p {p})'
  return f'{larger if test["median_difference"] > 0 else smaller} (p {p})'


def _trust(m: dict) -> list[str]:
  """Calibration, and what the confidence is worth."""
  lines = []
  ece = (m.get('calibration') or {}).get('ece')
  if ece and ece['n']:
    lines.append(
      'calibration error near the outlines '
      f'{textio.number(ece["mean"], 2, 100)} % '
      f'{textio.interval(ece["ci95"], 2, 100)}'
    )
  risk = m.get('risk_coverage')
  if risk:
    lines.append(
      'EF error when the least confident are left out, mean over shares: '
      f'{textio.number(risk["aurc"], 2)} points '
      f'{textio.interval(risk["aurc_ci95"], 2)}'
    )
    lines.append(
      f'  (confidence without value: '
      f'{textio.number(risk["aurc_random"], 2)}; perfect: '
      f'{textio.number(risk["aurc_oracle"], 2)})'
    )
  return lines


def _sure(m: dict) -> list[str]:
  """What the intervals say and what they do not."""
  n = m['n_patients']
  lines = [
    'how sure: intervals cover the choice of patients, not the '
    'variation between training runs',
    f'  p: Wilcoxon signed-rank over at most {n} patients, not adjusted '
    'for the number of tests',
  ]
  if n < 2:
    lines.append('  one patient: no interval, no test')
  elif n < _FEW:
    lines.append(
      f'  {n} patients are few: rare failures may be absent, '
      'intervals somewhat too narrow'
    )
  return lines


def _flags(result: Result) -> list[str]:
  """What is to be doubted, most general first."""
  m = result.metrics
  found = []
  for name, count in m['one_empty'].items():
    if count:
      found.append(
        f'{name.upper()}: {_count(count, "scored frame")} with only '
        'a truth or only a prediction (Dice 0)'
      )
  for name, count in m['not_applicable'].items():
    if count:
      found.append(
        f'{name.upper()}: {_count(count, "scored frame")} with '
        'neither truth nor prediction, left out'
      )
  found += _doubts('ED, ES known', m['ef'], m['flags'], _DOUBTS)
  if whole := m.get('whole_clip'):
    found += _doubts('whole clip', whole['ef'], whole['flags'], _WHOLE_DOUBTS)
  rows = results.flagged_rows(result)
  lines = ['flagged' if found or rows else 'flagged: nothing']
  lines += [f'  {text}' for text in found]
  if rows:
    lines += textio.columns(
      [(p, f'EF {e} -> {q}', f) for p, e, q, f in rows[:_SHOWN]]
    )
  if len(rows) > _SHOWN:
    lines.append(f'  and {len(rows) - _SHOWN} more in per_case.csv')
  return lines


def _doubts(setting: str, ef: dict, flags: dict, texts) -> list[str]:
  """One line that counts the patients behind each reason for doubt."""
  found = [
    (ef.get('not_measurable', 0), 'no measurable EF, left out'),
    (ef.get('out_of_range', 0), 'an EF outside 0-90 %'),
    *((flags.get(flag, 0), text) for flag, text in texts),
  ]
  parts = [f'{count} {text}' for count, text in found if count]
  return [f'patients with ({setting}): {"; ".join(parts)}'] if parts else []


def _receipt(m: dict) -> str:
  receipt = m['receipt']
  parts = [
    f'n = {m["n_patients"]}',
    f'protocol {m["protocol"]}',
    f'bootstrap seed {receipt["seed"]} x {receipt["resamples"]}',
  ]
  for key, label in (
    ('training_seed', 'training seed'),
    ('git_revision', 'revision'),
  ):
    if receipt.get(key) is not None:
      parts.append(f'{label} {receipt[key]}')
  versions = receipt.get('versions') or {}
  parts += [
    f'{name} {versions[name]}'
    for name in ('echoforge_jax', 'jax', 'numpy', 'scipy')
    if name in versions
  ]
  return ', '.join(parts)


def _count(number: int, noun: str) -> str:
  return f'{number} {noun}{"" if number == 1 else "s"}'
