"""One clip, frame after frame: the loop that every way of inference runs.

`segment`, streams, `evaluate` on whole clips and `export` push frames through a
`FrameLoop`. Whichever asks, a clip gives the same logits bit for bit, clips of
all lengths share one compilation, and a clip of hours needs no more accelerator
memory than one frame.
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
  """Returns the weighted mean [S, S, K], summed in the order of the frames.

  It is elementwise: accelerators may round a matrix product.
  """
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
    weights = [self._lag + 1 - abs(index - center) for index in window]
    frames = [self._frames[index - first] for index in window]
    return _average(
      (*frames, *[frames[-1]] * filler), np.asarray([*weights, *[0] * filler], np.float32)
    )


class FrameLoop:
  """Runs a network over the frames of one clip, in the order of time.

  With n memories, frames t, t + n, t + 2n, ... share one, so that a memory
  sees frames at the pace of training, whatever the frame rate.

  Attributes:
    delay: frames that the logits lag behind: the network's own delay in each
      memory, and the fixed lag.
  """

  def __init__(
    self,
    step: Callable[[np.ndarray, Any], tuple[jax.Array, Any]],
    memories: Sequence,
    *,
    delay: int = 0,
    lag: int = 0,
  ):
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
    """Takes the next frame, uint8 [S, S].

    Returns:
      Logits [S, S, K] of the frame `delay` earlier, perhaps still being
      computed; None where there is no such frame.

    Raises:
      InputError: the clip has ended.
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
    delay: frames that masks lag behind, see `FrameLoop`.
  """

  def __init__(self, segmenter: Segmenter, loop: FrameLoop, sector: sectors.Sector | None):
    self.sector = sector
    self.delay = loop.delay
    self._segmenter = segmenter
    self._loop = loop
    self._shape: tuple[int, int] | None = None
    self._count = 0

  def step(self, frame) -> np.ndarray:
    """Takes the next frame; segments the one `delay` frames before it.

    Args:
      frame: uint8 [H, W], the same size throughout.

    Returns:
      uint8 [H, W] label values of `clip.LABELS` of frame t - delay, t being
      this one; all zero for the first `delay` calls.

    Raises:
      InputError: the frame is not uint8 [H, W], its size changed, or the
        stream has ended.
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
    """Ends the stream; returns the masks that `step` still owes.

    Returns:
      uint8 [n, H, W], oldest first, of the last n = `delay` frames (of all if
      there were fewer); n is 0 for a causal model without a lag.
    """
    none = np.zeros((0, *(self._shape or (0, 0))), np.uint8)
    owed = [self._mask(logits)[None] for logits in self._loop.drain()]
    return np.concatenate([none, *owed])

  def _mask(self, logits: jax.Array) -> np.ndarray:
    assert self.sector and self._shape, 'a frame came before its logits'
    return native_mask(
      np.asarray(logits, np.float32), self.sector, self._shape, self._segmenter.labels
    )


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
  """Returns the mask of a native frame.

  Args:
    logits: float32 [S, S, K] of the squeezed sector. They are interpolated
      bilinearly before the threshold.
    sector: of the frame.
    shape: (H, W) of the frame.
    labels: uint8 [K] mask value of each channel.

  Returns:
    uint8 [H, W]: the label of the largest logit where it is positive
    (probability above one half), else 0.
  """
  top, left, bottom, right = sector.box
  size = (right - left, bottom - top)
  planes = np.stack(
    [cv2.resize(np.ascontiguousarray(plane), size) for plane in np.moveaxis(logits, -1, 0)]
  )
  best = labels[planes.argmax(axis=0)]
  return sector.paste(np.where(planes.max(axis=0) > 0, best, 0), shape)
