"""What training and evaluation read: one description of the data."""

import dataclasses
import os

from echoforge_jax.data.augment import AugmentConfig
from echoforge_jax.data.phantom_stream import StreamConfig
from echoforge_jax.data.selection import class_table
from echoforge_jax.errors import InputError

SUPERVISION = ('sparse', 'full')


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Which clips are read, and how they become batches.

  Attributes:
    data_dir: root of all prepared data.
    dataset: name of the dataset, for example 'camus'; 'phantom_stream' draws
      clips while training and reads none.
    image_size: S in pixels.
    num_frames: T, frames from ED to ES.
    classes: foreground classes; the first has id 1, the second 2, ...
    split_scheme: which split files decided ('official', 'memsam').
    supervision: 'sparse' (ED and ES are labeled) or 'full' (all frames).
    label_fraction: share of the patients whose labels are used, in (0, 1].
    label_seed: which patients these are; see `selection.labeled_patients`.
    batch_size: labeled clips per step, over all processes.
    unlabeled_batch_size: clips of the other patients per step.
    augmentation: ranges; `temporal_jitter` and `reversal` act on frames here,
      all others where views are drawn.
    stream: how the clips of 'phantom_stream' are drawn.
    seed: decides order and augmentation, together with the step.
    cache_mb: memory for clips that were read, in 10^6 bytes; 0 reads every clip
      anew. Streamed phantoms have a pool of their own.

  Raises:
    InputError: when a value is out of range.
  """

  data_dir: str | os.PathLike
  dataset: str
  image_size: int
  num_frames: int
  classes: tuple[str, ...] = ('lv',)
  split_scheme: str = 'official'
  supervision: str = 'sparse'
  label_fraction: float = 1.0
  label_seed: int = 0
  batch_size: int = 1
  unlabeled_batch_size: int = 0
  augmentation: AugmentConfig = AugmentConfig()
  stream: StreamConfig = StreamConfig()
  seed: int = 0
  cache_mb: float = 0

  def __post_init__(self):
    class_table(self.classes)
    if self.supervision not in SUPERVISION:
      raise InputError(
        f'supervision: found {self.supervision!r}, wanted one of {list(SUPERVISION)}'
      )
    if not 0 < self.label_fraction <= 1:
      raise InputError(
        f'label_fraction: found {self.label_fraction}, wanted more than 0 and at most 1'
      )
    for name, least in (
      ('image_size', 1),
      ('num_frames', 2),  # ED and ES.
      ('batch_size', 1),
      ('unlabeled_batch_size', 0),
      ('cache_mb', 0),
    ):
      if not getattr(self, name) >= least:
        raise InputError(f'{name} is {getattr(self, name)}; wanted at least {least}')
