"""Trains and evaluates the rows of a study, by the commands that a user would type.

A finished run is a line of `results.jsonl`; an interrupted one continues from its checkpoint.
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
# Values of every patient that a line keeps -> columns of the evaluation.
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
  """What all runs of a study share."""

  out_dir: pathlib.Path  # Gets `runs/` and `results.jsonl`.
  data_dir: pathlib.Path  # Prepared data.
  config: str = 'phantom_lite'  # As in `--config`, without an argument.
  overrides: tuple[tuple[str, Any], ...] = ()  # Config fields for every run.
  protocol: str = 'camus_full'
  jobs: int = 1  # At a time.


@dataclasses.dataclass(frozen=True)
class Run:
  """A row of a study, trained and its labeled patients drawn with a seed."""

  study: str
  row: Row
  seed: int

  @property
  def key(self) -> tuple[str, str, int]:
    """Returns the name of its line in the results."""
    return self.study, self.row.name, self.seed

  def flags(self, settings: Settings) -> list[str]:
    """Returns the flags of `train` but for folders; a row's own settings come last and win."""
    config = self.row.config or settings.config
    variant = f':{self.row.variant}' if self.row.variant else ''
    seeds = {'seed': self.seed, 'data.label_seed': self.seed}
    fields = {**seeds, **dict(settings.overrides), **self.row.settings}
    flags = [f'--config.{key}={value}' for key, value in fields.items()]
    return [f'--config={config}{variant}', *flags]

  def identity(self, settings: Settings) -> list[str]:
    """Returns what a line says of how it was made."""
    return [*self.flags(settings), f'--protocol={settings.protocol}']

  def job(self, settings: Settings) -> Job:
    """Returns the commands that train and evaluate it."""
    name = f'{self.row.name}_seed{self.seed}'
    folder = settings.out_dir / 'runs' / self.study / name
    data, workdir = f'data_dir={settings.data_dir}', f'--workdir={folder}'
    train = ('train', *self.flags(settings), f'--config.data.{data}', workdir)
    choices = ('--split=test', f'--protocol={settings.protocol}', '--skip_whole_clip')
    evaluate = ('evaluate', workdir, f'--{data}', f'--out={folder / "evaluation"}', *choices)
    return Job(name, ((train, folder / 'train.log'), (evaluate, folder / 'evaluate.log')))


def check(study: Study, settings: Settings) -> dict[str, ConfigDict]:
  """Returns every row's config, after building its objective to find errors early."""
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
  """Reads results.jsonl, which need not exist: (study, row, seed) -> line, in order."""
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
  """Runs what is missing of a study; returns the lines (`make_line`) of its rows and seeds.

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
    done[run.key] = make_line(run, settings, folder / 'evaluation', seconds[0], revision)
    write_text(path, ''.join(json.dumps(x, allow_nan=False) + '\n' for x in done.values()))
    return f', Dice {100 * done[run.key]["dice"]:.2f} %'

  states, status = run_jobs(
    [run.job(settings) for run in missing.values()],
    at_once=settings.jobs,
    on_done=add_line,
    say=say,
  )
  if status:
    raise RunFailed('\n'.join(f'{k}: {v}' for k, v in states.items() if v != 'done'), status)
  return [done[run.key] for run in runs]


def make_line(
  run: Run, settings: Settings, report: pathlib.Path, seconds: float, revision: str | None
) -> dict:
  """Makes the line of an evaluated run, ready for JSON: the means of `KEPT`, and each patient's.

  `report` is the evaluation's folder; `seconds` are those of the training since its last start,
  with compiling and validation; `revision` is of the code that trained.
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
