"""Labels of other people's masks by name, as values of this project."""

from collections.abc import Mapping
import json
import pathlib
import re

import numpy as np

from echoforge_jax.clip import LABELS
from echoforge_jax.errors import InputError
from echoforge_jax.formats.cases_csv import is_number
from echoforge_jax.formats.findings import fault

# Marks values that no label has.
UNKNOWN = 255
_WANTED = 'names with values, such as {"lv": 1, "myo": 2, "la": 3}'
_NAMES = {
  'lv': 'lv lvendo lvcavity lvcav lvbloodpool leftventricle leftventriclecavity '
  'leftventricularcavity leftventricularendocardium endocardium lvendocardium',
  'myo': 'myo myocardium lvmyo lvmyocardium lvwall leftventricularmyocardium leftventricularwall',
  'la': 'la leftatrium laendo lacavity leftatrialcavity',
}
_CLASS_OF = {name: label for label, names in _NAMES.items() for name in names.split()}


class Labels:
  """Maps the values of masks to structures; by default 1 is the LV, 2 the myocardium, 3 the LA."""

  def __init__(self, named: Mapping = LABELS, source=''):
    """Reads names and values; raises `FindingError` naming `source` where they are not clear.

    Args:
      named: name -> value or list of values, or as nnU-Net 1 wrote it value (text) -> name. Names
        may be spelled out ('left ventricle'); those of other structures become background.
      source: file or flag that names them.
    """
    pairs = [(re.sub('[^a-z0-9]', '', n.lower()), n, v) for n, v in _by_name(named, source)]
    own = [(_CLASS_OF[key], values) for key, _, values in pairs if key in _CLASS_OF]
    # Names of other structures; what nnU-Net ignores was judged by nobody and is no label.
    others = [
      (name, values)
      for key, name, values in pairs
      if key not in _CLASS_OF and key not in ('background', 'ignore')
    ]
    self.classes = {label for label, _ in own}  # Those of `LABELS` that masks can hold.
    self.unused = [name for name, _ in others]
    # Value of a file -> value of `LABELS`.
    self.table = np.full(256, UNKNOWN, np.uint8)
    self.table[0] = 0
    for label, values in own:
      for value in values:
        if self.table[value] not in (UNKNOWN, LABELS[label]):
          raise fault('labels-unreadable', source, f'the value {value} twice', 'a value a label')
        self.table[value] = LABELS[label]
    for _, values in others:
      self.table[[value for value in values if self.table[value] == UNKNOWN]] = 0
    if not self.classes:
      found = f'the names {self.unused[:6]}'
      raise fault('labels-unreadable', source, found, 'lv, myo or la at least')


def _by_name(named, source) -> list[tuple[str, list[int]]]:
  pairs = []
  for key, value in named.items() if isinstance(named, Mapping) else ():
    if isinstance(value, str) and is_number(str(key)):
      key, value = value, int(key)
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(v) is int and 0 <= v <= 255 for v in values):
      raise fault('labels-unreadable', source, f'{key!r}: {value!r}', _WANTED + ', 0 to 255')
    pairs.append((str(key), values))
  if not pairs:
    raise fault('labels-unreadable', source, f'the labels {str(named)[:80]}', _WANTED)
  return pairs


def read_dataset_json(path: pathlib.Path) -> dict:
  """Returns the contents of a `dataset.json`, an object."""
  try:
    found = json.loads(path.read_text(encoding='utf-8-sig'))
    if isinstance(found, dict):
      return found
    reason = f'a {type(found).__name__}'
  except (OSError, ValueError, RecursionError) as error:
    reason = f'no JSON ({error})'
  raise fault('labels-unreadable', path, reason, 'an object with "labels"')


def parse_labels(text: str) -> Labels:
  """Returns the labels of a flag such as 'lv=1,myo=2'; several values are joined by '+'."""
  named = {}
  for part in text.split(','):
    name, sign, values = part.partition('=')
    if not sign or not all(is_number(value.strip()) for value in values.split('+')):
      raise InputError(f'--labels: found {text!r}, wanted names and values such as lv=1,myo=2')
    named[name.strip()] = [int(value) for value in values.split('+')]
  return Labels(named, '--labels')
