import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.aggregate import score_predictions
from echoforge_jax.evaluation.evaluate import write_result
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.evaluation.report.summary import summary_text
from echoforge_jax.evaluation.scoring import score_clip
from tests.ventricles import make_cases

FULL, SEMI = get_protocol('camus_full'), get_protocol('camus_semi')


def score(cases, protocol=FULL, **options):
  return score_predictions(cases, protocol, resamples=200, **options)


def test_truth_against_itself():
  result = score(make_cases())
  entries = result.metrics['classes']['lv']
  assert entries['dice']['mean'] == entries['iou']['mean'] == 1
  assert entries['dice']['ci95'] == [1, 1]
  for name in ('hd', 'hd95', 'asd'):
    assert entries[name]['mean'] == 0
  ef = result.metrics['ef']
  assert ef['n'] == 3 and ef['reference'] == ['masks']
  assert ef['bias'] == 0 and ef['rmse'] == 0
  assert ef['pearson_r'] == pytest.approx(1)
  assert result.metrics['temporal']['valid_share']['mean'] == 1
  rough = result.metrics['temporal']['area_roughness']
  assert rough['mean'] == rough['truth']['mean']


def test_shift_by_one_pixel_has_analytic_scores():
  truth = np.zeros((4, 64, 64), np.uint8)
  truth[:, 20:50, 22:42] = 1  # 30 rows, 20 columns
  cases = make_cases(
    2, truth=truth, prediction=np.roll(truth, 1, axis=2), spacing_mm=np.array([2.0, 0.5])
  )
  entries = score(cases).metrics['classes']['lv']
  assert entries['dice']['mean'] == pytest.approx(19 / 20)
  assert entries['iou']['mean'] == pytest.approx(19 / 21)
  assert entries['hd']['mean'] == pytest.approx(0.5)
  outline = 2 * (30 + 20) - 4
  assert entries['asd']['mean'] == pytest.approx(0.5 * (2 * 30 - 2) / outline)
  assert entries['hd']['n'] == 2


def test_semi_scores_only_the_ends():
  def spoil_the_middle(masks):
    masks = masks.copy()
    masks[1:-1] = 0
    return masks

  cases = make_cases(predict=spoil_the_middle)
  semi, full = score(cases, SEMI), score(cases, FULL)
  assert semi.metrics['classes']['lv']['dice']['mean'] == 1
  assert semi.metrics['n_frames'] == 3 * 2 * 2
  assert full.metrics['classes']['lv']['dice']['mean'] == pytest.approx(0.5)
  assert full.metrics['n_frames'] == 3 * 2 * 4
  assert full.metrics['one_empty'] == {'lv': 12}
  assert full.metrics['temporal']['valid_share']['mean'] == pytest.approx(0.5)
  # An empty prediction costs the field of view's diagonal.
  empty = [r for r in full.per_frame if r['area_predicted'] == 0]
  assert empty[0]['hd'] == pytest.approx(math.hypot(140, 150))


def test_both_empty_is_not_applicable_and_counted():
  cases = make_cases(2)
  for case in cases:
    case.truth[1] = case.prediction[1] = 0
  metrics = score(cases).metrics
  assert metrics['not_applicable'] == {'lv': 4}
  assert metrics['classes']['lv']['dice']['mean'] == 1


def test_patients_weigh_the_same():
  cases = make_cases(2)
  cases[3].prediction[:] = 0  # patient 2, one of two views
  cases = cases[:1] + cases[2:]  # patient 1 has one view left
  dice = score(cases).metrics['classes']['lv']['dice']
  assert dice['n'] == 2 and dice['mean'] == pytest.approx((1 + 0.5) / 2)


def test_unlabeled_frames_are_not_scored():
  labeled = np.array([True, False, False, True])
  cases = make_cases(labeled=labeled, predict=lambda m: m.copy())
  for case in cases:
    case.prediction[1:3] = 0
  result = score(cases)
  assert result.metrics['n_frames'] == 3 * 2 * 2
  assert result.metrics['classes']['lv']['dice']['mean'] == 1
  assert math.isnan(result.metrics['temporal']['inconsistent_share']['truth']['mean'])


def test_ef_reference_is_the_datasets_where_it_has_one():
  cases = [dataclasses.replace(c, ef_percent=40.0 + 5 * k // 2) for k, c in enumerate(make_cases())]
  metrics = score(cases).metrics
  assert metrics['ef']['reference'] == ['dataset']
  expected = np.mean([r['ef_predicted'] - r['ef_reference'] for r in score(cases).per_case[::2]])
  assert metrics['ef']['bias'] == pytest.approx(expected)
  assert metrics['ef_from_masks']['bias'] == 0
  assert metrics['ef_masks_against_dataset']['bias'] == pytest.approx(expected)


def test_no_cavity_is_left_out_and_counted():
  cases = make_cases()
  cases[0].prediction[-1] = 0
  result = score(cases)
  ef = result.metrics['ef']
  assert ef['n'] == 2 and ef['not_measurable'] == 1
  assert result.metrics['flags']['no_cavity'] == 1
  assert 'no_cavity' in result.per_case[0]['flags']
  assert 'patient0001' in summary_text(result).split('flagged')[1]


def test_stills_and_short_axes_have_no_ef():
  cases = make_cases()
  cases[0].frames[:] = cases[0].frames[0]  # The same picture all the time.
  cases[2] = dataclasses.replace(cases[2], view='PSAX')
  cases[3] = dataclasses.replace(cases[3], view='4CH-2')
  result = score(cases)
  assert result.metrics['classes']['lv']['dice']['n'] == 3
  assert result.metrics['ef']['n'] == 2 and result.metrics['ef']['not_measurable'] == 1
  assert result.metrics['flags']['single_plane'] == 2
  assert set(result.metrics['ef_single_plane']) == {'2CH', '4CH'}


def test_unknown_spacing_is_scored_in_native_pixels():
  nan = np.array([math.nan, math.nan])
  truth = make_cases(1)[0].truth
  cases = make_cases(
    2, spacing_mm=nan, native_size=(128, 64), truth=truth, prediction=np.roll(truth, 1, axis=1)
  )
  result = score(cases)
  assert result.metrics['unit'] == 'px'
  # One row of the 64-row grid is two of the 128 native rows.
  assert result.metrics['classes']['lv']['hd']['mean'] == pytest.approx(2)
  assert math.isnan(result.per_case[0]['edv_predicted_ml'])
  assert result.metrics['ef']['n'] == 2


def test_a_clip_without_spacing_counts_in_overlap_alone():
  cases = make_cases(2)
  others = score(cases)
  cases[3] = dataclasses.replace(cases[3], spacing_mm=np.full(2, math.nan))
  found = score(cases)
  row = found.per_case[3]
  assert (found.metrics['unit'], row['unit']) == ('mm', 'px')
  assert row['lv_dice'] == others.per_case[3]['lv_dice'] and math.isnan(row['lv_asd'])
  # The patient's distance is that of the other view, and so are volumes and EF.
  dice, asd = (found.metrics['classes']['lv'][m] for m in ('dice', 'asd'))
  assert dice == others.metrics['classes']['lv']['dice'] and asd['n'] == 2
  assert asd['mean'] == pytest.approx(
    np.mean([np.mean([r['lv_asd'] for r in others.per_case[:2]]), others.per_case[2]['lv_asd']])
  )
  assert 'single_plane' in row['flags'] and math.isfinite(row['edv_predicted_ml'])
  assert found.metrics['ef']['single_plane'] == 1


def test_no_cases_and_wrong_shapes_raise():
  cases = make_cases(2)
  with pytest.raises(InputError, match='no clips'):
    score([])
  broken = dataclasses.replace(cases[0], prediction=cases[0].truth[:2])
  with pytest.raises(InputError, match='patient0001 2CH'):
    score_clip(broken, FULL)


def test_several_classes():
  cases = make_cases(2)
  for case in cases:
    wall = np.roll(case.truth, 6, axis=2) & (case.truth == 0)
    case.truth[wall == 1] = 2
    case.prediction[:] = case.truth
    case.prediction[case.prediction == 2] = 0
  metrics = score(cases, classes=('lv', 'myo')).metrics
  assert metrics['classes']['lv']['dice']['mean'] == 1
  assert metrics['classes']['myo']['dice']['mean'] == 0
  assert metrics['one_empty'] == {'lv': 0, 'myo': 16}
  assert set(metrics['groups']['quality']) == {'Good', 'Poor'}
  only_myo = score(
    [
      dataclasses.replace(
        c, truth=(c.truth == 2).astype(np.uint8), prediction=(c.truth == 2).astype(np.uint8)
      )
      for c in cases
    ],
    classes=('myo',),
  ).metrics
  assert only_myo['ef']['n'] == 0
  assert only_myo['classes']['myo']['dice']['mean'] == 1


def test_classes_that_the_data_do_not_label_are_not_scored():
  cases = make_cases(2)
  for case in cases:
    case.prediction[case.prediction == 0] = 2
  found = score(cases, classes=('lv', 'myo', 'la'))
  assert found.classes == ('lv',) and set(found.metrics['classes']) == {'lv'}
  assert found.metrics['receipt']['unlabeled_classes'] == ['myo', 'la']
  assert {row['class'] for row in found.per_frame} == {'lv'}
  assert not any('myo' in name for name in found.per_case[0])
  assert 'not scored: myo, la' in summary_text(found)


def test_files_have_the_documented_keys_and_are_strict(tmp_path):
  cases = make_cases()
  cases[0].prediction[-1] = 0
  result = score(cases, receipt={'run': 'x'})
  paths = write_result(result, tmp_path / 'out')

  def refuse(token):
    raise AssertionError(f'{token} is not JSON')

  document = json.loads(paths['metrics'].read_text(), parse_constant=refuse)
  assert {'protocol', 'n_patients', 'n_frames', 'classes', 'ef', 'temporal'} <= set(document)
  assert set(document['classes']) == {'lv'}
  assert set(document['classes']['lv']) == {'dice', 'iou', 'hd', 'hd95', 'asd'}
  for entry in document['classes']['lv'].values():
    assert {'mean', 'ci95'} <= set(entry)
    low, high = entry['ci95']
    assert low <= entry['mean'] <= high
  assert {'n', 'pearson_r', 'bias', 'sd', 'loa', 'mae', 'rmse'} <= set(document['ef'])
  assert len(document['ef']['loa']) == 2
  # No dataset EF: nothing to compare, written as null.
  assert document['ef_masks_against_dataset']['bias'] is None
  assert document['receipt']['run'] == 'x'
  assert document['receipt']['protocol']['threshold'] == 0.5

  rows = list(csv.DictReader(paths['per_case'].open()))
  assert len(rows) == 6
  assert rows[0]['ef_predicted'] == '' and rows[2]['ef_predicted'] != ''
  assert rows[0]['flags'] == 'no_cavity'
  frames = list(csv.DictReader(paths['per_frame'].open()))
  assert len(frames) == 6 * 4
  assert [f['phase'] for f in frames[:4]] == ['ED', '', '', 'ES']
  assert float(frames[3]['dice']) == 0


def test_same_seed_same_bytes(tmp_path):
  def bumpy(masks):
    return np.roll(masks, 1, axis=1)

  written = [
    write_result(score(make_cases(predict=bumpy), seed=4), tmp_path / str(k)) for k in range(2)
  ]
  for name in written[0]:
    assert written[0][name].read_bytes() == written[1][name].read_bytes()


def test_to_json():
  assert textio.to_json(
    {
      'a': np.float32(1.5),
      'b': (math.nan, np.int64(3)),
      'c': math.inf,
      'd': np.array([1.0, math.nan]),
    }
  ) == {'a': 1.5, 'b': [None, 3], 'c': None, 'd': [1.0, None]}
