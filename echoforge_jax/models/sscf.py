"""SSCF: the mask of a frame from the frame, its past and its future.

Three encoders (TCE), calibration of both neighbours by the target (ASSC) and fusion (BSSF) at four
levels, a LinkNet decoder. Medical Image Analysis 2022; the published PyTorch module is the
reference for structure and numbers, and `models.weights` maps its parameters to these.
"""

import functools
import itertools
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from echoforge_jax.errors import InputError
from echoforge_jax.models.backbone import ResNet
from echoforge_jax.models.layers import NORMS, Dtype, einsum32, make_norm
from echoforge_jax.models.options import make_checked

POOLS = (1, 3, 5, 7)
LEVELS = 4
ENCODERS = ('resnet10', 'resnet18', 'resnet34')
# torch's default for convolutions, which the published module keeps.
_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def _windows_max(x: jax.Array, axis: int, sizes: tuple[int, ...]) -> jax.Array:
  """Takes the maxima of all windows floor(i n / s) .. ceil((i + 1) n / s).

  The axis is cut wherever a window of any size begins or ends: the pieces' maxima read x once, and
  windows are joined from them.
  """
  n = x.shape[axis]
  windows = [(i * n // size, -(-(i + 1) * n // size)) for size in sizes for i in range(size)]
  cuts = sorted({cut for window in windows for cut in window})
  pieces = [
    jnp.max(jax.lax.slice_in_dim(x, start, end, axis=axis), axis=axis)
    for start, end in zip(cuts, cuts[1:])
  ]
  parts = (pieces[cuts.index(start) : cuts.index(end)] for start, end in windows)
  return jnp.stack([functools.reduce(jnp.maximum, part) for part in parts], axis=axis)


def pyramid_pool(x: jax.Array, sizes: tuple[int, ...] = POOLS) -> jax.Array:
  """Max-pools x [N, h, w, C] adaptively to several grids, whose windows are torch's.

  Windows overlap where a side does not divide evenly, and where it is shorter than the grid.
  Returns [N, sum of sizes squared, C], grid after grid, row by row.
  """
  n, _, _, c = x.shape
  # Every row window by every column window, of which those of one grid count:
  # cheaper than columns apart for each grid, since all maps are small by now.
  both = _windows_max(_windows_max(x, 1, sizes), 2, sizes)
  grids = [
    both[:, end - size : end, end - size : end].reshape(n, size**2, c)
    for size, end in zip(sizes, itertools.accumulate(sizes))
  ]
  return jnp.concatenate(grids, axis=1)


def calibrate(query: jax.Array, key: jax.Array, convolved: jax.Array) -> jax.Array:
  """Convolves a neighbour with the kernel of its own pair of frames (ASSC).

  The paper's kernel of output channel q is sum_k A[q, k] condition[k] with A = sigmoid(Q K^T).
  Convolution is linear in its kernel, so the neighbours of the whole batch are convolved with
  `condition` once and the results mixed by A, in float32: no sample needs a convolution of its own.

  Args:
    query: [N, P, C] summary of the neighbour.
    key: [N, P, C] summary of the target.
    convolved: [N, h, w, C] the neighbour, convolved with `condition`; so is the result.
  """
  attention = jax.nn.sigmoid(einsum32('npq,npk->nqk', query, key))
  return jnp.einsum('nqk,nhwk->nhwq', attention.astype(convolved.dtype), convolved)


class Fusion(nn.Module):
  """ASSC of both neighbours and BSSF: three maps become one."""

  norm: str
  train: bool
  dtype: Dtype

  @nn.compact
  def __call__(self, previous: jax.Array, target: jax.Array, following: jax.Array) -> jax.Array:
    """Fuses three maps [N, h, w, C] into one of that shape."""
    c = target.shape[-1]
    conv = functools.partial(nn.Conv, c, dtype=self.dtype)

    def summarized(x, name):
      return pyramid_pool(conv((3, 3), padding='VALID', kernel_init=_INIT, name=name)(x))

    def calibrated(x, direction):
      name = f'{direction}_condition'
      condition = conv((3, 3), use_bias=False, kernel_init=nn.initializers.ones, name=name)
      query = summarized(x, f'{direction}_query')
      key = summarized(target, f'{direction}_key')
      return calibrate(query, key, condition(x))

    maps = [calibrated(previous, 'forward'), target, calibrated(following, 'backward')]
    x = jnp.concatenate(maps, axis=-1)
    x = conv((1, 1), use_bias=False, kernel_init=_INIT, name='out')(x)
    return make_norm(self.norm, train=self.train, dtype=self.dtype, name='out_norm')(x)


class DecoderBlock(nn.Module):
  """LinkNet block, which doubles the sides and halves the channels."""

  norm: str
  train: bool
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, h, w, C] to [N, 2h, 2w, C / 2]."""
    c = x.shape[-1]
    options = {'kernel_init': _INIT, 'dtype': self.dtype}

    def normed(x, name):
      return nn.relu(make_norm(self.norm, train=self.train, dtype=self.dtype, name=name)(x))

    x = normed(nn.Conv(c // 4, (1, 1), name='conv1', **options)(x), 'norm1')
    # torch's padding 1 and output padding 1, as padding of the dilated map.
    x = nn.ConvTranspose(c // 4, (3, 3), (2, 2), [(1, 2)] * 2, name='deconv2', **options)(x)
    x = normed(x, 'norm2')
    return normed(nn.Conv(c // 2, (1, 1), name='conv3', **options)(x), 'norm3')


@struct.dataclass
class FrameMemory:
  """The last two frames of a stream."""

  frames: jax.Array  # float32 [B, 2, H, W, 1], the older first.
  begun: jax.Array  # bool [B], False before the first frame.


class SSCF(nn.Module):
  """Semi-supervised segmentation with both neighbours, see docs/method.md.

  Parameters and logits are float32.
  """

  num_classes: int = 1  # K foreground classes, one sigmoid logit each.
  width: int = 64  # Channels at stride 2, doubled at each further level (paper).
  norm: str = 'batch'  # Of all normalizations (paper), one of `NORMS`.
  clips: bool = False  # Whether a call takes clips of any length instead of windows.
  remat: bool = False  # Recomputes blocks in the backward pass.
  dtype: Dtype = jnp.float32
  backbone: str = 'resnet18'  # Of each encoder (paper), one of `ENCODERS`.

  @property
  def delay(self) -> int:
    """Frames that the outputs of `resume` and `step` lag behind."""
    return 1

  @nn.nowrap
  def init_memory(self, batch: int, image_size: tuple[int, int]) -> FrameMemory:
    """Returns the memory of `batch` streams before their first frame (H, W)."""
    frames = jnp.zeros((batch, 2, *image_size, 1), jnp.float32)
    return FrameMemory(frames, jnp.zeros((batch,), bool))

  @nn.compact
  def _segment(self, track: jax.Array, train: bool) -> jax.Array:
    """Returns logits [B, T, H, W, K] of track [B, T + 2, ...] less its ends."""
    b, t = track.shape[0], track.shape[1] - 2
    if track.shape[-1] != 1 or any(n % 32 or n < 64 for n in track.shape[2:4]):
      raise InputError(
        f'video: found frames of {"x".join(map(str, track.shape[2:]))}, wanted one channel and '
        'sides that are multiples of 32, at least 64; resize or pad the frames'
      )
    # A frame passes each encoder once: as a past, a target and a future.
    maps = []
    for offset, role in enumerate(('previous', 'target', 'next')):
      frames = track[:, offset : offset + t].reshape(b * t, *track.shape[2:])
      options = self.backbone, self.norm, self.remat, self.dtype, self.width
      encoder = ResNet(*options, max_pool=False, name=f'encoder_{role}')
      maps.append(encoder(frames.astype(self.dtype), train))

    def block(kind, name):
      kind = nn.remat(kind) if self.remat else kind
      return kind(self.norm, train, self.dtype, name=name)

    fused = [
      block(Fusion, f'fusion{level + 1}')(*(m[level] for m in maps)) for level in range(LEVELS)
    ]
    x = fused.pop()
    while fused:
      x = block(DecoderBlock, f'decoder{len(fused) + 1}')(x) + fused.pop()
    x = block(DecoderBlock, 'decoder1')(x)

    final = functools.partial(nn.Conv, kernel_size=(3, 3), kernel_init=_INIT)
    x = nn.relu(final(x.shape[-1], dtype=self.dtype, name='final2')(x))
    x = final(self.num_classes, dtype=jnp.float32, name='final3')(x)
    return x.reshape(b, t, *x.shape[1:])

  def __call__(self, video: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    """Segments the middle frame of windows, or every frame of clips.

    Args:
      video: float [B, 3, H, W, 1] in [0, 1], previous, target and next frame; with `clips`,
        [B, T, H, W, 1] of any length: each frame is a target in turn, its neighbours are those in
        the clip, and both ends are repeated. H and W multiples of 32, at least 64.
      train: batch norm uses the batch's statistics.

    Returns:
      logits: float32 [B, H, W, K]; with `clips` [B, T, H, W, K].
    """
    if self.clips:
      track = jnp.concatenate([video[:, :1], video, video[:, -1:]], axis=1)
      return {'logits': self._segment(track, train)}
    if video.shape[1] != 3:
      raise InputError(
        f'video: found {video.shape[1]} frames, wanted a window of three (previous, target, next); '
        'for clips of any length build the model with clips=True'
      )
    return {'logits': self._segment(video, train)[:, 0]}

  def resume(
    self, video: jax.Array, memory: FrameMemory
  ) -> tuple[dict[str, jax.Array], FrameMemory]:
    """Segments B streams, one frame behind; equals the clips' result.

    The future of a stream's last frame is unknown: feeding that frame once more gives its mask, as
    in a clip that ends there.

    Args:
      video: float [B, T, H, W, 1] in [0, 1], the next frames.
      memory: of `init_memory` or of the call before.

    Returns:
      logits: float32 [B, T, H, W, K], each of the frame before that of `video` (without meaning for
      a stream's first); the memory for the next frames.
    """
    video = video.astype(jnp.float32)
    # A clip's first frame is its own past.
    begun = memory.begun[:, None, None, None, None]
    past = jnp.where(begun, memory.frames, video[:, :1])
    track = jnp.concatenate([past, video], axis=1)
    memory = FrameMemory(track[:, -2:], jnp.ones_like(memory.begun))
    return {'logits': self._segment(track, False)}, memory

  def step(self, frame: jax.Array, memory: FrameMemory) -> tuple[dict[str, jax.Array], FrameMemory]:
    """Resumes with one frame [B, H, W, 1]; outputs lack the time axis."""
    outputs, memory = self.resume(frame[:, None], memory)
    return {k: v[:, 0] for k, v in outputs.items()}, memory


def make_sscf(**options: Any) -> SSCF:
  """Builds SSCF from its fields."""
  ranges = {'num_classes': (1, None), 'width': (4, None)}
  choices = {'norm': NORMS, 'backbone': ENCODERS}
  model = make_checked('sscf', SSCF, options, choices, ranges)
  if model.width % 4:
    raise InputError(f'model option width: found {model.width}, wanted a multiple of 4')
  return model
