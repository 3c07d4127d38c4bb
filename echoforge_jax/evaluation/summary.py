"""What a terminal shows after an evaluation: numbers, doubt, flags."""

import math

from scipy import stats

from echoforge_jax.evaluation import results, statistics
from echoforge_jax.evaluation.aggregate import Result

_FEW = 30


def summary_text(result: Result) -> str:
  """What was measured, how sure it is, and what is to be doubted.

  Args:
    result: what `score_predictions` returned.

  Returns:
    Lines of text without a trailing newline.
  """
  m = result.metrics
  lines = [f'protocol {m["protocol"]}: {m["n_patients"]} patients, '
           f'{m["n_frames"]} frames scored; mean [95 % interval over '
           'patients]']
  if results.is_synthetic(m):
    lines.append(results.SYNTHETIC_NOTE)
  lines += results.columns([row[:4] for row in results.headline_rows(result)])
  lines += ['', *_ejection(result), '', *_over_time(m)]
  if m.get('whole_clip'):
    lines += ['', *_whole_clip(m['whole_clip'], m['unit'])]
  if m.get('calibration'):
    lines += ['', *_trust(m)]
  return '\n'.join([*lines, '', *_sure(result), '', *_flags(result), '',
                    _receipt(m)])


def _ejection(result: Result) -> list[str]:
  ef, rows = result.metrics['ef'], results.ef_rows(result)
  if not rows:
    return ['ejection fraction: not measurable here']
  return [f'ejection fraction at the known ED and ES, {ef["n"]} patients '
          f'(reference: {" and ".join(ef["reference"])})',
          *results.columns(rows)]


def _over_time(m: dict) -> list[str]:
  rows = [('over time', 'predicted', '', 'truth')]
  for label, key in (('area roughness (%)', 'area_roughness'),
                     ('inconsistent frames (%)', 'inconsistent_share'),
                     ('anatomically valid frames (%)', 'valid_share')):
    entry = m['temporal'][key]
    truth = entry.get('truth') or {}
    rows.append((label, results.number(entry['mean'], 2, 100),
                 results.interval(entry['ci95'], 2, 100),
                 results.number(truth.get('mean'), 2, 100)))
  return [line[2:] if k == 0 else line
          for k, line in enumerate(results.columns(rows))]


def _whole_clip(block: dict, unit: str) -> list[str]:
  ef = block['ef']
  first = next(iter(block['classes'].values()))
  rows = [('Dice (%)', results.number(first['dice']['mean'], 2, 100),
           results.interval(first['dice']['ci95'], 2, 100)),
          (f'HD ({unit})', results.number(first['hd']['mean'], 2),
           results.interval(first['hd']['ci95'], 2))]
  for key, label in (('ed_error', 'ED found within'),
                     ('es_error', 'ES found within')):
    frames, ms = block[f'{key}_frames'], block[f'{key}_ms']
    rows.append((label, f'{results.number(frames["mean"], 1)} frames',
                 f'{results.number(ms["mean"], 0)} ms'))
  if ef['n']:
    rows += [('EF Pearson r', results.number(ef['pearson_r'], 3),
              results.interval(ef['ci95']['pearson_r'], 3)),
             ('EF bias (points)', results.number(ef['bias'], 2),
              results.interval(ef['ci95']['bias'], 2)),
             ('EF MAE', results.number(ef['mae'], 2),
              results.interval(ef['ci95']['mae'], 2))]
  return [f'whole clips, ED and ES unknown: {block["n_clips"]} clips, '
          f'{block["n_frames"]} frames', *results.columns(rows)]


def _trust(m: dict) -> list[str]:
  ece = m['calibration']['ece']
  lines = ['calibration error near the outlines '
           f'{results.number(ece["mean"], 2, 100)} % '
           f'{results.interval(ece["ci95"], 2, 100)}']
  risk = m.get('risk_coverage')
  if risk:
    lines.append(
        f'EF error when unsure patients are withheld: {risk["aurc"]:.2f} '
        f'points on average over coverages '
        f'{results.interval(risk["aurc_ci95"], 2)}; at random '
        f'{risk["aurc_random"]:.2f}, at best {risk["aurc_oracle"]:.2f}')
  return lines


def _sure(result: Result) -> list[str]:
  """What the intervals say and what they do not."""
  m = result.metrics
  lines = ['how sure']
  pairs = {r['patient']: (r['ef_predicted'], r['ef_reference'])
           for r in result.per_case}
  pairs = [p for p in pairs.values() if all(map(math.isfinite, p))]
  test = statistics.wilcoxon(*zip(*pairs)) if pairs else {'n': 0}
  if test['n'] >= 6:
    p, bias = test['p_value'], m['ef']['bias']
    sign = 'under' if bias < 0 else 'over'
    lines.append(
        f'  EF is {sign}estimated: bias {bias:+.1f} points, Wilcoxon p '
        f'{_p(p)}' if p < .05 else
        f'  no EF bias can be told from chance: {bias:+.1f} points, Wilcoxon '
        f'p {_p(p)}')
  elif test['n']:
    lines.append(f'  {test["n"]} patients with an EF: too few for a test of '
                 'its bias')
  lines += _unstable(result)
  lines.append('  intervals cover the choice of patients, not the variation '
               'between training runs')
  if m['n_patients'] < _FEW:
    lines.append(f'  {m["n_patients"]} patients are few: one more or less '
                 'moves these numbers, small groups mean little')
  return lines


def _unstable(result: Result) -> list[str]:
  """Whether areas are rougher than the truth's, patient by patient."""
  from echoforge_jax.evaluation.temporal import roughness
  found: dict[str, list[float]] = {}
  for clip in result.clips:
    difference = roughness(clip.areas) - roughness(clip.truth_areas)
    if math.isfinite(difference):
      found.setdefault(clip.case.patient, []).append(difference)
  differences = [sum(v) / len(v) for v in found.values()]
  if len(differences) < 6 or not any(differences):
    return []
  p = float(stats.wilcoxon(differences).pvalue)
  if p >= .05:
    return [f'  areas are as smooth as the truth\'s, as far as '
            f'{len(differences)} patients tell (Wilcoxon p {_p(p)})']
  mean = sum(differences) / len(differences)
  return [f'  areas are {"rougher" if mean > 0 else "smoother"} than the '
          f'truth\'s (Wilcoxon p {_p(p)})']


def _flags(result: Result) -> list[str]:
  m = result.metrics
  found = []
  for name, count in m['one_empty'].items():
    if count:
      found.append(f'{name.upper()}: {count} scored frames with only truth or '
                   'only prediction (Dice 0)')
  ef = m['ef']
  for count, text in ((ef['not_measurable'],
                       'without a measurable EF, left out of the EF rows'),
                      (ef['out_of_range'], 'with an EF outside 0-90 %'),
                      (m['flags'].get('es_larger_than_ed', 0),
                       'with a larger ventricle at ES than at ED')):
    if count:
      found.append(f'{count} patients {text}')
  whole = (m.get('whole_clip') or {}).get('flags', {})
  for flag, text in (('es_before_ed', 'in which ES would come before ED'),
                     ('no_contraction', 'without a visible contraction'),
                     ('empty_frames', 'with frames without a ventricle'),
                     ('no_cavity', 'without any ventricle')):
    if whole.get(flag):
      found.append(f'{whole[flag]} patients {text} (whole clips)')
  rows = results.flagged_rows(result)
  lines = ['flagged: nothing' if not (found or rows) else 'flagged']
  lines += [f'  {text}' for text in found]
  if rows:
    lines += results.columns([(p, f'EF {e} -> {q}', f)
                              for p, e, q, f in rows[:10]])
  if len(rows) > 10:
    lines.append(f'  and {len(rows) - 10} more in per_case.csv')
  return lines


def _receipt(m: dict) -> str:
  receipt = m['receipt']
  parts = [f'n = {m["n_patients"]}', f'protocol {m["protocol"]}',
           f'bootstrap seed {receipt["seed"]}']
  for key, label in (('training_seed', 'training seed'),
                     ('checkpoint_step', 'step'),
                     ('git_revision', 'revision')):
    if receipt.get(key) is not None:
      parts.append(f'{label} {receipt[key]}')
  if receipt.get('versions'):
    parts.append(f'jax {receipt["versions"]["jax"]}')
  return ', '.join(parts)


def _p(value: float) -> str:
  return '< .0001' if value < 1e-4 else f'{value:.4f}'.lstrip('0')
