"""Trains and evaluates the rows of a study; resumable, one line a run.

Each run is two commands, `train` and `evaluate`, in processes of their own:
what a study does is what a user would type, memory is given back, and several
runs can share the cores. A finished run is a line of `results.jsonl`; a run
that was interrupted continues from its checkpoint.
"""

from collections.abc import Callable, Iterable, Sequence
import concurrent.futures
import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

from ml_collections import ConfigDict

from echoforge_jax import provenance
from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.comparison.read import read_evaluation
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
  """A training or evaluation ended with an error; the message says which."""


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
  """One training: a row and a seed.

  Attributes:
    study: name of the study.
    row: what is trained.
    seed: of training and of the choice of labeled patients.
  """

  study: str
  row: Row
  seed: int

  @property
  def key(self) -> tuple[str, str, int]:
    """(study, row, seed)."""
    return self.study, self.row.name, self.seed


def train_flags(run: Run, settings: Settings) -> list[str]:
  """The flags of `train` for a run, without --workdir.

  Args:
    run: row and seed.
    settings: of the study.

  Returns:
    Flags; a row's own settings come last and win.
  """
  config = run.row.config or settings.config
  variant = f':{run.row.variant}' if run.row.variant else ''
  fields = {
    'data.data_dir': settings.data_dir,
    'seed': run.seed,
    'data.label_seed': run.seed,
    **dict(settings.overrides),
    **run.row.settings,
  }
  return [
    f'--config={config}{variant}',
    *(f'--config.{key}={value}' for key, value in fields.items()),
  ]


def check(study: Study, settings: Settings) -> dict[str, ConfigDict]:
  """Builds every row's config and objective before anything is trained.

  Args:
    study: rows.
    settings: of the study.

  Returns:
    Row name -> its config.

  Raises:
    InputError: where a flag or a combination is wrong, naming the row.
  """
  configs = {}
  for row in study.rows:
    try:
      config = parse_config(train_flags(Run(study.name, row, 0), settings))
      build.check(config)
      build.make_objective(config)
    except InputError as error:
      raise InputError(f'row {row.name}: {error}') from error
    configs[row.name] = config
  return configs


def read_results(path: pathlib.Path) -> list[dict]:
  """The lines of a results file.

  Args:
    path: results.jsonl; need not exist.

  Returns:
    One dict a run, in the order of the file.

  Raises:
    InputError: where a line is damaged, other than a torn last one.
  """
  if not path.is_file():
    return []
  lines = path.read_text().splitlines()
  found = []
  for number, line in enumerate(lines, start=1):
    try:
      entry = json.loads(line)
      entry['study'], entry['row'], entry['seed']  # What identifies a run.
      found.append(entry)
    except (ValueError, KeyError, TypeError) as error:
      if number == len(lines):
        continue  # Torn by an interruption: the run is done again.
      raise InputError(
        f'{path}, line {number}: found no run ({error}), wanted '
        'one JSON object a line; delete the line'
      ) from error
  return found


def run_study(
  study: Study,
  seeds: Sequence[int],
  settings: Settings,
  *,
  say: Callable[[str], None] = print,
  execute: Callable[[Run, Settings], dict] | None = None,
) -> list[dict]:
  """Runs what is missing of a study.

  Args:
    study: rows.
    seeds: each row is trained with each.
    settings: of all runs.
    say: gets a line a run.
    execute: (run, settings) -> line; for tests.

  Returns:
    The lines of the study's rows and seeds, old and new.

  Raises:
    InputError: where lines of other settings are in the file.
    RunFailed: after all others are done, naming those that failed.
  """
  execute = execute or execute_run
  path = settings.out_dir / RESULTS
  # Seeds outside, rows inside: an interrupted study has whole comparisons.
  runs = [Run(study.name, row, seed) for seed in seeds for row in study.rows]
  settings.out_dir.mkdir(parents=True, exist_ok=True)
  done = _index(read_results(path), path)
  for run in runs:
    _check_same(done.get(run.key), run, settings, path)
  missing = [run for run in runs if run.key not in done]
  say(f'{study.title}: {len(runs)} runs, {len(runs) - len(missing)} done')
  failures = []
  with concurrent.futures.ThreadPoolExecutor(settings.jobs) as pool:
    waiting = {pool.submit(execute, run, settings): run for run in missing}
    for future in concurrent.futures.as_completed(waiting):
      run = waiting[future]
      try:
        line = future.result()
      except RunFailed as error:
        failures.append(str(error))
        say(f'  {run.row.name} seed {run.seed}: FAILED')
        continue
      _append(path, line)
      done[run.key] = line
      say(
        f'  {run.row.name} seed {run.seed}: Dice '
        f'{100 * line["dice"]:.2f} %, training {line["train_seconds"]:.0f} s'
      )
  if failures:
    raise RunFailed('\n'.join(failures))
  return [done[run.key] for run in runs]


def _index(lines: Iterable[dict], path: pathlib.Path) -> dict:
  found = {}
  for line in lines:
    key = line['study'], line['row'], line['seed']
    if key in found:
      raise InputError(f'{path}: the run {key} is there twice; delete one line')
    found[key] = line
  return found


def _check_same(
  line: dict | None, run: Run, settings: Settings, path: pathlib.Path
) -> None:
  wanted = _identity(run, settings)
  if line is not None and line['flags'] != wanted:
    raise InputError(
      f'{path}: the run {run.key} was made with {" ".join(line["flags"])}; '
      f'wanted {" ".join(wanted)}; give another --out, or delete its line '
      'and its folder'
    )


def _identity(run: Run, settings: Settings) -> list[str]:
  """What a line says of how it was made: no folders of this machine."""
  flags = train_flags(run, settings)
  return [
    flag for flag in flags if not flag.startswith('--config.data.data_dir=')
  ] + [f'--protocol={settings.protocol}']


def _append(path: pathlib.Path, line: dict) -> None:
  text = path.read_text() if path.is_file() else ''
  torn = text and not text.endswith('\n')
  kept = text[: text.rfind('\n') + 1] if torn else text
  write_text(path, kept + json.dumps(line, allow_nan=False) + '\n')


def execute_run(run: Run, settings: Settings) -> dict:
  """Trains and evaluates one run.

  Args:
    run: row and seed.
    settings: of the study.

  Returns:
    Its line: study, row, seed, label, flags, dice and the other means,
    patients (values of each), train_seconds, receipt.

  Raises:
    RunFailed: where a command failed; its output is in the run's folder.
  """
  folder = (
    settings.out_dir / 'runs' / run.study / (f'{run.row.name}_seed{run.seed}')
  )
  folder.mkdir(parents=True, exist_ok=True)
  revision = provenance.git_revision()  # Of the code that trains.
  start = time.perf_counter()
  _command(
    ['train', *train_flags(run, settings), f'--workdir={folder}'],
    folder / 'train.log',
  )
  seconds = time.perf_counter() - start
  report = folder / 'evaluation'
  _command(
    [
      'evaluate',
      f'--workdir={folder}',
      '--split=test',
      f'--protocol={settings.protocol}',
      f'--out={report}',
      f'--data_dir={settings.data_dir}',
      '--skip_whole_clip',
    ],
    folder / 'evaluate.log',
  )
  return make_line(run, settings, report, seconds, revision)


def make_line(
  run: Run,
  settings: Settings,
  report: pathlib.Path,
  seconds: float,
  revision: str | None,
) -> dict:
  """The line of an evaluated run.

  Args:
    run: row and seed.
    settings: of the study.
    report: folder of the evaluation.
    seconds: of the training, compiling and validation included; of its last
      part, where it was interrupted.
    revision: git revision that trained.

  Returns:
    JSON-ready dict, see `execute_run`.
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
    'flags': _identity(run, settings),
    **means,
    'train_seconds': round(seconds, 1),
    'patients': patients,
    'receipt': found.receipt | {'trained_at': revision},
  }


def _command(arguments: list[str], log: pathlib.Path) -> None:
  with log.open('w') as file:
    status = subprocess.run(
      [sys.executable, '-m', 'echoforge_jax', *arguments],
      stdout=file,
      stderr=subprocess.STDOUT,
      check=False,
    ).returncode
  if status:
    last = [line for line in log.read_text().splitlines() if line.strip()]
    raise RunFailed(
      f'{log}: `{arguments[0]}` ended with status {status}: '
      f'{last[-1] if last else "no output"}'
    )
