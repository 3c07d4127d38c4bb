"""The memory of TSF: the last frames' semantic tokens, not their maps."""

import math

from flax import struct
import jax
import jax.numpy as jnp

# Training samples ten frames from ED to ES: about a third of a second, so
# about 37 ms from one frame to the next. The memory then spans four such
# steps, and inference keeps to that pace.
TRAINED_INTERVAL_S = 0.037
MAX_STRIDE = 8


@struct.dataclass
class TokenMemory:
  """Tokens of the last M frames, oldest first.

  Attributes:
    tokens: float32 [B, M, N, C] semantic tokens, N = classes + background.
    valid: bool [B, M], False where the clip had not begun.
  """

  tokens: jax.Array
  valid: jax.Array


def empty(batch: int, frames: int, tokens: int, dim: int) -> TokenMemory:
  """A memory before the first frame.

  Args:
    batch: B clips.
    frames: M frames remembered.
    tokens: N tokens a frame.
    dim: C.

  Returns:
    Zeros, all invalid.
  """
  return TokenMemory(
    tokens=jnp.zeros((batch, frames, tokens, dim), jnp.float32),
    valid=jnp.zeros((batch, frames), bool),
  )


def windows(
  memory: TokenMemory, tokens: jax.Array
) -> tuple[jax.Array, jax.Array, TokenMemory]:
  """What each of T new frames may see: itself and the M frames before it.

  Static slices of one padded array: a whole clip at once and frame by frame
  are the same code, T = 1 being the stream.

  Args:
    memory: of the frames before the first new one.
    tokens: float32 [B, T, N, C] of the new frames.

  Returns:
    context: float32 [B, T, M + 1, N, C], oldest first, the frame itself last;
    valid: bool [B, T, M + 1], last column True; and the memory afterwards.
  """
  size = memory.valid.shape[1]
  frames = tokens.shape[1]
  track = jnp.concatenate([memory.tokens, tokens], axis=1)
  known = jnp.concatenate(
    [memory.valid, jnp.ones(tokens.shape[:2], bool)], axis=1
  )
  context = jnp.stack(
    [track[:, i : i + frames] for i in range(size + 1)], axis=2
  )
  valid = jnp.stack([known[:, i : i + frames] for i in range(size + 1)], axis=2)
  after = TokenMemory(tokens=track[:, frames:], valid=known[:, frames:])
  return context, valid, after


def stride_of(fps: float) -> int:
  """Frames from one member of a memory to its next, for a frame rate.

  Args:
    fps: frames per second; NaN where unknown.

  Returns:
    The whole number that comes closest to `TRAINED_INTERVAL_S`, 1 to 8; 1
    where the rate is unknown.
  """
  if not (fps > 0 and math.isfinite(fps)):
    return 1
  return min(max(round(fps * TRAINED_INTERVAL_S), 1), MAX_STRIDE)
