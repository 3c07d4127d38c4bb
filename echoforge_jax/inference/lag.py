"""A fixed lag: each frame's logits averaged with those around it (ours).

A causal mask may flicker from frame to frame. Who can wait for L frames gets
the mean over the L frames before and the L after, the frame itself in the
middle, so that nothing is shifted in time.
"""

import collections
from collections.abc import Iterator

import jax
import numpy as np

from echoforge_jax.errors import InputError

MAX_LAG = 30


def weights_of(lag: int) -> np.ndarray:
  """The window: a triangle.

  Args:
    lag: L frames on either side.

  Returns:
    float32 [2 L + 1], L + 1 - |j| for j = -L..L; not normalised.
  """
  return (lag + 1 - np.abs(np.arange(-lag, lag + 1))).astype(np.float32)


def check(lag: int) -> int:
  """The lag, if it is one.

  Raises:
    InputError: not a whole number from 0 to `MAX_LAG`.
  """
  if (
    isinstance(lag, bool)
    or not isinstance(lag, (int, np.integer))
    or not (0 <= lag <= MAX_LAG)
  ):
    raise InputError(
      f'lag: found {lag!r}, wanted a whole number of frames from 0 to {MAX_LAG}'
    )
  return int(lag)


@jax.jit
def average(frames: tuple[jax.Array, ...], weights: jax.Array) -> jax.Array:
  """Weighted mean, summed in the order of the frames.

  Elementwise, and not a matrix product, which accelerators may round.

  Args:
    frames: 2 L + 1 arrays float32 [S, S, K].
    weights: float32 [2 L + 1], at least one above 0.

  Returns:
    float32 [S, S, K].
  """
  total = frames[0] * weights[0]
  for index in range(1, len(frames)):
    total = total + frames[index] * weights[index]
  return total / weights.sum()


class FixedLag:
  """The last 2 L + 1 frames' logits, and their mean around the middle one.

  At the ends of a clip the part of the window that exists counts.
  """

  def __init__(self, lag: int):
    """Starts empty.

    Args:
      lag: L, at least 1.
    """
    self._lag = lag
    self._weights = weights_of(lag)
    self._frames: collections.deque = collections.deque(maxlen=2 * lag + 1)
    self._count = 0

  def push(self, logits: jax.Array) -> jax.Array | None:
    """Takes the logits [S, S, K] of the next frame.

    Returns:
      The mean around the frame L earlier; None where there is no such frame.
    """
    self._frames.append(logits)
    self._count += 1
    return self._mean(self._count - 1 - self._lag)

  def drain(self) -> Iterator[jax.Array]:
    """Yields the means around the last L frames (all, if there were fewer)."""
    for frame in range(max(self._count - self._lag, 0), self._count):
      yield self._mean(frame)

  def _mean(self, center: int) -> jax.Array | None:
    if center < 0:
      return None
    first = self._count - len(self._frames)
    filler = self._frames[-1]  # Of weight zero: the window's length is fixed.
    frames, weights = [], np.zeros_like(self._weights)
    for index in range(2 * self._lag + 1):
      place = center - self._lag + index - first
      inside = 0 <= place < len(self._frames)
      frames.append(self._frames[place] if inside else filler)
      weights[index] = self._weights[index] if inside else 0.0
    return average(tuple(frames), weights)
