"""What the terminal says after an evaluation."""

import dataclasses

import numpy as np
import pytest

from echoforge_jax.evaluation.aggregate import score_predictions
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.evaluation.report.notes import notes
from echoforge_jax.evaluation.report.summary import summary_text
from tests.ventricles import make_cases

FULL = get_protocol('camus_full')


def wobbling(masks):
  """Alternately larger and smaller than the truth."""
  out = masks.copy()
  for t in range(0, len(masks), 2):
    out[t, :, 1:] |= masks[t, :, :-1]
    out[t, :, 2:] |= masks[t, :, :-2]
  return out


def shrunk_end(masks):
  """Too small at ES: the EF comes out too large."""
  out = masks.copy()
  out[-1] &= np.roll(masks[-1], 1, axis=1) & np.roll(masks[-1], -1, axis=1)
  return out


def with_whole(cases):
  """The clips, their probability, and the clips again as whole recordings."""
  cases = [
    dataclasses.replace(c, probability=np.where(c.prediction > 0, 0.9, 0.1).astype(np.float16))
    for c in cases
  ]
  whole = [
    dataclasses.replace(c, prediction=c.prediction.copy(), ed=0, es=len(c.truth) - 1) for c in cases
  ]
  return cases, whole


def score(cases, whole=(), **options):
  return score_predictions(cases, FULL, whole=whole, resamples=100, **options)


@pytest.fixture(scope='module')
def full():
  """Eight patients with everything that can be measured."""
  cases, whole = with_whole(make_cases(8, size=48, predict=wobbling))
  return score(
    cases,
    whole,
    receipt={
      'run': 'r7',
      'which': 'teacher',
      'checkpoint_step': 42,
      'training_seed': 5,
      'dataset': 'camus',
      'split': 'test',
      'synthetic': True,
      'git_revision': 'abc1234',
      'versions': {'jax': '9.9', 'scipy': '8.8'},
    },
  )


def line(text, start):
  return next(x for x in text.splitlines() if x.strip().startswith(start))


def test_says_what_how_sure_and_from_what(full):
  text = summary_text(full)
  assert len(text.splitlines()) <= 42
  assert max(map(len, text.splitlines())) <= 120
  for part in (
    'protocol camus_full: 8 patients, 16 clips, 64 frames',
    'teacher of r7 after 42 steps, on camus test',
    'synthetic',
    '8 patients are few',
    'not the variation between training',
    'bootstrap seed 0 x 100',
    'training seed 5',
    'revision abc1234',
    'jax 9.9',
    'scipy 8.8',
  ):
    assert part in text


@pytest.mark.parametrize('split,said', [('test', ''), ('validation', ', on these patients')])
def test_a_step_chosen_on_the_same_patients_is_said(split, said):
  receipt = {'run': 'r', 'which': 'teacher', 'checkpoint_step': 42, 'split': split}
  receipt |= {'dataset': 'camus', 'trained_on': 'camus'}
  receipt |= {'step_choice': 'best dice_teacher', 'step_score': 0.91234}
  result = score(make_cases(2, size=48), receipt=receipt)
  wanted = f'after 42 steps (best dice_teacher 0.9123{said}), on camus {split}'
  assert wanted in summary_text(result)
  assert any('too good' in note for note in notes(result)) == bool(said)


def test_both_settings_stand_side_by_side(full):
  text, m = summary_text(full), full.metrics
  assert 'ED, ES known' in text and 'whole clip' in text
  row = line(text, 'LV  Dice')
  for entry in (m['classes']['lv']['dice'], m['whole_clip']['classes']['lv']['dice']):
    low, high = (100 * v for v in entry['ci95'])
    assert f'{100 * entry["mean"]:.2f}' in row
    assert f'[{low:.2f}, {high:.2f}]' in row
  for ef in (m['ef'], m['whole_clip']['ef']):
    assert f'{ef["mae"]:.2f}' in line(text, 'MAE')
  assert f'ED {m["whole_clip"]["ed_error_frames"]["mean"]:.1f}' in line(
    text, 'found in whole clips'
  )


@pytest.mark.slow
def test_tests_its_claims_patient_by_patient(full):
  text = summary_text(full)
  # Eight of eight patients: the exact two-sided p is 2 / 2^8.
  assert 'more than the truth (p .0078)' in line(text, 'area roughness')
  same = summary_text(score(make_cases(7, size=48)))
  assert 'no difference' in line(same, 'area roughness')
  assert line(same, 'bias is not 0').endswith('no difference')
  high = summary_text(score(make_cases(7, size=48, predict=shrunk_end)))
  assert 'over (p .0156)' in line(high, 'bias is not 0')


def test_few_patients_are_no_evidence_of_no_difference():
  text = summary_text(score(make_cases(5, size=48, predict=wobbling)))
  assert 'too few patients (5 differ)' in line(text, 'area roughness')
  assert 'not distinguishable' not in text
  one = summary_text(score(make_cases(1, size=48)))
  assert 'one patient: no interval, no test' in one and '1 patient,' in one


def test_a_bias_that_is_not_there():
  cases = make_cases(8, size=48)
  for k, case in enumerate(cases):
    if k // 2 % 2:
      case.prediction[:] = shrunk_end(case.truth)
    else:
      case.prediction[0] = shrunk_end(case.truth[:1])[0]
  text = summary_text(score(cases))
  assert 'unclear (p ' in line(text, 'bias is not 0')


def test_without_whole_clips_or_probabilities():
  result = score(make_cases(3, size=48))
  text = summary_text(result)
  assert 'whole clip' not in text and 'calibration' not in text
  assert 'flagged: nothing' in text


def test_calibration_and_confidence(full):
  text, m = summary_text(full), full.metrics
  assert f'{100 * m["calibration"]["ece"]["mean"]:.2f} %' in line(text, 'calibration error')
  assert f'{m["risk_coverage"]["aurc"]:.2f} points' in line(text, 'EF error')


def test_flags_what_is_to_be_doubted():
  cases, whole = with_whole(make_cases(9, size=48))
  for case in cases[:14]:
    case.prediction[-1] = 0
  for case in cases[14:16]:
    case.prediction[:] = case.prediction[::-1].copy()
  for case in whole[:2]:
    case.prediction[:] = 0
  text = summary_text(score(cases, whole))
  flags = text[text.index('flagged\n') :]
  assert 'LV: 14 scored frames with only a truth' in flags
  known = line(flags, 'patients with (ED, ES known)')
  assert '7 no measurable EF' in known and '7 no ventricle' in known
  assert '1 a larger ventricle at ES than at ED' in known
  assert '1 an EF outside 0-90 %' in known
  assert 'no ventricle' in line(flags, 'patients with (whole clip)')
  assert 'patient0001' in flags and 'patient0006' not in flags
  assert 'and 4 more in per_case.csv' in flags


def test_nothing_measurable():
  cases = make_cases(2, size=48, predict=lambda m: m * 0)
  for case in cases:
    case.truth[:] = 0
  text = summary_text(score(cases))
  assert 'ejection fraction: not measurable here' in text
  assert 'n/a' in line(text, 'LV  Dice')
  assert '16 scored frames with neither truth nor prediction' in text


def test_several_classes_fit_on_a_screen():
  cases = make_cases(3, size=48)
  for masks in (masks for case in cases for masks in (case.truth, case.prediction)):
    masks[:, :3], masks[:, 3:6] = 2, 3
  text = summary_text(score(cases, classes=('lv', 'myo', 'la')))
  assert len(text.splitlines()) <= 42
  assert all(f'{name}  ' in text for name in ('LV', 'MYO', 'LA'))
  assert 'IoU' not in text


def test_partly_labeled_clips_have_no_truth_to_compare_with():
  labeled = np.array([True, False, False, True])
  text = summary_text(score(make_cases(7, size=48, labeled=labeled)))
  assert line(text, 'area roughness').endswith('n/a')
