"""Evaluations of made-up runs, as files."""

import numpy as np

from echoforge_jax.evaluation.aggregate import score_predictions
from echoforge_jax.evaluation.evaluate import write_result
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.provenance import versions
from tests.ventricles import make_cases


def write_run(folder, shifts, *, protocol='camus_semi', views=('2CH', '4CH'), empty=(), **receipt):
  """Writes an evaluation's files: patient k's prediction shifted by shifts[k].

  Later frames move one pixel less. Fields of the receipt may be given.
  """
  cases = make_cases(len(shifts), size=48, frames=3)
  cases = [c for c in cases if c.view in views]
  for case in cases:
    k = int(case.patient[-4:]) - 1
    for t, mask in enumerate(case.truth):
      case.prediction[t] = np.roll(mask, max(shifts[k] - t, 0), axis=1)
    if k in empty:
      case.prediction[-1] = 0
  made_up = {
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
  }
  result = score_predictions(
    cases, get_protocol(protocol), resamples=200, receipt=made_up | receipt
  )
  write_result(result, folder)
  return folder
