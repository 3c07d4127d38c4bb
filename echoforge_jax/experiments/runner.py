"""Trains and evaluates the rows of a study; resumable, one line per run.

Each run is two commands, `train` and `evaluate`, in processes of their own:
what a study does is what a user would type, memory is given back, and several
runs can share the cores. A finished run is a line of `results.jsonl`; a run
that was interrupted continues from its checkpoint.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from echoforge_jax import provenance
from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.comparison.read import read_evaluation
from echoforge_jax.experiments.jobs import Job, run_jobs, say_at_once
from echoforge_jax.experiments.study import Row, Study
from echoforge_jax.textio import write_text
from echoforge_jax.training import build

RESULTS = 'results.jsonl'
# Values of every patient that a line keeps: name there -> name of the column.
KEPT = {
  'dice': 'lv_dice',
  'iou': 'lv_iou',
  'hd': 'lv_hd',
  'hd95': 'lv_hd95',
  'asd': 'lv_asd',
  'ef_reference': 'ef_reference',
  'ef_predicted': 'ef_predicted',
  'inconsistent': 'inconsistent_share',
  'roughness': 'area_roughness',
  'valid': 'valid_share',
}


class RunFailed(RuntimeError):
  """Runs failed or were stopped: which ones, and the command's exit status."""

  def __init__(self, message: str, status: int):
    super().__init__(message)
    self.status = status


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all runs of a study share.

  Attributes:
    out_dir: gets `runs/` and `results.jsonl`.
    data_dir: prepared data.
    config: what `--config` names, without an argument.
    overrides: config fields for every run, such as `num_steps`.
    protocol: of the evaluation.
    jobs: runs at a time.
  """

  out_dir: pathlib.Path
  data_dir: pathlib.Path
  config: str = 'phantom_lite'
  overrides: tuple[tuple[str, Any], ...] = ()
  protocol: str = 'camus_full'
  jobs: int = 1


@dataclasses.dataclass(frozen=True)
class Run:
  """A row of a study, trained and its labeled patients drawn with a seed."""

  study: str
  row: Row
  seed: int

  @property
  def key(self) -> tuple[str, str, int]:
    """What a line of the results names it by."""
    return self.study, self.row.name, self.seed

  def flags(self, settings: Settings) -> list[str]:
    """Returns the flags of `train`; a row's own settings come last and win.

    Nothing in them depends on this machine: the data's folder is left out.
    """
    config = self.row.config or settings.config
    variant = f':{self.row.variant}' if self.row.variant else ''
    fields = {
      'seed': self.seed,
      'data.label_seed': self.seed,
      **dict(settings.overrides),
      **self.row.settings,
    }
    return [
      f'--config={config}{variant}',
      *(f'--config.{key}={value}' for key, value in fields.items()),
    ]

  def identity(self, settings: Settings) -> list[str]:
    """Returns what a line says of how it was made."""
    return [*self.flags(settings), f'--protocol={settings.protocol}']

  def job(self, settings: Settings) -> Job:
    """Returns the commands that train and evaluate it."""
    name = f'{self.row.name}_seed{self.seed}'
    folder = settings.out_dir / 'runs' / self.study / name
    train = (
      'train',
      *self.flags(settings),
      f'--config.data.data_dir={settings.data_dir}',
      f'--workdir={folder}',
    )
    evaluate = (
      'evaluate',
      f'--workdir={folder}',
      '--split=test',
      f'--protocol={settings.protocol}',
      f'--out={folder / "evaluation"}',
      f'--data_dir={settings.data_dir}',
      '--skip_whole_clip',
    )
    logs = folder / 'train.log', folder / 'evaluate.log'
    return Job(name, tuple(zip((train, evaluate), logs)))


def check(study: Study, settings: Settings) -> dict[str, ConfigDict]:
  """Builds every row's config and objective before anything is trained.

  Returns:
    Row name -> its config.

  Raises:
    InputError: where a flag or a combination is wrong, naming the row.
  """
  configs = {}
  for row in study.rows:
    try:
      config = parse_config(Run(study.name, row, 0).flags(settings))
      build.check(config)
      build.make_objective(config)
    except InputError as error:
      raise InputError(f'row {row.name}: {error}') from error
    configs[row.name] = config
  return configs


def read_results(path: pathlib.Path) -> dict[tuple[str, str, int], dict]:
  """Reads the lines of results.jsonl, which need not exist.

  Returns:
    (study, row, seed) -> line, in the order of the file.

  Raises:
    InputError: where a line is damaged, other than a torn last one, or a run
      is there twice.
  """
  found = {}
  lines = path.read_text().splitlines() if path.is_file() else []
  for number, line in enumerate(lines, start=1):
    try:
      entry = json.loads(line)
      key = entry['study'], entry['row'], entry['seed']
    except (ValueError, KeyError, TypeError) as error:
      if number == len(lines):
        break  # Torn by an interruption: the run is done again.
      raise InputError(
        f'{path}, line {number}: found no run ({error}), wanted '
        'one JSON object a line; delete the line'
      ) from error
    if key in found:
      raise InputError(f'{path}: the run {key} is there twice; delete one line')
    found[key] = entry
  return found


def run_study(
  study: Study,
  seeds: Sequence[int],
  settings: Settings,
  *,
  say: Callable[[str], None] = say_at_once,
) -> list[dict]:
  """Runs what is missing of a study.

  Args:
    study: its rows are trained with each seed.
    seeds: of training and of the choice of labeled patients.
    settings: of all runs.
    say: gets a line per event.

  Returns:
    The lines of the study's rows and seeds, old and new, see `make_line`.

  Raises:
    InputError: where lines of other settings are in the file.
    RunFailed: after all others are done, naming those that failed.
  """
  path = settings.out_dir / RESULTS
  # Seeds outside, rows inside: an interrupted study has whole comparisons.
  runs = [Run(study.name, row, seed) for seed in seeds for row in study.rows]
  done = read_results(path)
  for run in runs:
    line, wanted = done.get(run.key), run.identity(settings)
    if line is not None and line['flags'] != wanted:
      raise InputError(
        f'{path}: the run {run.key} was made with {" ".join(line["flags"])}; '
        f'wanted {" ".join(wanted)}; give another --out, or delete its line '
        'and its folder'
      )
  missing = {run.job(settings).name: run for run in runs if run.key not in done}
  settings.out_dir.mkdir(parents=True, exist_ok=True)
  say(f'{study.title}: {len(runs)} runs, {len(runs) - len(missing)} done')
  revision = provenance.git_revision()  # Of the code that trains.

  def add_line(job: Job, seconds: list[float]) -> str:
    run = missing[job.name]
    folder = settings.out_dir / 'runs' / study.name / job.name
    line = make_line(run, settings, folder / 'evaluation', seconds[0], revision)
    done[run.key] = line
    lines = (json.dumps(x, allow_nan=False) + '\n' for x in done.values())
    write_text(path, ''.join(lines))
    return f', Dice {100 * line["dice"]:.2f} %'

  states, status = run_jobs(
    [run.job(settings) for run in missing.values()],
    at_once=settings.jobs,
    on_done=add_line,
    say=say,
  )
  if status:
    left = (f'{name}: {x}' for name, x in states.items() if x != 'done')
    raise RunFailed('\n'.join(left), status)
  return [done[run.key] for run in runs]


def make_line(
  run: Run, settings: Settings, report: pathlib.Path, seconds: float, revision: str | None
) -> dict:
  """Makes the line of an evaluated run.

  Args:
    run: row and seed.
    settings: of the study.
    report: folder of the evaluation.
    seconds: of the training with compiling and validation; of its last part,
      where it was interrupted.
    revision: git revision that trained.

  Returns:
    JSON-ready dict: study, row, seed, label, flags, the means of `KEPT`,
    patients (values of each), train_seconds, receipt.
  """
  found = read_evaluation(report)
  patients = {
    patient: {
      name: found.values[column][patient]
      for name, column in KEPT.items()
      if patient in found.values.get(column, {})
    }
    for patient in found.patients
  }
  means = {}
  for name in KEPT:
    values = [v[name] for v in patients.values() if name in v]
    means[name] = sum(values) / len(values) if values else None
  return {
    'study': run.study,
    'row': run.row.name,
    'seed': run.seed,
    'label': run.row.label,
    'flags': run.identity(settings),
    **means,
    'train_seconds': round(seconds, 1),
    'patients': patients,
    'receipt': found.receipt | {'trained_at': revision},
  }
