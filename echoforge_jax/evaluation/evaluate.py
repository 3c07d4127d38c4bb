"""Workdir -> predictions -> scores -> files: what the command calls."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation import report, results
from echoforge_jax.evaluation.aggregate import Result, score_predictions
from echoforge_jax.evaluation.protocols import Protocol, get_protocol
from echoforge_jax.evaluation.receipt import make_receipt
from echoforge_jax.evaluation.scoring import Case


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A finished evaluation.

  Attributes:
    result: the scores.
    paths: files by name: 'metrics', 'per_case', 'per_frame', 'report'.
  """
  result: Result
  paths: dict[str, pathlib.Path]


def evaluate(workdir, split: str, protocol: str, out_dir,
             data_dir=None, which: str = 'teacher', seed: int = 0, *,
             batch_size: int = 4) -> Evaluation:
  """Scores a trained model on a prepared split and writes the report.

  Args:
    workdir: a training run: config.json and checkpoints/.
    split: 'train', 'validation' or 'test'.
    protocol: name of a protocol.
    out_dir: where metrics.json, per_case.csv, per_frame.csv and report/ go.
    data_dir: prepared data; None takes the one the run was trained on.
    which: 'teacher' or 'student'.
    seed: of the bootstrap over patients.
    batch_size: clips predicted at a time.

  Returns:
    The scores and the paths of the files.

  Raises:
    InputError: for an unknown protocol, split or workdir, or a split without
      clips, or a folder that cannot be written.
  """
  chosen = get_protocol(protocol)
  _check_writable(out_dir)
  cases, classes, receipt = predict_split(
      workdir, split, chosen, data_dir=data_dir, which=which,
      batch_size=batch_size)
  return write_evaluation(
      cases, chosen, out_dir, classes=classes, seed=seed, receipt=receipt,
      log_path=pathlib.Path(workdir) / 'metrics.jsonl')


def write_evaluation(cases: Sequence[Case], protocol: Protocol, out_dir, *,
                     classes: Sequence[str] = ('lv',), seed: int = 0,
                     receipt: dict | None = None,
                     log_path=None) -> Evaluation:
  """Scores predicted clips and writes every file of an evaluation.

  Args:
    cases: clips with frames, truth and prediction.
    protocol: what is scored.
    out_dir: where the files go.
    classes: names in the order of the class ids.
    seed: of the bootstrap over patients.
    receipt: where the predictions come from.
    log_path: a training run's metrics.jsonl, for its curves; or None.

  Returns:
    The scores and the paths of the files.

  Raises:
    InputError: if there are no cases or the folder cannot be written.
  """
  result = score_predictions(cases, protocol, classes=classes, seed=seed,
                             receipt=receipt)
  try:
    paths = results.write_result(result, out_dir)
    paths['report'] = report.write_report(
        result, cases, pathlib.Path(out_dir) / 'report', log_path=log_path)
  except OSError as error:
    raise InputError(
        f'--out {out_dir} cannot be written ({error.strerror or error}); '
        'choose a directory you may write to') from error
  return Evaluation(result, paths)


def predict_split(workdir, split: str, protocol: Protocol, *, data_dir=None,
                  which: str = 'teacher', batch_size: int = 4
                  ) -> tuple[list[Case], tuple[str, ...], dict]:
  """Restores a run's model and predicts every clip of a split.

  Args:
    workdir: a training run.
    split: 'train', 'validation' or 'test'.
    protocol: number of frames, sampler and threshold.
    data_dir: prepared data; None takes the one the run was trained on.
    which: 'teacher' or 'student'.
    batch_size: clips predicted at a time.

  Returns:
    (cases, class names, receipt).

  Raises:
    InputError: where there is no run, no checkpoint or no data.
  """
  # JAX, orbax and grain are slow to import; tables alone need none of them.
  from echoforge_jax.data import pipeline, prepared
  from echoforge_jax.evaluation import predict
  from echoforge_jax.training import build, checkpoint
  config, variables, step = checkpoint.restore_for_inference(workdir, which)
  data = config.data
  classes = tuple(data.classes)
  where = dict(data_dir=str(data_dir or data.data_dir), dataset=data.dataset,
               split=split, image_size=data.image_size,
               split_scheme=data.get('split_scheme', 'official'))
  clips = pipeline.eval_clips(
      **where, num_frames=protocol.num_frames, classes=classes,
      sampler=protocol.sampler)
  cases = list(predict.predict_clips(
      predict.make_predictor(build.make_model(config),
                             threshold=protocol.threshold),
      variables, clips, batch_size=batch_size))
  return cases, classes, make_receipt(
      config, prepared.load_split(**where), step=step, which=which,
      workdir=workdir)


def _check_writable(out_dir) -> None:
  """Raises before the work rather than after it."""
  folder = pathlib.Path(out_dir).absolute()
  while not folder.exists() and folder.parent != folder:
    folder = folder.parent
  if not folder.is_dir() or not os.access(folder, os.W_OK):
    raise InputError(
        f'--out {out_dir} cannot be written: {folder} is not a folder you may '
        'write to; choose another')
