"""The memory of TSF: the last frames' semantic tokens, not their maps."""

import math

from flax import struct
import jax
import jax.numpy as jnp

# Training samples ten frames from ED to ES, which takes about a third of a
# second: 37 ms from one frame to the next. Inference keeps to that pace.
TRAINED_INTERVAL_S = 0.037
MAX_STRIDE = 8


@struct.dataclass
class TokenMemory:
  """Semantic tokens of the last M frames, oldest first; N = classes + background."""

  tokens: jax.Array  # float32 [B, M, N, C].
  valid: jax.Array  # bool [B, M], False where the clip had not begun.

  @classmethod
  def empty(cls, batch: int, frames: int, tokens: int, dim: int):
    """Returns the memory [batch, frames, tokens, dim] before any frame."""
    return cls(
      jnp.zeros((batch, frames, tokens, dim), jnp.float32), jnp.zeros((batch, frames), bool)
    )


def windows(memory: TokenMemory, tokens: jax.Array) -> tuple[jax.Array, jax.Array, TokenMemory]:
  """Gives each of T new frames what it may see: itself and M frames before.

  Static slices of one padded array: a whole clip at once and frame by frame are the same code;
  T = 1 is the stream.

  Args:
    memory: of the frames before the first new one.
    tokens: float32 [B, T, N, C] of the new frames.

  Returns:
    context: float32 [B, T, M + 1, N, C], oldest first, the frame itself last; valid: bool
    [B, T, M + 1], last column True; and the memory afterwards.
  """
  size, frames = memory.valid.shape[1], tokens.shape[1]
  track = jnp.concatenate([memory.tokens, tokens], axis=1)
  known = jnp.concatenate([memory.valid, jnp.ones(tokens.shape[:2], bool)], axis=1)

  def seen(x):
    return jnp.stack([x[:, i : i + frames] for i in range(size + 1)], axis=2)

  after = TokenMemory(tokens=track[:, frames:], valid=known[:, frames:])
  return seen(track), seen(known), after


def stride_of(fps: float) -> int:
  """Returns how many frames apart the frames in a memory are, 1 to `MAX_STRIDE`.

  It is the number that comes closest to `TRAINED_INTERVAL_S`; 1 where the rate is unknown (NaN).
  """
  if not (fps > 0 and math.isfinite(fps)):
    return 1
  return min(max(round(fps * TRAINED_INTERVAL_S), 1), MAX_STRIDE)
