"""Evaluation protocols, as data: what is sampled, scored, pooled, measured."""

import dataclasses
import json
import pathlib

from echoforge_jax.data.datasets import DATASETS
from echoforge_jax.errors import InputError

_CHOICES = {
  'split_scheme': ('', 'official', 'memsam'),
  'sampler': ('linspace', 'truncate'),
  'score': ('ends', 'all'),
  'pooling': ('clip_patient', 'frame'),
  'ef_method': ('biplane', 'discs', 'area_length'),
}


@dataclasses.dataclass(frozen=True)
class Protocol:
  """One way to score a dataset; two numbers compare only under the same one."""

  name: str  # What `--protocol` and metrics.json call it.
  score: str  # 'ends': the first (ED) and last (ES) sampled frame; 'all': every one.
  description: str  # One line for reports.
  dataset: str = 'camus'  # As `verify` takes it; '' takes the one the run was trained on.
  # Whose patient lists decide: 'official', 'memsam' (CAMUS in the order of ids, 350/50/100), or ''
  # for those that the run was trained on, such as a fold.
  split_scheme: str = 'official'
  # 'linspace': rint(linspace(ED, ES, num_frames)); 'truncate': the same cut to whole numbers.
  sampler: str = 'linspace'
  num_frames: int = 10  # Per clip, 2 or more.
  threshold: float = 0.5  # A class is predicted where its probability is above this.
  # 'clip_patient': the mean of a clip's scored frames, then of a patient's clips, then of the
  # patients; 'frame': the mean of all scored frames, each counting once.
  pooling: str = 'clip_patient'
  # 'biplane': Simpson's 20 discs from 2CH and 4CH; of each view alone, averaged over the views:
  # 'discs', or 'area_length', 8 A^2 / (3 pi L).
  ef_method: str = 'biplane'
  metric_spacing: bool = True  # Distances in mm; False: in native pixels.

  def scored_frames(self, count: int) -> list[int]:
    """Returns increasing indices of the frames to score, of `count`."""
    return sorted({0, count - 1}) if self.score == 'ends' else list(range(count))


_CAMUS = (
  Protocol('camus_semi', 'ends', '10 frames from ED to ES, scored at ED and ES'),
  Protocol('camus_full', 'all', '10 frames from ED to ES, all scored'),
)
_BY_ID = tuple(
  dataclasses.replace(
    p,
    name=f'{p.name}_memsam',
    split_scheme='memsam',
    description=f'{p.description}, patients in the order of ids (350/50/100)',
  )
  for p in _CAMUS
)
_ECHONET = Protocol(
  'echonet',
  'ends',
  '10 frames from ED to ES, scored at the two traced frames, distances in pixels',
  dataset='echonet',
  ef_method='discs',
  metric_spacing=False,
)
_OWN = Protocol(
  'own',
  'ends',
  'the data and patient lists that the run was trained on, scored at ED and ES',
  dataset='',
  split_scheme='',
)
PROTOCOLS = {p.name: p for p in (*_CAMUS, *_BY_ID, _ECHONET, _OWN)}


def get_protocol(name: str) -> Protocol:
  """Returns the protocol of that name, or out of a JSON file.

  The file has the fields of `Protocol`, of which name, score and description are needed.
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
      f'{path}: not a protocol ({error}); wanted a JSON object with fields of: {known}'
    ) from error
  if protocol.name in PROTOCOLS:
    raise InputError(
      f'{path}: the name {protocol.name!r} belongs to a built-in protocol; give yours another'
    )
  kinds = {'name': str, 'description': str, 'metric_spacing': bool}
  for field, kind in kinds.items():
    if not isinstance(value := getattr(protocol, field), kind):
      wanted = 'true or false' if kind is bool else 'a text'
      raise InputError(f'{path}: {field} is {value!r}, wanted {wanted}')
  for field, choices in {**_CHOICES, 'dataset': ('', *DATASETS)}.items():
    value = getattr(protocol, field)
    if value not in choices and not (field == 'dataset' and ':' in str(value)):
      raise InputError(
        f'{path}: {field} is {value!r}, wanted one of {", ".join(c or repr(c) for c in choices)}'
      )
  count, threshold = protocol.num_frames, protocol.threshold
  usable = isinstance(count, int) and isinstance(threshold, int | float)
  if not (usable and count >= 2 and 0 < threshold < 1):
    raise InputError(
      f'{path}: found num_frames {count!r} and threshold {threshold!r}, wanted 2 or more and '
      'between 0 and 1'
    )
  return protocol
