"""The numbers of metrics.json hold: the same masks score as they did.

After a change that is meant to change numbers, write the fixture again:
`python -m tests.evaluation.test_golden_scores`.
"""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from echoforge_jax.evaluation.aggregate import score_predictions
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.textio import to_json
from tests.ventricles import make_cases

FIXTURE = pathlib.Path(__file__).parent / 'fixtures' / 'golden_scores.json'
CLASSES = ('lv', 'myo', 'la')
NEWER = {'ef_view_masks', 'ef_view_predicted'}  # Columns that came after the fixture.


def heart(cavity):
  """lv 1 inside of myo 2, la 3 below: uint8 [T, H, W]."""
  out = np.zeros(cavity.shape, np.uint8)
  lv = cavity == 1
  wall = np.zeros_like(lv)
  for step in range(1, 5):
    for axis, by in ((1, -step), (2, -step), (2, step)):
      wall |= np.roll(lv, by, axis)
  out[wall] = 2
  out[:, -18:-8, 24:40] = 3
  out[lv] = 1
  return out


def predicted(masks, k):
  """Moved, eaten and sometimes lost, the same way each time."""
  rng = np.random.default_rng(k)
  moved = np.roll(masks, rng.integers(-2, 3, 2), (1, 2))
  eaten = np.where(rng.random(masks.shape) < 0.002, 0, moved)
  if k % 5 == 4:
    eaten[-1] = 0
  return eaten.astype(np.uint8)


def cohort():
  """Six patients: three classes, a dataset's EF for some, a beat each."""
  cases, whole = [], []
  for k, case in enumerate(make_cases(6, frames=5)):
    truth = heart(case.truth)
    prediction = predicted(truth, k)
    soft = np.random.default_rng(100 + k).random(truth.shape)
    probability = np.clip((prediction == 1) * 0.7 + 0.3 * soft, 0, 1)
    case = dataclasses.replace(
      case,
      truth=truth,
      prediction=prediction,
      labeled=np.array([1, k % 3 > 0, 1, 1, 1], bool),
      ef_percent=20.0 + 5 * k if k % 4 < 2 else math.nan,
      edv_ml=90.0 + k if k < 4 else math.nan,
      probability=probability.astype(np.float16),
    )
    cases.append(case)
    order = [4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 4, 3, 2]
    whole.append(
      dataclasses.replace(
        case,
        truth=truth[order],
        prediction=prediction[order],
        labeled=case.labeled[order],
        probability=case.probability[order],
        frames=case.frames[order],
        ed=4,
        es=9,
      )
    )
  return cases, whole


def scored():
  """Everything that is written, for three protocols and units."""
  cases, whole = cohort()
  found = {}
  for name, protocol, options in (
    ('full', get_protocol('camus_full'), {'whole': whole}),
    (
      'frames',
      dataclasses.replace(get_protocol('camus_semi'), pooling='frame', ef_method='area_length'),
      {},
    ),
    ('pixels', get_protocol('echonet'), {'whole': whole[1::2]}),
  ):
    used = cases[1::2] if name == 'pixels' else cases
    result = score_predictions(used, protocol, classes=CLASSES, resamples=200, seed=7, **options)
    rows = [{k: v for k, v in row.items() if k not in NEWER} for row in result.per_case]
    found[name] = to_json({'metrics': result.metrics, 'per_case': rows})
  return found


def same(found, wanted, at=''):
  if isinstance(wanted, dict):
    assert list(found) == list(wanted), at
    for key, value in wanted.items():
      same(found[key], value, f'{at}/{key}')
  elif isinstance(wanted, list):
    assert len(found) == len(wanted), at
    for k, value in enumerate(wanted):
      same(found[k], value, f'{at}/{k}')
  elif isinstance(wanted, float):
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9), at
  else:
    assert found == wanted, at


@pytest.mark.slow
def test_scores_are_what_they_were():
  same(json.loads(json.dumps(scored())), json.loads(FIXTURE.read_text()))


if __name__ == '__main__':
  FIXTURE.write_text(json.dumps(scored(), separators=(',', ':')) + '\n')
