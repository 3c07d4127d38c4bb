"""`splits_final.json`: the folds of nnU-Net's own cross-validation."""

from collections.abc import Mapping
import json
import pathlib

from echoforge_jax.formats.findings import fault

NAME = 'splits_final.json'
_CODE = 'folds-unreadable'


def read_folds(path: pathlib.Path, patients: Mapping[str, str]) -> tuple[list[set[str]], str]:
  """Returns the patients that each fold holds out, and why they cannot be used ('' if they can).

  Args:
    path: a list with an object per fold, whose "train" and "val" name cases.
    patients: training case, as the file names it -> patient; '' for one that is not used.

  Raises:
    FindingError: no such list, a case that does not exist, or one in both lists of a fold.
  """
  try:
    content = json.loads(path.read_text(encoding='utf-8-sig'))
    folds = [(set(fold['train']), set(fold['val'])) for fold in content]
    if not folds:
      raise ValueError('an empty list')
  except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
    found = f'no folds ({type(error).__name__}: {error})'
    raise fault(
      _CODE, path, found, 'a list of {"train": [CASE, ...], "val": [CASE, ...]}'
    ) from error
  misfit = ''
  used = {case for case, patient in patients.items() if patient}
  for number, (train, val) in enumerate(folds, start=1):
    where = f'fold {number} of {len(folds)}'
    if unknown := sorted(map(str, (train | val) - patients.keys())):
      raise fault(_CODE, path, f'{unknown[0]} in {where}', 'cases of imagesTr/')
    if both := sorted(train & val):
      raise fault(
        _CODE, path, f'{both[0]} in train and val of {where}', 'every case in one of them'
      )
    if absent := sorted(used - train - val):
      misfit = misfit or f'{absent[0]} is in neither list of {where}'
  held = [{patients[case] for case in val & used} for _, val in folds]
  for patient in sorted({patients[case] for case in used}):
    if (times := sum(patient in fold for fold in held)) != 1:
      misfit = misfit or f'{patient} is held out by {times} of {len(folds)} folds'
  return held, misfit
