"""Whole clips: ED and ES must be found, not told."""

import dataclasses
import math

import numpy as np
import pytest

from echoforge_jax.evaluation.aggregate import score_predictions
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.evaluation.scoring import Case
from echoforge_jax.evaluation.whole_clip import score_whole
from tests.ventricles import make_cases, ventricle

ECHONET = get_protocol('echonet')
PERIOD, FPS = 30, 45.0


def beating(name='a', beats=2, ed=30, es=45, **changes):
  """A ventricle of `beats` beats of 30 frames, largest at 0, 30, ..."""
  masks = np.stack(
    [
      ventricle(64, (2.2, 2.2), radius=22 + 5 * math.cos(2 * math.pi * t / PERIOD))
      for t in range(beats * PERIOD + 1)
    ]
  ).astype(np.uint8)
  labeled = np.zeros(len(masks), bool)
  labeled[[ed, es]] = True
  truth = np.where(labeled[:, None, None], masks, 255).astype(np.uint8)
  return Case(
    **{
      'patient': name,
      'view': '4CH',
      'truth': truth,
      'prediction': masks,
      'spacing_mm': np.full(2, np.nan),
      'labeled': labeled,
      'ed': ed,
      'es': es,
      'fps': FPS,
      'native_size': (64, 64),
      **changes,
    }
  )


def ends(case):
  """The same clip cut at the true ED and ES."""
  order = [case.ed, case.es]
  return dataclasses.replace(
    case,
    truth=case.truth[order],
    prediction=case.prediction[order],
    labeled=case.labeled[order],
    ed=None,
    es=None,
  )


def test_finds_the_beat_and_scores_the_traced_frames():
  case = beating()
  (score,) = score_whole([case], ECHONET)
  assert score.errors[0] <= 1 and score.errors[1] <= 1
  assert score.found[1] - score.found[0] == pytest.approx(15, abs=2)
  assert score.num_frames == 61 and score.num_scored == 2
  assert score.means['lv']['dice'] == 1 and score.means['lv']['hd'] == 0
  assert all(end is not None for end in score.ends)


def test_es_traced_before_ed_counts_the_same():
  (score,) = score_whole([beating(ed=30, es=15)], ECHONET)
  assert max(score.errors) <= 1


def test_an_empty_prediction_is_flagged_not_scored_as_zero_volume():
  case = beating()
  case = dataclasses.replace(case, prediction=np.zeros_like(case.prediction))
  (score,) = score_whole([case], ECHONET)
  assert score.found is None and score.flags == ('no_cavity',)
  assert score.means['lv']['dice'] == 0
  assert all(math.isnan(error) for error in score.errors)


def test_both_settings_stand_side_by_side():
  cases = [beating(name) for name in 'abc']
  result = score_predictions([ends(c) for c in cases], ECHONET, whole=cases, resamples=100)
  known, unknown = result.metrics['ef'], result.metrics['whole_clip']['ef']
  assert known['n'] == unknown['n'] == 3
  assert known['bias'] == pytest.approx(0, abs=1e-9)
  assert unknown['bias'] == pytest.approx(0, abs=1.5)
  assert result.metrics['unit'] == 'px'
  block = result.metrics['whole_clip']
  assert block['n_frames'] == 3 * 61 and block['n_frames_scored'] == 6
  frames, ms = (block[f'ed_error_{u}']['mean'] for u in ('frames', 'ms'))
  assert ms == pytest.approx(frames * 1000 / FPS)
  row = result.per_case[0]
  assert row['ef_whole_clip'] == pytest.approx(row['ef_masks'], abs=1.5)
  assert row['es_found'] - row['ed_found'] == pytest.approx(15, abs=2)


def test_without_whole_clips_the_block_is_none():
  result = score_predictions(make_cases(), get_protocol('camus_semi'), resamples=50)
  assert result.metrics['whole_clip'] is None


def test_an_unknown_frame_rate_gives_no_milliseconds():
  case = beating(fps=math.nan)
  result = score_predictions([ends(case)], ECHONET, whole=[case], resamples=50)
  block = result.metrics['whole_clip']
  assert math.isfinite(block['es_error_frames']['mean'])
  assert math.isnan(block['es_error_ms']['mean'])


def test_frame_pooling_weighs_frames_not_patients(tmp_path):
  short = make_cases(1, frames=3)
  long = [
    dataclasses.replace(c, patient='long', prediction=np.zeros_like(c.prediction))
    for c in make_cases(1, frames=9)
  ]
  full = get_protocol('camus_full')
  by_patient, by_frame = (
    score_predictions(
      short + long, dataclasses.replace(full, pooling=pooling), resamples=50
    ).metrics['classes']['lv']['dice']
    for pooling in ('clip_patient', 'frame')
  )
  assert by_patient['mean'] == pytest.approx(0.5)
  assert by_frame['mean'] == pytest.approx(3 / 12)
  assert by_frame['ci95'] == pytest.approx([0, 1])
