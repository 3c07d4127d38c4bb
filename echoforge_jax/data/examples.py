"""One training example after the other: which clip, which frames, which view.

place in training -> clip number -> example -> the rows of one process
"""

from collections.abc import Sequence
import dataclasses

import grain
import numpy as np

from echoforge_jax.clip import IGNORE
from echoforge_jax.data import transforms
from echoforge_jax.data.selection import frame_indices
from echoforge_jax.data.training_clips import TrainingClips, masks_at
from echoforge_jax.data.transforms import AugmentConfig

Example = dict[str, np.ndarray]


class Order:
  """Endless order of clips: every epoch is a new permutation of all of them.

  Stands in for grain's `shuffle().repeat()`, which takes 2 ms an element for
  24 elements and 0.5 ms for 100: few labeled clips are the very case here.
  """

  def __init__(self, clips: Sequence[int], seed: int):
    self._clips = np.asarray(clips)
    self._seed = seed
    self._latest = (-1, self._clips)  # Epoch and its permutation.

  def __len__(self) -> int:
    # As good as endless, and exact where grain divides it as a float.
    return 2**53

  def __getitem__(self, position: int) -> int:
    epoch, place = divmod(position, len(self._clips))
    latest, order = self._latest
    if latest != epoch:
      rng = np.random.default_rng((self._seed, epoch))
      order = rng.permutation(self._clips)
      self._latest = (epoch, order)
    return int(order[place])

  def __repr__(self) -> str:
    return f'Order({len(self._clips)} clips, seed {self._seed})'


@dataclasses.dataclass(frozen=True)
class _Picked:
  """Frames of a clip, and what training may know of them.

  Attributes:
    frames: uint8 [T, S, S].
    labeled: bool [T].
    masks: uint8 [L, S, S] class ids of the labeled frames.
    spacing_mm: float32 [2].
  """

  frames: np.ndarray
  labeled: np.ndarray
  masks: np.ndarray
  spacing_mm: np.ndarray


@dataclasses.dataclass(frozen=True)
class Examples(grain.transforms.RandomMap):
  """Clip number -> one training example.

  Attributes:
    clips: where clips are read.
    table: uint8 [256], prepared label values to class ids.
    num_frames: T.
    supervision: 'sparse' keeps the labels of ED and ES, 'full' all, 'none' no
      label.
    augmentation: ranges.
  """

  clips: TrainingClips
  table: np.ndarray
  num_frames: int
  supervision: str
  augmentation: AugmentConfig

  def random_map(self, element: int, rng: np.random.Generator) -> Example:
    """Returns both views of one clip, augmented here."""
    picked = self._pick(element, rng)
    out = transforms.augment_clip(
      rng, self.augmentation, picked.frames, picked.masks, picked.spacing_mm
    )
    masks = np.full(out['weak'].shape, IGNORE, np.uint8)
    masks[picked.labeled] = out['masks']
    return {
      'video_weak': out['weak'][..., None],
      'video_strong': out['strong'][..., None],
      'masks': masks,
      'labeled': picked.labeled,
      'spacing_mm': out['spacing_mm'],
    }

  def _pick(self, number: int, rng: np.random.Generator) -> _Picked:
    clip = self.clips[number]
    rows = frame_indices(
      clip['ed'],
      clip['es'],
      self.num_frames,
      jitter=self.augmentation.temporal_jitter,
      rng=rng,
    )
    reversal = self.augmentation.reversal
    if reversal and rng.random() < reversal:
      rows = rows[::-1]
    labeled = np.zeros(self.num_frames, np.bool_)
    if self.supervision == 'full':
      labeled[:] = clip['labeled'][rows]
    elif self.supervision == 'sparse':
      labeled[[0, -1]] = True
    return _Picked(
      clip['frames'][rows],
      labeled,
      self.table[masks_at(clip, rows[labeled])],
      clip['spacing_mm'],
    )


@dataclasses.dataclass(frozen=True)
class PlainExamples(Examples):
  """Clip number -> frames, labels and a seed: views are drawn on the device.

  Attributes:
    num_masks: N, masks of an example: 2, of its first and last frame, where no
      other can have a label; else T.
  """

  num_masks: int

  def random_map(self, element: int, rng: np.random.Generator) -> Example:
    """Returns one clip as `device_views` takes it."""
    picked = self._pick(element, rng)
    places = np.flatnonzero(picked.labeled)
    if self.num_masks < self.num_frames:  # The last frame's is the last.
      places = np.minimum(places, self.num_masks - 1)
    masks = np.zeros((self.num_masks, *picked.frames.shape[1:]), np.uint8)
    masks[places] = picked.masks
    return {
      'video': picked.frames[..., None],
      'masks': masks,
      'labeled': picked.labeled,
      'spacing_mm': picked.spacing_mm.astype(np.float32),
      'seed': rng.integers(2**32, dtype=np.uint32),
    }


class OwnRows(grain.MapDataset):
  """The rows of one process: a block of every batch, from some batch on."""

  def __init__(
    self,
    parent: grain.MapDataset,
    *,
    size: int,
    index: int,
    count: int,
    first_batch: int,
  ):
    super().__init__(parent)
    self._examples = parent
    self._size, self._index, self._count = size, index, count
    self._first_batch = first_batch

  def __len__(self) -> int:
    return len(self._examples) // self._count

  def __getitem__(self, position):
    if isinstance(position, slice):
      return self.slice(position)
    batch, row = divmod(position, self._size)
    block = (self._first_batch + batch) * self._count + self._index
    return self._examples[block * self._size + row]
