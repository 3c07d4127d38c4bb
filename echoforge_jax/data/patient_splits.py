"""Splits of patients where no provider made them: as stated, by a seed, or in folds."""

from collections.abc import Collection, Mapping, Sequence
import re

from echoforge_jax.data.selection import rank_patients
from echoforge_jax.errors import InputError
from echoforge_jax.formats.cases_csv import is_number
from echoforge_jax.formats.findings import fault

# Schemes as `fnmatch` patterns.
SCHEMES = ('official', 'seed*', 'fold*of*')
# Shares of the patients that validate and that test (ours).
_VALIDATION, _TEST = 0.1, 0.2


def fold_scheme(text: str) -> str:
  """Returns the scheme of a flag such as '2/5'."""
  match = re.fullmatch(r'(\d{1,3})/(\d{1,3})', text)
  if not match:
    raise InputError(f'--fold: found {text!r}, wanted K/N such as 2/5, the second of five folds')
  scheme = f'fold{int(match[1])}of{int(match[2])}'
  _read_fold(scheme)
  return scheme


def split_patients(
  stated: Mapping[str, str], scheme: str, source='', held_out: Sequence[Collection[str]] = ()
) -> dict[str, str]:
  """Divides patients; every one is in one split at most.

  'official' takes what is stated: a split, or the number of a fold. Where nobody validates, a tenth
  of the training patients does; where nothing is stated, seed 0 decides. 'seedN' draws 20 % to test
  and 10 % to validate. 'foldKofN' tests on fold K, validates on the next and trains on the others.
  Patients that are stated to test do so in every scheme; seed and fold then divide the others
  only, and fold K validates. All of this is ours.

  Args:
    stated: patient -> 'train', 'validation', 'test', a fold from 0 as text, or ''.
    scheme: one of `SCHEMES`.
    source: file or folder that states them, for messages.
    held_out: patients of each fold, where none are stated; () draws them.

  Returns:
    Patient -> split.
  """
  folds = {p: int(s) for p, s in stated.items() if s.isdigit()}
  if folds and len(folds) < len(stated):
    wrong = next(p for p in stated if p not in folds)
    found = f'the split {stated[wrong]!r} of {wrong}'
    raise fault('split-unknown', source, found, 'the number of a fold, as for other patients')
  numbers = sorted(set(folds.values()))
  if folds and (len(numbers) < 3 or numbers[-1] >= len(numbers)):
    raise fault('split-unknown', source, f'the folds {numbers[:20]}', 'three or more, 0 to N-1')
  if scheme == 'official' and folds:
    scheme = f'fold1of{len(numbers)}'
  if scheme == 'official' and any(stated.values()):
    chosen = {patient: split for patient, split in stated.items() if split}
    training = [patient for patient, split in chosen.items() if split == 'train']
    if 'validation' not in chosen.values() and len(training) > 1:
      count = max(1, round(_VALIDATION * len(training)))
      chosen |= dict.fromkeys(rank_patients(training, 0)[:count], 'validation')
    return chosen
  tested = [patient for patient, split in stated.items() if split == 'test']
  others = [patient for patient in stated if patient not in set(tested)]
  if scheme.startswith('fold'):
    folds = folds or {p: n for n, fold in enumerate(held_out) for p in others if p in fold}
    chosen = _by_fold(others, folds, scheme, bool(tested))
  else:
    chosen = _by_seed(others, _read_seed(scheme), bool(tested))
  return chosen | dict.fromkeys(tested, 'test')


def _by_seed(patients: list[str], seed: int, is_tested: bool) -> dict[str, str]:
  order = rank_patients(patients, seed)
  test = 0 if is_tested or len(order) < 3 else max(1, round(_TEST * len(order)))
  validation = 0 if len(order) < 2 else max(1, round(_VALIDATION * len(order)))
  names = ['test'] * test + ['validation'] * validation
  return dict(zip(order, names + ['train'] * (len(order) - len(names))))


def _by_fold(patients, folds: Mapping[str, int], scheme: str, is_tested: bool) -> dict[str, str]:
  number, count = _read_fold(scheme)
  folds = folds or {patient: n % count for n, patient in enumerate(rank_patients(patients, 0))}
  if (found := len(set(folds.values()))) != count:
    raise InputError(
      f'{scheme}: found {found} folds of {len(patients)} patients, wanted {count}; choose as many '
      'folds as there are'
    )
  held = number - 1, number % count
  parts = dict(zip(held, ('validation', 'train') if is_tested else ('test', 'validation')))
  return {patient: parts.get(fold, 'train') for patient, fold in folds.items()}


def _read_fold(scheme: str) -> tuple[int, int]:
  match = re.fullmatch(r'fold([0-9]{1,3})of([0-9]{1,3})', scheme)
  number, count = (int(match[1]), int(match[2])) if match else (0, 0)
  if not (3 <= count <= 100 and 1 <= number <= count):
    raise InputError(
      f'{scheme}: found no fold from 1 to N of N = 3 to 100; wanted such as fold2of5 (--fold=2/5)'
    )
  return number, count


def _read_seed(scheme: str) -> int:
  text = '0' if scheme == 'official' else scheme.removeprefix('seed')
  if not is_number(text):
    raise InputError(f'split_scheme: found {scheme!r}, wanted one of {list(SCHEMES)} such as seed1')
  return int(text)
