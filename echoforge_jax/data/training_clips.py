"""What training takes of a clip, kept in memory where there is room."""

from collections.abc import Callable, Sequence
import threading
from typing import Protocol

import numpy as np

Clip = dict[str, np.ndarray]
# Features of `builder.example_features` that training reads.
FIELDS = ('frames', 'masks', 'labeled', 'ed', 'es', 'spacing_mm')


class Source(Protocol):
  """Clips by number, with at least the features `FIELDS`."""

  def __getitem__(self, number: int) -> Clip: ...


class ClipCache:
  """Keeps what was read until it is full, and nothing after that.

  Every epoch takes every clip once, in another order: among as many clips, none
  is wanted sooner than another, and throwing one out for the next would only
  cost. Safe to share between threads; another process gets it empty.
  """

  def __init__(self, megabytes: float):
    """Starts empty.

    Args:
      megabytes: room for arrays, in 10^6 bytes; 0 keeps nothing.
    """
    self._room = int(megabytes * 1e6)
    self._free = self._room
    self._clips: dict[int, Clip] = {}
    self._lock = threading.Lock()

  def get(self, number: int, read: Callable[[int], Clip]) -> Clip:
    """Returns a clip, from memory or read; its arrays must not be changed."""
    clip = self._clips.get(number)
    if clip is None:
      clip = read(number)
      size = sum(array.nbytes for array in clip.values())
      with self._lock:
        if number not in self._clips and size <= self._free:
          self._clips[number] = clip
          self._free -= size
    return clip

  def __len__(self) -> int:
    return len(self._clips)

  def __getstate__(self):
    return {'_room': self._room}

  def __setstate__(self, state):
    self.__init__(state['_room'] / 1e6)


class TrainingClips:
  """The part of every clip that training may see.

  Every frame, and of the masks only those that belong to a label: truth that is
  hidden from training is dropped as it is read.
  """

  def __init__(
    self, source: Source, supervision: str, cache: ClipCache | None = None
  ):
    """Reads nothing yet.

    Args:
      source: clips by number.
      supervision: 'sparse' keeps the masks of ED and ES, 'full' those of all
        labeled frames, 'none' no mask.
      cache: where clips are kept; its numbers must be this source's.
    """
    self._source = source
    self._supervision = supervision
    self._cache = ClipCache(0) if cache is None else cache

  def __getitem__(self, number: int) -> Clip:
    """Returns one clip.

    Args:
      number: of the clip.

    Returns:
      dict with frames uint8 [N, S, S]; masks uint8 [M, S, S] prepared label
      values and masks_of [M], increasing, the frames they belong to; labeled
      bool [N]; ed, es; spacing_mm float32 [2].
    """
    return self._cache.get(number, self._read)

  def _read(self, number: int) -> Clip:
    clip = self._source[number]
    kept = {name: np.asarray(clip[name]) for name in FIELDS}
    if self._supervision == 'full':
      masks_of = np.flatnonzero(kept['labeled'])
    elif self._supervision == 'sparse':
      masks_of = np.unique([kept['ed'], kept['es']])
    else:
      masks_of = np.zeros(0, np.int64)
    # A copy of few masks, so that those of all frames are let go.
    return kept | {'masks': kept['masks'][masks_of], 'masks_of': masks_of}


def masks_at(clip: Clip, rows: Sequence[int]) -> np.ndarray:
  """The masks of frames that have one.

  Args:
    clip: of `TrainingClips`.
    rows: [K] numbers of frames, all in `masks_of`.

  Returns:
    uint8 [K, S, S].
  """
  return clip['masks'][np.searchsorted(clip['masks_of'], rows)]
