"""Workdir -> predictions -> scores -> files: what the command calls."""

from collections.abc import Iterable, Sequence
import csv
import dataclasses
import math
import os
import pathlib

from etils import epath
import numpy as np
from tqdm import tqdm

from echoforge_jax import textio
from echoforge_jax.config import config_digest
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.aggregate import Result, score_predictions
from echoforge_jax.evaluation.protocols import Protocol, get_protocol
from echoforge_jax.evaluation.report.case_files import CaseFiles
from echoforge_jax.evaluation.report.page import write_report
from echoforge_jax.evaluation.scoring import Case
from echoforge_jax.metrics import statistics
from echoforge_jax.provenance import device_kind, git_revision, versions


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A finished evaluation; files by name: 'metrics', 'per_case', 'per_frame', 'report'."""

  result: Result
  paths: dict[str, pathlib.Path]


@dataclasses.dataclass(frozen=True)
class PredictedSplit:
  """A split as a run's model sees it; nothing is predicted before it is read."""

  cases: Sequence[Case]  # The protocol's clips, from ED to ES.
  whole: Iterable[Case]  # The whole clips, ED and ES unknown to the model.
  classes: tuple[str, ...]  # In the order of the class ids.
  receipt: dict  # What identifies model and data.


def evaluate(
  workdir,
  split: str,
  protocol: str,
  out_dir,
  data_dir=None,
  which: str = 'teacher',
  seed: int = 0,
  *,
  step: str | int = 'latest',
  whole_clip: bool = True,
  report: bool = True,
  resamples: int = statistics.RESAMPLES,
  progress: bool = False,
) -> Evaluation:
  """Scores a trained model on a prepared split and writes the report.

  Args:
    workdir: a training run: config.json and checkpoints/.
    split: 'train', 'validation' or 'test'.
    protocol: name of a protocol, or a JSON file with one.
    out_dir: where metrics.json, per_case.csv, per_frame.csv and report/ go.
    data_dir: prepared data; None takes the one the run was trained on.
    which: 'teacher' or 'student'.
    step: which checkpoint, see `workdir.choose_step`.
    whole_clip: score whole clips as well, ED and ES unknown.
    report: write pages and figures as well.
    seed, resamples: of the bootstrap over patients.
  """
  chosen = get_protocol(protocol)
  check_writable(out_dir)
  predicted = predict_split(workdir, split, chosen, data_dir=data_dir, which=which, step=step)
  return write_evaluation(
    predicted.cases,
    chosen,
    out_dir,
    classes=predicted.classes,
    seed=seed,
    receipt=predicted.receipt,
    whole=predicted.whole if whole_clip else (),
    report=report,
    resamples=resamples,
    log_path=epath.Path(workdir) / 'metrics.jsonl',
    progress=progress,
  )


def write_evaluation(
  cases: Sequence[Case],
  protocol: Protocol,
  out_dir,
  *,
  log_path=None,
  whole: Iterable[Case] = (),
  report: bool = True,
  progress: bool = False,
  **options,
) -> Evaluation:
  """Scores predicted clips and writes every file of an evaluation, or all but the report.

  Args:
    cases: clips with frames, truth and prediction. Iterated once, then indexed for the few that the
      figures show: they need not be in memory.
    log_path: a training run's metrics.jsonl, for its curves; or None.
    whole, **options: of `score_predictions`.
  """
  report_dir = pathlib.Path(out_dir) / 'report'

  def bar(items, name):
    return tqdm(items, desc=name, unit='clip', disable=not progress)

  try:
    files = CaseFiles(report_dir) if report else None
    whole = bar(whole, 'whole clips') if whole else ()
    ends = bar(cases, 'ED to ES')
    add = files.add if files else None
    result = score_predictions(ends, protocol, whole=whole, on_clip=add, **options)
    paths = write_result(result, out_dir)
    if files:
      paths['report'] = write_report(result, cases, report_dir, log_path=log_path, case_files=files)
  except OSError as error:
    raise InputError(
      f'--out {out_dir} cannot be written ({error.strerror or error}); '
      'choose a directory you may write to'
    ) from error
  return Evaluation(result, paths)


def write_result(result: Result, out_dir) -> dict[str, pathlib.Path]:
  """Writes metrics.json, per_case.csv and per_frame.csv; returns the paths."""
  out_dir = pathlib.Path(out_dir)
  out_dir.mkdir(parents=True, exist_ok=True)
  paths = {'metrics': out_dir / 'metrics.json'}
  textio.write_json(paths['metrics'], result.metrics)
  for name, rows in (('per_case', result.per_case), ('per_frame', result.per_frame)):
    paths[name] = out_dir / f'{name}.csv'
    _write_csv(paths[name], rows)
  return paths


def predict_split(
  workdir,
  split: str,
  protocol: Protocol,
  *,
  data_dir=None,
  which: str = 'teacher',
  step: str | int = 'latest',
) -> PredictedSplit:
  """Restores a run's model to predict every clip of a split; arguments as of `evaluate`.

  Raises InputError where the protocol's test patients may have been trained on.
  """
  # JAX, orbax and grain are slow to import; tables alone need none of them.
  from echoforge_jax.data import pipeline, prepared
  from echoforge_jax.data.spec import DataSpec
  from echoforge_jax.evaluation import predict
  from echoforge_jax.inference.segmenter import Segmenter
  from echoforge_jax.training import build, checkpoint
  from echoforge_jax.training.workdir import choose_step

  step, choice = choose_step(workdir, step, which)
  config, variables, step = checkpoint.restore_for_inference(workdir, which, step)
  data = config.data
  dataset, scheme = protocol.dataset or data.dataset, protocol.split_scheme or data.split_scheme
  if dataset == data.dataset and data.split_scheme != scheme:
    raise InputError(
      f'{workdir}: trained with the patient lists {data.split_scheme!r}, but the protocol '
      f'{protocol.name!r} tests on those of {protocol.split_scheme!r}, some of whom it was trained '
      'on; choose a protocol with the same lists'
    )
  where = dict(
    data_dir=str(data_dir or data.data_dir),
    dataset=dataset,
    image_size=data.image_size,
    split_scheme=scheme,
  )
  classes = tuple(data.classes)
  spec = DataSpec(**where, num_frames=protocol.num_frames, classes=classes)
  model = build.make_model(config)
  clips = pipeline.eval_clips(spec, split, protocol.sampler)
  cases = predict.PredictedClips(model, variables, clips, threshold=protocol.threshold)
  clips = pipeline.eval_clips(spec, split, 'all')
  segmenter = Segmenter(model, variables, classes=classes, image_size=data.image_size)
  whole = predict.WholeClips(segmenter, clips, threshold=protocol.threshold)
  source = prepared.load_split(**where, split=split)
  receipt = make_receipt(config, source, protocol, step=step, which=which, workdir=workdir)
  return PredictedSplit(cases, whole, classes, receipt | choice)


def make_receipt(config, source, protocol: Protocol, *, step: int, which: str, workdir) -> dict:
  """Returns what identifies an evaluated model and its prepared data, ready for JSON.

  Of the protocol it has the dataset and whose patient lists; `score_predictions` adds the rest.
  `step` counts the updates that the checkpoint has seen.
  """
  return {
    'run': pathlib.Path(workdir).resolve().name,
    'config': config.get('name', '') or config.model.name,
    'config_digest': config_digest(config),
    'model': config.model.name,
    'which': which,
    'checkpoint_step': int(step),
    'training_seed': int(config.seed),
    'trained_on': config.data.dataset,
    'dataset': protocol.dataset or config.data.dataset,
    'synthetic': source.synthetic,
    'split': source.split,
    'split_scheme': protocol.split_scheme or config.data.split_scheme,
    'raw_fingerprint': source.fingerprint,
    'image_size': int(source.image_size),
    'device': device_kind(),
    'git_revision': git_revision(),
    'versions': versions(),
  }


def folders_of_runs(workdirs: Sequence, out_dir) -> dict[str, pathlib.Path]:
  """Returns a folder in `out_dir` for each run, workdir -> folder; their names must differ."""
  folders = {str(w): pathlib.Path(out_dir) / pathlib.Path(w).resolve().name for w in workdirs}
  if len(set(folders.values())) < len(workdirs):
    raise InputError(
      f'--workdir: found {", ".join(map(str, workdirs))}, wanted runs with '
      'different names; each gets a folder of that name'
    )
  return folders


def check_writable(out_dir) -> None:
  """Raises before the work rather than after it."""
  folder = pathlib.Path(out_dir).absolute()
  while not folder.exists() and folder.parent != folder:
    folder = folder.parent
  if not folder.is_dir() or not os.access(folder, os.W_OK):
    raise InputError(
      f'--out {out_dir} cannot be written: {folder} is not a folder you may '
      'write to; choose another'
    )


def _write_csv(path: pathlib.Path, rows: list[dict]) -> None:
  """Writes a table with a header; NaN is an empty field."""

  def field(value):
    if isinstance(value, bool):
      return int(value)
    if isinstance(value, (float, np.floating)):
      return f'{value:.6g}' if math.isfinite(value) else ''
    return value

  with path.open('w', newline='') as file:
    if rows:
      writer = csv.DictWriter(file, fieldnames=list(rows[0]))
      writer.writeheader()
      writer.writerows({k: field(v) for k, v in r.items()} for r in rows)
