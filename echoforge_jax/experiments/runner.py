"""Trains and scores the rows of a study.

`train` runs in processes, several at a time; this process scores what they leave. A finished run is
a line of `results.jsonl`; an interrupted one continues from its checkpoint. All runs of a study
share compiled programs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import csv
import dataclasses
import hashlib
import json
import math
import pathlib
import time
from typing import Any

from ml_collections import ConfigDict

from echoforge_jax import provenance, textio
from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.comparison.read import read_evaluation
from echoforge_jax.evaluation.scoring import METRICS
from echoforge_jax.experiments.jobs import Job, own_cores, run_jobs, say_at_once
from echoforge_jax.experiments.study import STEP_SECONDS, Row, Study
from echoforge_jax.models import network_file
from echoforge_jax.textio import write_text
from echoforge_jax.training import build

RESULTS = 'results.jsonl'
RESAMPLES = 200  # Of each run's own intervals, which no table shows.
# Values of every patient that a line keeps -> columns of the evaluation. Those of the first class
# are called by the metric alone.
KEPT = {
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
  split: str = 'test'  # Whose patients are scored.
  jobs: int = 1  # At a time, each on its share of the cores.


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
    variant = f':{self.row.variant}' if self.row.variant and ':' not in config else ''
    seeds = {'seed': self.seed, 'data.label_seed': self.seed}
    fields = {**seeds, **dict(settings.overrides), **self.row.settings}
    flags = [f'--config.{key}={value}' for key, value in fields.items()]
    return [f'--config={config}{variant}', *flags]

  def identity(self, settings: Settings) -> list[str]:
    """Returns what a line says of how it was made; it names no folder."""
    flags = []
    for flag in self.flags(settings):
      name, _, value = flag.partition('=')
      flags.append(f'{name}={pathlib.Path(value).name}' if name.endswith('init_from') else flag)
    return [*flags, f'--split={settings.split}', f'--protocol={settings.protocol}']

  def folder(self, settings: Settings) -> pathlib.Path:
    """Returns its workdir."""
    return settings.out_dir / 'runs' / self.study / f'{self.row.name}_seed{self.seed}'

  def config(self, settings: Settings) -> ConfigDict:
    """Returns the config that it trains."""
    return parse_config([*self.flags(settings), f'--config.data.data_dir={settings.data_dir}'])

  def job(self, settings: Settings) -> Job:
    """Returns the command that trains it."""
    folder = self.folder(settings)
    data = f'--config.data.data_dir={settings.data_dir}'
    train = ('train', *self.flags(settings), data, f'--workdir={folder}')
    if settings.jobs > 1:
      cores = len(own_cores()) // settings.jobs
      train += (f'--config.cpu_devices={max(1, min(cores, self.config(settings).cpu_devices))}',)
    return Job(folder.name, ((train, folder / 'train.log'),))


def score(run: Run, settings: Settings) -> pathlib.Path:
  """Scores a run that is trained, without pages or whole clips; returns the evaluation's folder."""
  from echoforge_jax.evaluation.evaluate import evaluate  # It imports matplotlib.

  out_dir, data_dir = run.folder(settings) / 'evaluation', settings.data_dir
  options = dict(data_dir=data_dir, whole_clip=False, report=False, resamples=RESAMPLES)
  evaluate(run.folder(settings), settings.split, settings.protocol, out_dir, **options)
  return out_dir


def check(study: Study, settings: Settings) -> dict[str, ConfigDict]:
  """Returns every row's config, after building its objective to find errors early."""
  configs = {}
  if ':' in settings.config and len({row.variant for row in study.rows}) > 1:
    raise InputError(
      f'--config={settings.config}: the rows of --study={study.name} choose what follows the '
      'colon; leave it out'
    )
  for row in study.rows:
    try:
      config = Run(study.name, row, 0).config(settings)
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


def all_runs(study: Study) -> list[Run]:
  """Returns the runs of a study; seeds outside, rows inside, so that a part has comparisons."""
  seeds = range(max(row.seeds for row in study.rows))
  return [Run(study.name, row, seed) for seed in seeds for row in study.rows if seed < row.seeds]


def done_lines(study: Study, settings: Settings) -> list[dict]:
  """Returns the lines that there are of a study's runs.

  Raises InputError where a line was made with other settings.
  """
  path = settings.out_dir / RESULTS
  done = read_results(path)
  found = []
  for run in all_runs(study):
    if (line := done.get(run.key)) is None:
      continue
    if line['flags'] != (wanted := run.identity(settings)):
      raise InputError(
        f'{path}: the run {run.key} was made with {" ".join(line["flags"])}; '
        f'wanted {" ".join(wanted)}; give another --out, or delete its line '
        'and its folder'
      )
    found.append(line)
  return found


def run_study(
  study: Study,
  settings: Settings,
  *,
  score: Callable[[Run, Settings], pathlib.Path] = score,
  say: Callable[[str], None] = say_at_once,
) -> list[dict]:
  """Runs what is missing of a study; returns the lines (`make_line`) of all its runs.

  Raises:
    InputError: where lines of other settings are in the file, or patients lack.
    RunFailed: after all others are done, naming those that failed.
  """
  path = settings.out_dir / RESULTS
  runs = all_runs(study)
  finished = {(line['study'], line['row'], line['seed']) for line in done_lines(study, settings)}
  done = read_results(path)
  missing = {run.job(settings).name: run for run in runs if run.key not in finished}
  settings.out_dir.mkdir(parents=True, exist_ok=True)
  for row in study.rows:  # Before hours of training rather than after them.
    labels_receipt(Run(study.name, row, 0).config(settings))
  clock = _Clock(runs, done, settings)
  count = f'{len(runs)} runs, {len(runs) - len(missing)} done'
  say(f'{study.title}: {count}{clock.left(missing.values())}')
  revision = provenance.git_revision()  # Of the code that trains.

  def add_line(job: Job, seconds: list[float]) -> str:
    run = missing.pop(job.name)
    start = time.monotonic()
    report = score(run, settings)
    seconds = [*seconds, time.monotonic() - start]
    line = make_line(run, settings, report, seconds, revision)
    done[run.key] = line
    texts = (json.dumps(x, allow_nan=False, separators=(',', ':')) for x in done.values())
    write_text(path, '\n'.join(texts) + '\n')
    return f', Dice {100 * line["dice"]:.2f} %{clock.left(missing.values())}'

  states, status = run_jobs(
    [run.job(settings) for run in missing.values()],
    at_once=settings.jobs,
    share_cores=True,
    on_done=add_line,
    say=say,
  )
  if status:
    raise RunFailed('\n'.join(f'{k}: {v}' for k, v in states.items() if v != 'done'), status)
  return [done[run.key] for run in runs]


class _Clock:
  """Says how long what is left of a study will take."""

  def __init__(self, runs: Sequence[Run], done: Mapping, settings: Settings):
    self._steps = {run.key: run.config(settings).num_steps for run in runs}
    self._done, self._jobs = done, settings.jobs

  def left(self, missing: Sequence[Run]) -> str:
    """Returns the text: by the runs that are done, else by `STEP_SECONDS`."""
    pairs = [
      (self._done[key]['train_seconds'], n) for key, n in self._steps.items() if key in self._done
    ]
    steps = sum(n for _, n in pairs)
    each = sum(seconds for seconds, _ in pairs) / steps / self._jobs if steps else STEP_SECONDS
    minutes = math.ceil(each * sum(self._steps[run.key] for run in missing) / 60)
    return f'; about {minutes // 60} h {minutes % 60} min left' if minutes else ''


def make_line(
  run: Run, settings: Settings, report: pathlib.Path, seconds: Sequence[float], revision: str | None
) -> dict:
  """Makes the line of an evaluated run, ready for JSON: means, and each patient's values.

  `report` is the evaluation's folder; `seconds` are those of the training since its last start,
  with compiling, and of the evaluation; `revision` is of the code that trained.
  """
  found, config = read_evaluation(report), run.config(settings)
  classes = list(found.metrics['classes'])
  columns = dict(KEPT)
  for name in classes:
    first = name == classes[0]
    kept = METRICS if first else ('dice', 'asd')
    columns |= {metric if first else f'{name}_{metric}': f'{name}_{metric}' for metric in kept}
  patients: dict[str, dict[str, float]] = {patient: {} for patient in found.patients}
  for name, column in columns.items():
    for patient, value in found.values.get(column, {}).items():
      patients[patient][name] = value
  for patient, name, value in _parts(report):
    patients[patient][name] = value
  means = {}
  for name in dict.fromkeys(name for values in patients.values() for name in values):
    values = [v[name] for v in patients.values() if name in v]
    means[name] = sum(values) / len(values)
  return textio.to_json(
    {
      'study': run.study,
      'row': run.row.name,
      'seed': run.seed,
      'label': run.row.label,
      'flags': run.identity(settings),
      'dice': None,
      **means,
      'train_seconds': round(seconds[0], 1),
      'patients': patients,
      'receipt': found.receipt
      | {
        'trained_at': revision,
        'seconds': [round(x, 1) for x in seconds],
        'weights_sha256': _weights_digest(config.init_from),
        **labels_receipt(config),
      },
    },
    digits=4,
  )


def _parts(report: pathlib.Path) -> Iterator[tuple[str, str, float]]:
  """Yields (patient, name, value) of every class, view and phase of an evaluation.

  Names are 'lv_dice_4CH_ED', 'lv_asd_4CH' (mm, the mean of ED and ES, where the spacing is known)
  and 'ef_4CH_masks', 'ef_4CH_predicted' (percent, of this view alone).
  """
  millimetres = set()
  with (report / 'per_case.csv').open(newline='') as file:
    for row in csv.DictReader(file):
      millimetres |= {(row['patient'], row['view'])} if row['unit'] == 'mm' else set()
      for kind in ('masks', 'predicted'):
        if value := row[f'ef_view_{kind}']:
          yield row['patient'], f'ef_{row["view"]}_{kind}', float(value)
  distances: dict[tuple[str, str], list[float]] = {}
  with (report / 'per_frame.csv').open(newline='') as file:
    for row in csv.DictReader(file):
      patient, view, name = row['patient'], row['view'], row['class']
      if not row['phase'] or row['scored'] != '1':
        continue
      if row['dice']:
        yield patient, f'{name}_dice_{view}_{row["phase"]}', float(row['dice'])
      if row['asd'] and (patient, view) in millimetres:
        distances.setdefault((patient, f'{name}_asd_{view}'), []).append(float(row['asd']))
  for (patient, name), values in distances.items():
    yield patient, name, sum(values) / len(values)


def labels_receipt(config: ConfigDict) -> dict:
  """Returns how many patients' labels a training sees, and a digest of their names.

  Raises InputError where there are fewer patients than the config asks for.
  """
  from echoforge_jax.data import prepared, selection

  data, spec = config.data, build.data_spec(config)
  source = prepared.load_split(
    data.data_dir, data.dataset, 'train', data.image_size, split_scheme=data.split_scheme
  )
  numbers, _ = selection.divide_clips(
    source, spec.label_fraction, spec.label_seed, spec.labeled_patients
  )
  patients = sorted({source.clips[n]['patient'] for n in numbers})
  digest = hashlib.sha256('\n'.join(patients).encode()).hexdigest()
  return {'labeled_patients': len(patients), 'labeled_patients_sha256': digest}


def _weights_digest(path: str) -> str | None:
  """Returns a digest of the file of first weights; None for random ones and for a run's folder."""
  file = network_file.default_path() if path == network_file.DEFAULT else pathlib.Path(path)
  return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
