"""What training and evaluation read: one description of the data."""

import dataclasses
import os

from echoforge_jax.data.augment import AugmentConfig
from echoforge_jax.data.phantom_stream import StreamConfig
from echoforge_jax.data.selection import class_table
from echoforge_jax.errors import InputError

SUPERVISION = ('sparse', 'full')
UNLABELED_WINDOWS = ('ed_es', 'blind')


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Which clips are read, and how they become batches."""

  data_dir: str | os.PathLike  # Root of all prepared data.
  dataset: str  # Such as 'camus'; 'phantom_stream' draws clips while training and reads none.
  image_size: int  # S in pixels.
  num_frames: int  # T, frames from ED to ES.
  classes: tuple[str, ...] = ('lv',)  # The first has id 1, the second 2, ...
  split_scheme: str = 'official'  # Which split files decided, or 'memsam'.
  supervision: str = 'sparse'  # ED and ES are labeled; or 'full', all frames.
  label_fraction: float = 1.0  # Share of the patients whose labels are used, in (0, 1].
  labeled_patients: int = 0  # Number of these patients, in place of a share; 0 leaves the share.
  label_seed: int = 0  # Which patients these are; see `selection.rank_patients`.
  batch_size: int = 1  # Labeled clips per step, over all processes.
  unlabeled_batch_size: int = 0  # Clips of the other patients per step.
  # Their frames run from ED to ES, or are a `selection.random_window`, which knows neither.
  unlabeled_window: str = 'ed_es'
  # `temporal_jitter` and `reversal` act on frames here, all others where views are drawn.
  augmentation: AugmentConfig = AugmentConfig()
  stream: StreamConfig = StreamConfig()  # How the clips of 'phantom_stream' are drawn.
  seed: int = 0  # Decides order and augmentation, together with the step.
  # Memory for clips that were read, in 10^6 bytes; 0 reads every clip anew. Streamed phantoms have
  # a pool of their own.
  cache_mb: float = 0

  def __post_init__(self):
    class_table(self.classes)
    for name, choices in (('supervision', SUPERVISION), ('unlabeled_window', UNLABELED_WINDOWS)):
      if (found := getattr(self, name)) not in choices:
        raise InputError(f'{name}: found {found!r}, wanted one of {list(choices)}')
    if not 0 < self.label_fraction <= 1:
      raise InputError(
        f'label_fraction: found {self.label_fraction}, wanted more than 0 and at most 1'
      )
    if self.labeled_patients and self.label_fraction < 1:
      raise InputError(
        f'found labeled_patients {self.labeled_patients} and label_fraction {self.label_fraction}, '
        'wanted one of them: leave labeled_patients at 0 or label_fraction at 1'
      )
    for name, least in (
      ('image_size', 1),
      ('num_frames', 2),  # ED and ES.
      ('labeled_patients', 0),
      ('batch_size', 1),
      ('unlabeled_batch_size', 0),
      ('cache_mb', 0),
    ):
      if not getattr(self, name) >= least:
        raise InputError(f'{name} is {getattr(self, name)}; wanted at least {least}')

  @property
  def hides_labels(self) -> bool:
    """Tells whether the labels of some patients are left out."""
    return bool(self.labeled_patients) or self.label_fraction < 1
