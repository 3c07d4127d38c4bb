"""Evaluation protocols, as data: what is sampled, scored, pooled, measured."""

import dataclasses
import json
import pathlib

from echoforge_jax.data.datasets import DATASETS
from echoforge_jax.errors import InputError

_CHOICES = {
  'split_scheme': ('official', 'memsam'),
  'sampler': ('linspace', 'truncate'),
  'score': ('ends', 'all'),
  'pooling': ('clip_patient', 'frame'),
  'ef_method': ('biplane', 'discs', 'area_length'),
}


@dataclasses.dataclass(frozen=True)
class Protocol:
  """One way to score a dataset; two numbers compare only under the same one.

  Attributes:
    name: what `--protocol` and metrics.json call it.
    score: 'ends' scores the first (ED) and last (ES) sampled frame, 'all'
      every sampled frame.
    description: one line for reports.
    dataset: 'camus' or 'echonet'; '' takes the one the run was trained on.
    split_scheme: whose patient lists decide: 'official', or 'memsam' (CAMUS
      in the order of ids, 350/50/100).
    sampler: 'linspace': rint(linspace(ED, ES, num_frames)); 'truncate': the
      same cut to whole numbers.
    num_frames: frames a clip, 2 or more.
    threshold: a class is predicted where its probability is above this.
    pooling: 'clip_patient': the mean of a clip's scored frames, then of a
      patient's clips, then of the patients; 'frame': the mean of all scored
      frames, each counting once.
    ef_method: 'biplane': Simpson's 20 discs from 2CH and 4CH; 'discs': of
      each view alone; 'area_length': 8 A^2 / (3 pi L) of each view alone.
      Volumes of several views are averaged with the last two.
    metric_spacing: True measures distances in mm, False in native pixels.
  """

  name: str
  score: str
  description: str
  dataset: str = 'camus'
  split_scheme: str = 'official'
  sampler: str = 'linspace'
  num_frames: int = 10
  threshold: float = 0.5
  pooling: str = 'clip_patient'
  ef_method: str = 'biplane'
  metric_spacing: bool = True

  def scored_frames(self, count: int) -> list[int]:
    """Indices of the frames to score.

    Args:
      count: frames in the clip.

    Returns:
      Increasing indices.
    """
    if self.score == 'ends':
      return sorted({0, count - 1})
    return list(range(count))


_SEMI = Protocol(
  'camus_semi',
  score='ends',
  description='10 frames from ED to ES, scored at ED and ES',
)
_FULL = Protocol(
  'camus_full', score='all', description='10 frames from ED to ES, all scored'
)
_MEMSAM = ', patients in the order of ids (350/50/100)'
PROTOCOLS = {
  p.name: p
  for p in (
    _SEMI,
    _FULL,
    dataclasses.replace(
      _SEMI,
      name='camus_semi_memsam',
      split_scheme='memsam',
      description=_SEMI.description + _MEMSAM,
    ),
    dataclasses.replace(
      _FULL,
      name='camus_full_memsam',
      split_scheme='memsam',
      description=_FULL.description + _MEMSAM,
    ),
    Protocol(
      'echonet',
      score='ends',
      dataset='echonet',
      ef_method='discs',
      metric_spacing=False,
      description='10 frames from ED to ES, scored at the two '
      'traced frames, distances in pixels',
    ),
  )
}


def get_protocol(name: str) -> Protocol:
  """The protocol of that name, or out of a JSON file.

  Args:
    name: a key of `PROTOCOLS`, or the path of a .json file with the fields of
      `Protocol`, of which name, score and description are needed.

  Returns:
    The protocol.

  Raises:
    InputError: if there is none of that name, or the file is no protocol.
  """
  if str(name).endswith('.json'):
    return _read_protocol(pathlib.Path(name))
  if name not in PROTOCOLS:
    raise InputError(
      f'protocol: found {name!r}, wanted one of {", ".join(PROTOCOLS)}, or '
      'a .json file with its fields; choose one with --protocol'
    )
  return PROTOCOLS[name]


def _read_protocol(path: pathlib.Path) -> Protocol:
  try:
    fields = json.loads(path.read_text())
    protocol = Protocol(**fields)
  except (OSError, ValueError, TypeError) as error:
    known = ', '.join(f.name for f in dataclasses.fields(Protocol))
    raise InputError(
      f'{path}: not a protocol ({error}); wanted a JSON object '
      f'with fields of: {known}'
    ) from error
  if protocol.name in PROTOCOLS:
    raise InputError(
      f'{path}: the name {protocol.name!r} belongs to a '
      'built-in protocol; give yours another'
    )
  for field, kind in (
    ('name', str),
    ('description', str),
    ('metric_spacing', bool),
  ):
    value = getattr(protocol, field)
    if not isinstance(value, kind):
      raise InputError(
        f'{path}: {field} is {value!r}, wanted '
        f'{"true or false" if kind is bool else "a text"}'
      )
  for field, choices in {**_CHOICES, 'dataset': ('', *DATASETS)}.items():
    value = getattr(protocol, field)
    if value not in choices:
      raise InputError(
        f'{path}: {field} is {value!r}, wanted one of '
        f'{", ".join(c or repr(c) for c in choices)}'
      )
  number = (int, float)
  if not (
    isinstance(protocol.num_frames, int)
    and protocol.num_frames >= 2
    and isinstance(protocol.threshold, number)
    and 0 < protocol.threshold < 1
  ):
    raise InputError(
      f'{path}: found num_frames {protocol.num_frames!r} and threshold '
      f'{protocol.threshold!r}, wanted 2 or more and between 0 and 1'
    )
  return protocol
