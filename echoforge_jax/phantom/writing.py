"""What every writer of phantoms shares: truth file, workers, continuing."""

from collections.abc import Callable, Iterator
import concurrent.futures
import dataclasses
import json
import multiprocessing
from pathlib import Path
import time

from tqdm import tqdm

from echoforge_jax import __version__, textio
from echoforge_jax.errors import InputError
from echoforge_jax.formats.camus import PHANTOM_FILE

_SECONDS_BETWEEN = 5.0


def check_counts(num_patients: int, seed: int) -> None:
  """Raises `InputError` unless 1 <= num_patients <= 9999 and seed >= 0."""
  if not 1 <= num_patients <= 9999:
    raise InputError(f'num_patients is {num_patients}, wanted 1 to 9999')
  if seed < 0:
    raise InputError(f'seed is {seed}, wanted zero or more')


def split_sizes(
  num_patients: int, num_test: int | None, shares: tuple[float, float]
) -> tuple[int, int]:
  """Returns how many patients validate and test; neither is 0 from 3 patients on.

  `num_test`: None takes the share; `shares`: of validation and test, of all patients.
  """
  val, test = (max(1, round(num_patients * share)) for share in shares)
  val, test = val if num_patients >= 3 else 0, test if num_patients >= 2 else 0
  most = num_patients - val - 1
  if num_test is not None and not 1 <= num_test <= most:
    raise InputError(
      f'num_test is {num_test} of {num_patients} patients; wanted 1 to {max(1, most)}, '
      f'so that {val} remain for validation and some for training'
    )
  return val, test if num_test is None else num_test


def facts_of(patient) -> dict:
  """Returns what the truth file says of every patient."""
  facts = {key: float(getattr(patient, key)) for key in ('edv_ml', 'esv_ml', 'ef_percent')}
  return facts | {'group': str(patient.group)}


def open_truth(out_dir: Path, config, **fields) -> dict:
  """Returns the truth so far: of an earlier run in `out_dir`, or an empty one.

  `config` and `fields`, which the truth begins with, must be those of the earlier run; 'patients'
  is a dict by patient.
  """
  if dataclasses.is_dataclass(config):
    config = dataclasses.asdict(config)
  generator = f'echoforge_jax {__version__}'
  identity = {'generator': generator, **fields, 'config': textio.to_json(config)}
  path = out_dir / PHANTOM_FILE
  if path.exists():
    try:
      truth = json.loads(path.read_text())
      found = {key: truth[key] for key in (*identity, 'patients')}
    except (ValueError, KeyError, TypeError) as error:
      raise InputError(
        f"{path}: not a phantom's truth file ({error}); remedy: choose another --out"
      ) from error
    differs = ', '.join(key for key in identity if found[key] != identity[key])
    if differs:
      raise InputError(
        f'{path}: an earlier phantom with another {differs} is here; '
        'remedy: choose another --out, or delete this one'
      )
    return truth
  if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
    state = f'holds files but no {PHANTOM_FILE}' if out_dir.is_dir() else 'is a file'
    raise InputError(
      f'{out_dir}: {state}; wanted a new or empty folder; remedy: choose another --out'
    )
  truth = {**identity, 'patients': {}}
  try:
    write_truth(out_dir, truth)
  except OSError as error:
    raise InputError(
      f'{out_dir}: cannot be written ({error.strerror}); remedy: choose another --out'
    ) from error
  return truth


def write_truth(out_dir: Path, truth: dict) -> None:
  """Replaces the truth file, whole or not at all."""
  truth['patients'] = dict(sorted(truth['patients'].items()))
  out_dir.mkdir(parents=True, exist_ok=True)
  textio.write_json(out_dir / PHANTOM_FILE, truth)


def make_patients(
  make: Callable[[tuple], tuple[str, dict]],
  jobs: list[tuple],
  truth: dict,
  out_dir: Path,
  *,
  num_workers: int,
  progress: bool,
) -> None:
  """Makes what is missing; the truth file grows with the patients.

  `make` is picklable: job -> (patient, facts); `jobs` has one for each missing patient.
  `num_workers` counts processes beside this one; 0 works in this one.
  """
  total = truth['num_patients']
  shown = dict(total=total, initial=total - len(jobs), unit='patient', desc=f'phantom {out_dir}')
  with tqdm(**shown, disable=not progress) as bar:
    written = time.monotonic()
    try:
      for patient, facts in _run(make, jobs, num_workers):
        truth['patients'][patient] = facts
        # Thousands of patients make a file that takes a while to write.
        if time.monotonic() - written > _SECONDS_BETWEEN:
          write_truth(out_dir, truth)
          written = time.monotonic()
        bar.update()
    finally:
      write_truth(out_dir, truth)


def _run(make, jobs, num_workers) -> Iterator[tuple[str, dict]]:
  if num_workers < 1 or len(jobs) < 2:
    yield from map(make, jobs)
    return
  # A forked copy of a process in which JAX has started threads may hang.
  context = multiprocessing.get_context('spawn')
  num_workers = min(num_workers, len(jobs))
  with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
    tasks = [pool.submit(make, job) for job in jobs]
    try:
      for task in concurrent.futures.as_completed(tasks):
        yield task.result()
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
