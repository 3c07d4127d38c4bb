"""What a terminal shows after an evaluation: numbers, doubt, flags.

At most about forty lines: the rest is in metrics.json and the report.
"""

from collections.abc import Iterable
import math

from echoforge_jax import textio
from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.evaluation.report.notes import FEW, chosen_here
from echoforge_jax.evaluation.report.tables import (
  EF_KEYS,
  OVER_TIME,
  ef_texts,
  mean_texts,
  metric_form,
)
from echoforge_jax.metrics import statistics

_SHOWN = 4  # Flagged patients that are listed.
_SHORT = ('dice', 'hd', 'asd')  # With several classes these alone.
_HEADS = ('ED, ES known', '', 'whole clip', '')
# Some are flags of whole clips alone.
_DOUBTS = {
  'no_cavity': 'no ventricle',
  'empty_frames': 'frames without a ventricle',
  'es_before_ed': 'ES found before ED',
  'no_contraction': 'no visible contraction',
  'es_larger_than_ed': 'a larger ventricle at ES than at ED',
}


def summary_text(result: Result) -> str:
  """Returns what was measured, how sure it is, and what is to be doubted.

  The tests in it are two-sided Wilcoxon signed-rank tests over patients: of predicted minus
  reference EF, and of a prediction's roughness, inconsistent and valid frames minus the truth's.
  """
  m = result.metrics
  blocks = [_overlap(m), _ejection(result), _over_time(result), _trust(m)]
  blocks += [_sure(m['n_patients']), _flags(result), [_receipt(m)]]
  return '\n\n'.join('\n'.join(block) for block in blocks if block)


def _overlap(m: dict) -> list[str]:
  """Returns who was scored, and the table of overlaps and distances."""
  receipt = m['receipt']
  lines = [
    f'protocol {m["protocol"]}: {_count(m["n_patients"], "patient")}, '
    f'{_count(m["n_clips"], "clip")}, {_count(m["n_frames"], "frame")} scored'
  ]
  if receipt.get('run'):
    lines.append(f'{_source(receipt)}, on {receipt.get("dataset")} {receipt.get("split")}')
  if textio.is_synthetic(m):
    lines.append(textio.SYNTHETIC_NOTE)
  if unlabeled := receipt.get('unlabeled_classes'):
    lines.append(f'not labeled in these data, and not scored: {", ".join(unlabeled)}')
  lines.append('mean [95 % interval over patients]')
  settings = [m, *filter(None, [m['whole_clip']])]
  table = [('', '', *_HEADS[: 2 * len(settings)])]
  for name, entries in m['classes'].items():
    for metric in entries:
      if len(m['classes']) > 1 and metric not in _SHORT:
        continue
      label, scale = metric_form(metric, m['unit'])
      texts = [mean_texts(s['classes'][name][metric], scale) for s in settings]
      table.append((name.upper(), label, *sum(texts, ())))
  return lines + textio.columns(table)


def _source(receipt: dict) -> str:
  """Says which network predicted, or whose masks these are."""
  if sha := receipt.get('predictions_sha256'):
    missing = f', {receipt["n_missing"]} clips without masks left out' * bool(receipt['n_missing'])
    return f'masks of another tool in {receipt["run"]} (sha256 {sha[:12]}{missing})'
  score, here = receipt.get('step_score'), ', on these patients' * chosen_here(receipt)
  best = '' if score is None else f' ({receipt["step_choice"]} {textio.number(score, 4)}{here})'
  return (
    f'{receipt.get("which", "network")} of {receipt["run"]} after '
    f'{receipt.get("checkpoint_step")} steps{best}'
  )


def _ejection(result: Result) -> list[str]:
  """Returns the EF with ED and ES known and, beside it, found by the network."""
  m = result.metrics
  settings = [m, *filter(None, [m['whole_clip']])]
  blocks = [s['ef'] for s in settings]
  if not any(ef['n'] for ef in blocks):
    return ['ejection fraction: not measurable here', *_found(m['whole_clip'])]
  table = [('', *_HEADS[: 2 * len(settings)])]
  for key, (label, digits) in EF_KEYS.items():
    table.append((label, *sum((ef_texts(ef, key, digits) for ef in blocks), ())))
  limits = [(textio.interval(ef['loa'], 2), '') for ef in blocks]
  table.append(('limits of agreement', *sum(limits, ())))
  biases = []
  for column, _ in zip(('ef_predicted', 'ef_whole_clip'), settings):
    pairs = {r['patient']: (r[column], r['ef_reference']) for r in result.per_case}.values()
    biases += [_difference(pairs, 'over', 'under', 'unclear'), '']
  table.append(('bias is not 0', *biases))
  counts = ' and '.join(str(ef['n']) for ef in blocks)
  return [
    f'ejection fraction, {counts} patients (reference: {" and ".join(m["ef"]["reference"])})',
    *textio.columns(table),
    *_found(m['whole_clip']),
  ]


def _found(whole: dict | None) -> list[str]:
  """Says how far the instants that were found lie from the true ones."""
  parts = []
  for key in ('ed', 'es') if whole else ():
    frames, ms = whole[f'{key}_error_frames'], whole[f'{key}_error_ms']
    if frames['n']:
      time = f' ({ms["mean"]:.0f} ms)' if ms['n'] else ''
      mean, ci = mean_texts(frames, digits=1)
      parts.append(f'{key.upper()} {mean} {ci} frames{time}')
  return [f'  found in whole clips within: {", ".join(parts)}'] if parts else []


def _over_time(result: Result) -> list[str]:
  """Returns roughness, inconsistency and validity beside the truth's own."""
  table = [('over time', 'predicted', '', 'truth', '')]
  for key, label in OVER_TIME.items():
    entry = result.metrics['temporal'][key]
    if not entry['n']:
      continue
    verdict = ''
    if entry['truth']['n']:
      texts = ('more than the truth', 'less than the truth', 'not distinguishable from the truth')
      verdict = _difference(_patient_pairs(result, key), *texts)
    truth, _ = mean_texts(entry['truth'], 100)
    table.append((label, *mean_texts(entry, 100), truth, verdict))
  lines = textio.columns(table)
  if all(len(clip.areas) < 3 for clip in result.clips):
    lines.append('  clips of two frames: roughness and inconsistent frames do not apply')
  return [lines[0][2:], *lines[1:]] if len(lines) > 1 else []


def _patient_pairs(result: Result, key: str) -> list[tuple[float, float]]:
  """Returns means over each patient's clips of (prediction, truth)."""
  found: dict[str, list[tuple[float, float]]] = {}
  for clip, series in zip(result.clips, result.over_time):
    if all(map(math.isfinite, series[key])):
      found.setdefault(clip.case.patient, []).append(series[key])
  return [tuple(sum(v) / len(v) for v in zip(*pairs)) for pairs in found.values()]


def _difference(pairs: Iterable[tuple], larger: str, smaller: str, neither: str) -> str:
  """Says what a signed-rank test of pairs may, with its p."""
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
  """Says how calibrated the probability is, and what the confidence is worth."""
  lines = []
  if m['calibration'] and m['calibration']['ece']['n']:
    mean, ci = mean_texts(m['calibration']['ece'], 100)
    lines.append(f'calibration error near the outlines {mean} % {ci}')
  if risk := m['risk_coverage']:
    aurc, none, best = (textio.number(risk[f'aurc{key}'], 2) for key in ('', '_random', '_oracle'))
    lines += [
      'EF error when the least confident are left out, mean over shares: '
      f'{aurc} points {textio.interval(risk["aurc_ci95"], 2)}',
      f'  (confidence without value: {none}; perfect: {best})',
    ]
  return lines


def _sure(n: int) -> list[str]:
  """Says what the intervals cover and what they do not."""
  lines = [
    'how sure: intervals cover the choice of patients, not the variation between training runs',
    f'  p: Wilcoxon signed-rank over at most {n} patients, not adjusted for the number of tests',
  ]
  if n < 2:
    lines.append('  one patient: no interval, no test')
  elif n < FEW:
    lines.append(
      f'  {n} patients are few: rare failures may be absent, intervals somewhat too narrow'
    )
  return lines


def _flags(result: Result) -> list[str]:
  """Says what is to be doubted, most general first."""
  m = result.metrics
  texts = {
    'one_empty': 'only a truth or only a prediction (Dice 0)',
    'not_applicable': 'neither truth nor prediction, left out',
  }
  found = [
    f'{name.upper()}: {_count(count, "scored frame")} with {text}'
    for key, text in texts.items()
    for name, count in m[key].items()
    if count
  ]
  found += _doubts('ED, ES known', m)
  if m['whole_clip']:
    found += _doubts('whole clip', m['whole_clip'])
  rows = {r['patient']: r for r in result.per_case if r['flags']}
  listed = []
  for patient, r in list(rows.items())[:_SHOWN]:
    known, predicted = (textio.number(r[f'ef_{key}'], 1) for key in ('reference', 'predicted'))
    listed.append((patient, f'EF {known} -> {predicted}', r['flags']))
  lines = ['flagged' if found or rows else 'flagged: nothing']
  lines += [f'  {text}' for text in found]
  lines += textio.columns(listed) if listed else []
  if len(rows) > _SHOWN:
    lines.append(f'  and {len(rows) - _SHOWN} more in per_case.csv')
  return lines


def _doubts(setting: str, block: dict) -> list[str]:
  """Returns one line that counts the patients behind each reason for doubt."""
  found = [
    (block['ef']['not_measurable'], 'no measurable EF, left out'),
    (block['ef']['out_of_range'], 'an EF outside 0-90 %'),
    *((block['flags'].get(flag, 0), text) for flag, text in _DOUBTS.items()),
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
  labels = {'training_seed': 'training seed', 'git_revision': 'revision'}
  parts += [f'{t} {receipt[key]}' for key, t in labels.items() if receipt.get(key) is not None]
  versions, names = receipt.get('versions') or {}, ('echoforge_jax', 'jax', 'numpy', 'scipy')
  parts += [f'{name} {versions[name]}' for name in names if name in versions]
  return ', '.join(parts)


def _count(number: int, noun: str) -> str:
  return f'{number} {noun}{"" if number == 1 else "s"}'
