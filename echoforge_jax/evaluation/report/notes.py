"""What a reader must know before quoting a number of the report."""

import math

from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.textio import SYNTHETIC_NOTE, is_synthetic, number

# Fewer patients than this are called few.
FEW = 30


def notes(result: Result) -> list[str]:
  """Returns the sentences that the page prints below its numbers."""
  m = result.metrics
  receipt, ef = m['receipt'], m['ef']
  found = [f'{SYNTHETIC_NOTE.capitalize()}.'] if is_synthetic(m) else []
  if chosen_here(receipt):
    found.append(
      'The checkpoint was chosen by its score on these patients: the numbers are too good.'
    )
  if receipt.get('predictions_sha256'):
    found.append(
      'The masks are those of another tool, scored at the size of the raw clips; models of this '
      'project are scored at the size that they were prepared at.'
    )
  if unlabeled := receipt.get('unlabeled_classes'):
    found.append(
      f'The data label no {" and no ".join(unlabeled)}: what is predicted of it is not scored.'
    )
  if receipt.get('n_missing'):
    shown = ', '.join(receipt['missing'][:3]) + ', ...' * (receipt['n_missing'] > 3)
    found.append(
      f'{receipt["n_missing"]} clips have no masks and are left out ({shown}): the scores are '
      'those of the others.'
    )
  found += [
    f'Intervals are 95 % bootstrap intervals that resample patients ({receipt["resamples"]} '
    f'resamples, seed {receipt["seed"]}). They do not cover the variation between training runs.',
    'Clips run from the known ED to the known ES, as in the papers; in use, '
    'these instants are not known' + (': see the whole clips.' if m['whole_clip'] else '.'),
    'Distances are in mm, between pixel centres of the two outlines, on the true pixel spacing.'
    if m['unit'] == 'mm'
    else 'No pixel spacing is known: distances are in native pixels and no volume is given.',
  ]
  apart = [clip.case.view for clip in result.clips if clip.unit != m['unit']]
  if apart:
    found.append(
      f'{len(apart)} of {len(result.clips)} clips ({", ".join(sorted(set(apart)))}) have no pixel '
      'spacing: they count in Dice and IoU, not in distances, volumes and the EF of both views.'
    )
  if ef['reference']:
    found.append(_reference(m))
  if all(len(clip.areas) < 3 for clip in result.clips):
    found.append(
      'The clips hold ED and ES alone: measures over time do not apply, and whole clips are these '
      'two frames, which the model must tell apart.'
    )
  share = m['temporal']['inconsistent_share']
  if share['n'] and not share['truth']['n']:
    found.append(
      'No clip has a truth on every frame: how many of its frames the thresholds would call '
      'inconsistent, the floor of that share, is not known.'
    )
  if m['n_patients'] < FEW:
    found.append(f'Only {m["n_patients"]} patients: one patient more or less moves these numbers.')
  for name in result.classes:
    both, one = m['not_applicable'][name], m['one_empty'][name]
    if both or one:
      found.append(
        f'{name.upper()}: {both} scored frames have neither truth nor prediction (left out); {one} '
        'have only one of them (Dice 0, distance = diagonal of the field of view).'
      )
  if ef['not_measurable'] or ef['out_of_range']:
    found.append(
      f'{ef["not_measurable"]} patients have no measurable predicted EF and are left out of the EF '
      f'block; {ef["out_of_range"]} lie outside 0-90 % and are kept in it.'
    )
  found.append('Research software, not a medical device and not for clinical use.')
  return found


def chosen_here(receipt: dict) -> bool:
  """Returns whether the checkpoint was chosen by its score on the patients that were evaluated."""
  same_data = receipt.get('dataset') == receipt.get('trained_on')
  best = receipt.get('step_score') is not None
  return best and same_data and receipt.get('split') == 'validation'


def _reference(m: dict) -> str:
  """Says where the reference EF comes from, and the method's own error."""
  sources = m['ef']['reference']
  if all(source.startswith('masks') for source in sources):
    how = ' or '.join(source.removeprefix('masks, ') for source in sources if source != 'masks')
    return 'The dataset gives no EF: the reference is measured on the true masks ' + (
      f'at their native size ({how}).' if how else 'by the same method.'
    )
  if m['ef']['reference'] != ['dataset']:
    return (
      "The EF reference is the dataset's value where it has one, else measured on the true masks."
    )
  own = m['ef_masks_against_dataset']
  amount = 'an unknown amount'
  if own['n'] and math.isfinite(own['bias']):
    amount = f'{own["bias"]:+.2f} points on average (SD {number(own["sd"], 2)}, n = {own["n"]})'
  return (
    'The EF reference is the value the dataset gives, which need not come '
    f'from the masks: true masks themselves differ from it by {amount}.'
  )
