"""Small cases with known answers."""

import numpy as np
import pytest

from tests.metrics.ventricles import ventricle


@pytest.fixture(scope='session')
def make_cases():
  """Patients of two views whose ventricle shrinks from ED to ES."""
  from echoforge_jax.evaluation.scoring import Case

  def make(
    count=3, *, size=64, frames=4, predict=lambda masks: masks, **overrides
  ):
    cases = []
    for k in range(count):
      for view, factor in (('2CH', 1.0), ('4CH', 0.95)):
        spacing = np.array([140 / size, 150 / size])
        masks = np.stack(
          [
            ventricle(
              size,
              spacing,
              radius=(26 - k)
              * factor
              * (1 - (0.12 + 0.05 * k) * t / (frames - 1)),
            )
            for t in range(frames)
          ]
        ).astype(np.uint8)
        gray = np.where(masks == 1, 30, 120).astype(np.uint8)
        cases.append(
          Case(
            **{
              'patient': f'patient{k + 1:04d}',
              'view': view,
              'truth': masks,
              'prediction': np.array(predict(masks)),
              'spacing_mm': spacing,
              'frames': gray,
              'native_size': (500, 560),
              'quality': ('Good', 'Poor')[k % 2],
              'fps': 50.0,
              **overrides,
            }
          )
        )
    return cases

  return make


@pytest.fixture(scope='session')
def write_run(make_cases):
  """Writes an evaluation's files: patient k's prediction shifted by shifts[k].

  Later frames move one pixel less. Fields of the receipt may be given.
  """
  from echoforge_jax.evaluation import results
  from echoforge_jax.evaluation.aggregate import score_predictions
  from echoforge_jax.evaluation.protocols import get_protocol
  from echoforge_jax.provenance import versions

  def write(
    folder,
    shifts,
    *,
    protocol='camus_semi',
    views=('2CH', '4CH'),
    empty=(),
    **receipt,
  ):
    cases = [
      c for c in make_cases(len(shifts), size=48, frames=3) if c.view in views
    ]
    for case in cases:
      k = int(case.patient[-4:]) - 1
      for t, mask in enumerate(case.truth):
        case.prediction[t] = np.roll(mask, max(shifts[k] - t, 0), axis=1)
      if k in empty:
        case.prediction[-1] = 0
    result = score_predictions(
      cases,
      get_protocol(protocol),
      resamples=200,
      receipt={
        'run': folder.name,
        'config_digest': 'd' * 16,
        'which': 'teacher',
        'checkpoint_step': 1000,
        'training_seed': 0,
        'dataset': 'camus',
        'split': 'test',
        'split_scheme': 'official',
        'raw_fingerprint': 'f' * 64,
        'image_size': 48,
        'device': 'cpu: cpu',
        'git_revision': 'abc1234',
        'versions': versions(),
        **receipt,
      },
    )
    results.write_result(result, folder)
    return folder

  return write
