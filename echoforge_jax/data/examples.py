"""Training examples: which clip, which of its frames, and what is known of it.

position in training -> clip number -> kept clip -> example
"""

from collections.abc import Collection, Sequence
import dataclasses
import threading

import numpy as np

from echoforge_jax.data.selection import class_table, frame_indices, random_window
from echoforge_jax.data.spec import DataSpec

# Features of a prepared record that training reads.
FIELDS = ('frames', 'masks', 'labeled', 'ed', 'es', 'spacing_mm')


class Order:
  """Endless order of clips: every epoch is a new permutation of all of them.

  Stands in for grain's `shuffle().repeat()`, which takes 2 ms per element for 24 elements and 0.5
  ms for 100, and few labeled clips are the usual case here.
  """

  def __init__(self, clips: Sequence[int], seed: int):
    self._clips, self._seed = np.asarray(clips), seed
    self._latest = (-1, self._clips)  # Epoch and its permutation.

  def __len__(self) -> int:
    # As good as endless, and exact where grain divides it as a float.
    return 2**53

  def __getitem__(self, position: int) -> int:
    epoch, offset = divmod(position, len(self._clips))
    latest, order = self._latest
    if latest != epoch:
      order = np.random.default_rng((self._seed, epoch)).permutation(self._clips)
      self._latest = (epoch, order)
    return int(order[offset])

  def __repr__(self) -> str:
    return f'Order({len(self._clips)} clips, seed {self._seed})'


@dataclasses.dataclass(frozen=True)
class KeptClip:
  """Holds the part of a clip that training may see; its arrays must not change."""

  frames: np.ndarray  # uint8 [N, S, S], all frames.
  masks: np.ndarray  # uint8 [M, S, S] class ids, of the frames that are labeled.
  mask_of: np.ndarray  # int [N], where a frame's mask is in `masks`; -1: not labeled.
  ed: int
  es: int
  spacing_mm: np.ndarray  # float32 [2] mm per pixel (row, column).


class TrainingClips:
  """Reads clips without the truth that is hidden from training.

  Keeps what was read while there is room, and drops nothing: every epoch takes every clip once, so
  no clip is wanted sooner than another. Safe to share between threads.
  """

  def __init__(self, source, spec: DataSpec, hidden: Collection[int] | None = ()):
    """Reads nothing yet; masks of the clips `hidden` (None: all) are not used."""
    self._source = source
    self._table = class_table(spec.classes)
    self._supervision = spec.supervision
    self._hidden = None if hidden is None else set(hidden)
    self._free = int(spec.cache_mb * 1e6)
    self._kept: dict[int, KeptClip] = {}
    self._lock = threading.Lock()

  def __getitem__(self, number: int) -> KeptClip:
    clip = self._kept.get(number)
    if clip is None:
      clip = self._read(number)
      size = clip.frames.nbytes + clip.masks.nbytes
      with self._lock:
        if number not in self._kept and size <= self._free:
          self._kept[number] = clip
          self._free -= size
    return clip

  def _read(self, number: int) -> KeptClip:
    record = self._source[number]
    known = np.array(record['labeled'])
    if self._hidden is None or number in self._hidden:
      known[:] = False
    elif self._supervision == 'sparse':
      known[:] = False
      known[[record['ed'], record['es']]] = True
    return KeptClip(
      frames=np.asarray(record['frames']),
      masks=self._table[record['masks'][known]],
      mask_of=np.where(known, np.cumsum(known) - 1, -1),
      ed=int(record['ed']),
      es=int(record['es']),
      spacing_mm=np.asarray(record['spacing_mm'], np.float32),
    )


class Examples:
  """Turns clip numbers into training examples, for `grain`'s `random_map`."""

  def __init__(self, clips: TrainingClips, spec: DataSpec):
    self._clips = clips
    self._num_frames, self._config = spec.num_frames, spec.augmentation
    self._blind = spec.unlabeled_window == 'blind'
    # Frames that can have a label. A short clip repeats frames: under sparse
    # supervision only the first ED and the last ES count.
    ends = [0, spec.num_frames - 1]
    self._masked = np.array(ends if spec.supervision == 'sparse' else range(spec.num_frames))

  def __call__(self, number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns one row of a batch of `pipeline.make_train_dataset`."""
    clip = self._clips[number]
    if self._blind and not len(clip.masks):
      rows = random_window(len(clip.frames), self._num_frames, rng)
    else:
      jitter, reversal = self._config.temporal_jitter, self._config.reversal
      rows = frame_indices(clip.ed, clip.es, self._num_frames, jitter=jitter, rng=rng)
      if reversal and rng.random() < reversal:
        rows = rows[::-1]
    masks_at = clip.mask_of[rows[self._masked]]
    known = masks_at >= 0
    masks = np.zeros((len(known), *clip.frames.shape[1:]), np.uint8)
    masks[known] = clip.masks[masks_at[known]]
    labeled = np.zeros(self._num_frames, np.bool_)
    labeled[self._masked] = known
    return {
      'video': clip.frames[rows][..., None],
      'masks': masks,
      'labeled': labeled,
      'spacing_mm': clip.spacing_mm,
      'seed': rng.integers(2**32, dtype=np.uint32),
    }
