"""One clip, frame after frame: the loop that every way of inference runs.

`segment`, streams, `evaluate` on whole clips and `export` push frames through a
`FrameLoop`. A clip gives the same logits bit for bit in all of them, clips of
all lengths share one compilation, and memory does not grow with the clip.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import itertools
from typing import TYPE_CHECKING, Any

import cv2
import jax
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.formats import sector as sectors
from echoforge_jax.formats.resize import squeeze_frames

if TYPE_CHECKING:
  from echoforge_jax.inference.segmenter import Segmenter

MAX_LAG = 30
# Frames whose results `FrameLoop.run` has not fetched yet.
_IN_FLIGHT = 8


def check_lag(lag: Any) -> int:
  """Returns the lag; raises InputError if it is none."""
  whole = isinstance(lag, int | np.integer) and not isinstance(lag, bool)
  if not whole or not 0 <= lag <= MAX_LAG:
    raise InputError(f'lag: found {lag!r}, wanted a whole number of frames from 0 to {MAX_LAG}')
  return int(lag)


@jax.jit
def _average(frames: tuple[jax.Array, ...], weights: jax.Array) -> jax.Array:
  """Returns the weighted mean; elementwise, as accelerators may round a matrix product."""
  total = frames[0] * weights[0]
  for index in range(1, len(frames)):
    total = total + frames[index] * weights[index]
  return total / weights.sum()


class FixedLag:
  """Averages the logits of each frame with those of L frames before and after.

  A causal mask may flicker from frame to frame. A fixed lag of L frames gives
  steadier outlines, and shifts nothing in time: the frame itself is in the
  middle of the window, whose weights L + 1 - |j| form a triangle (ours). At the
  ends of a clip the part of the window that exists counts.
  """

  def __init__(self, lag: int):
    self._lag = lag
    self._frames: collections.deque = collections.deque(maxlen=2 * lag + 1)
    self._count = 0

  def push(self, logits: jax.Array) -> jax.Array | None:
    """Takes the next logits; returns the mean around those L frames earlier."""
    self._frames.append(logits)
    self._count += 1
    center = self._count - 1 - self._lag
    return self._mean(center) if center >= 0 else None

  def drain(self) -> Iterator[jax.Array]:
    """Yields the means around the last L frames."""
    for center in range(max(self._count - self._lag, 0), self._count):
      yield self._mean(center)

  def _mean(self, center: int) -> jax.Array:
    first = self._count - len(self._frames)
    window = range(max(center - self._lag, first), min(center + self._lag + 1, self._count))
    # Of weight zero: one length compiles once.
    filler = 2 * self._lag + 1 - len(window)
    weights = [self._lag + 1 - abs(index - center) for index in window] + [0] * filler
    frames = [self._frames[index - first] for index in window]
    return _average((*frames, *frames[-1:] * filler), np.asarray(weights, np.float32))


class FrameLoop:
  """Runs a network over the frames of one clip, in the order of time.

  With n memories, frames t, t + n, t + 2n, ... share one, so that a memory
  sees frames at the pace of training, whatever the frame rate.

  Attributes:
    delay: frames that the logits lag behind: the network's own delay in each
      memory, and the fixed lag.
  """

  def __init__(self, step: Callable, memories: Sequence, *, delay: int = 0, lag: int = 0):
    """Starts a clip.

    Args:
      step: (frame uint8 [S, S], memory) -> (logits [S, S, K], memory).
      memories: empty; their number is the stride.
      delay: steps of one memory until a frame's logits come: 0 for a causal
        network (EchoForge), 1 for one that looks at the next frame (SSCF).
      lag: see `FixedLag`; 0 averages nothing.
    """
    self._step = step
    self._memories = list(memories)
    self._last: dict[int, np.ndarray] = {}
    self._behind = delay * len(self._memories)
    self._lag = FixedLag(check_lag(lag)) if lag else None
    self.delay = self._behind + lag
    self._count = 0
    self._ended = False

  def push(self, frame: np.ndarray) -> jax.Array | None:
    """Takes a frame uint8 [S, S]; returns logits [S, S, K] of the one `delay` earlier, or None.

    The logits may still be being computed.
    """
    if self._ended:
      raise InputError('the stream was flushed and has ended; start a new one')
    turn = self._count % len(self._memories)
    self._last[turn] = frame
    self._count += 1
    logits = self._run(turn)
    return self._smooth(logits) if self._count > self._behind else None

  def drain(self) -> Iterator[jax.Array]:
    """Ends the clip; yields the logits [S, S, K] still owed.

    The last frame of each memory stands for those that never come.
    """
    self._ended = True
    for owner in range(max(self._count - self._behind, 0), self._count):
      logits = self._smooth(self._run(owner % len(self._memories)))
      if logits is not None:
        yield logits
    if self._lag:
      yield from self._lag.drain()

  def run(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the logits float32 [S, S, K] of each frame of a whole clip."""
    waiting: collections.deque = collections.deque()
    for logits in itertools.chain(map(self.push, frames), self.drain()):
      if logits is not None:
        waiting.append(logits)
      if len(waiting) == _IN_FLIGHT:
        yield np.asarray(waiting.popleft(), np.float32)
    for logits in waiting:
      yield np.asarray(logits, np.float32)

  def _run(self, turn: int) -> jax.Array:
    logits, self._memories[turn] = self._step(self._last[turn], self._memories[turn])
    return logits

  def _smooth(self, logits: jax.Array) -> jax.Array | None:
    return self._lag.push(logits) if self._lag else logits


class Stream:
  """A clip in progress, of frames at native size.

  Attributes:
    sector: where the ultrasound lies; None before the first frame.
    delay: frames that masks lag behind.
  """

  def __init__(self, segmenter: Segmenter, loop: FrameLoop, sector: sectors.Sector | None):
    self.sector = sector
    self.delay = loop.delay
    self._segmenter = segmenter
    self._loop = loop
    self._shape: tuple[int, int] | None = None
    self._count = 0

  def step(self, frame) -> np.ndarray:
    """Takes the next frame, uint8 [H, W]; segments the one `delay` frames before it.

    Returns:
      uint8 [H, W] label values of `clip.LABELS`; all zero for the first `delay`
      calls.
    """
    frame = check_gray(frame, 2, '[H, W]')
    shape = self._shape or frame.shape
    if frame.shape != shape:
      raise InputError(
        f'frame {self._count} is {list(frame.shape)}; wanted {list(shape)} as the frames before it'
      )
    self._shape, self._count = shape, self._count + 1
    if self.sector is None:
      self.sector = sectors.find_sector(frame[None])
    logits = self._loop.push(squeeze(frame, self.sector, self._segmenter.image_size))
    return np.zeros(shape, np.uint8) if logits is None else self._mask(logits)

  def flush(self) -> np.ndarray:
    """Ends the stream; returns the masks of the last `delay` frames, uint8 [n, H, W]."""
    owed = [self._mask(logits) for logits in self._loop.drain()]
    return np.asarray(owed, np.uint8).reshape(len(owed), *(self._shape or (0, 0)))

  def _mask(self, logits: jax.Array) -> np.ndarray:
    assert self.sector and self._shape, 'a frame came before its logits'
    found = np.asarray(logits, np.float32)
    return native_mask(found, self.sector, self._shape, self._segmenter.labels)


def check_gray(array, dimensions: int, wanted: str) -> np.ndarray:
  """Returns an array that is uint8, not empty and of so many dimensions."""
  array = np.asarray(array)
  if array.ndim != dimensions or array.dtype != np.uint8 or not array.size:
    raise InputError(
      f'found an array of type {array.dtype} and shape {list(array.shape)}; '
      f'wanted uint8 gray levels {wanted}'
    )
  return array


def squeeze(frame: np.ndarray, sector: sectors.Sector, size: int) -> np.ndarray:
  """Returns the sector of a native frame as the network sees it, [S, S]."""
  return squeeze_frames(sector.crop(frame)[None], size)[0]


def native_mask(
  logits: np.ndarray, sector: sectors.Sector, shape: tuple[int, int], labels: np.ndarray
) -> np.ndarray:
  """Returns the mask of a native frame, uint8 [H, W].

  It is the label of the largest logit where that is positive (probability above
  one half), else 0. Logits, float32 [S, S, K] of the squeezed sector, are
  interpolated bilinearly first. `shape` is (H, W), `labels` uint8 [K].
  """
  top, left, bottom, right = sector.box
  channels = [np.ascontiguousarray(channel) for channel in np.moveaxis(logits, -1, 0)]
  planes = np.stack([cv2.resize(channel, (right - left, bottom - top)) for channel in channels])
  best = labels[planes.argmax(axis=0)]
  return sector.paste(np.where(planes.max(axis=0) > 0, best, 0), shape)
