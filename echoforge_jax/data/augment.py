"""Augmentation on the device: both views of every clip, as one JAX program.

Does what `transforms` does on the host, from the same ranges: one geometry a
clip for all frames, both views and the masks, and photometric changes that are
constant over the clip or drift smoothly. The random numbers are others: a clip
is augmented otherwise than on the host, from the same distribution. Smooth
fields are computed at every pixel, where the host takes a coarse grid, and
products are rounded once, where the host rounds each. The choices are ours.

A clip's views depend on its frames and its seed alone, so that they are the
same however many devices share a batch; nothing crosses between devices. Shapes
are static, and what the config switches off is not computed.

The warp gathers: four reads a pixel, each of all frames at a time, which lie
side by side for that. Gathers are what a TPU is slowest at; everything else is
elementwise, slices, or small matrix products.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import jax
from jax import Array
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np

from echoforge_jax.clip import IGNORE
from echoforge_jax.data import transforms
from echoforge_jax.data.transforms import AugmentConfig

Batch = Mapping[str, Array]
# Fields of a batch of views, as `pipeline.make_train_iterator` gives it where
# the host augments.
FIELDS = ('video_weak', 'video_strong', 'masks', 'labeled', 'spacing_mm')
# Gains reach to here, as in the host's uint8 maps.
_LARGEST_GAIN = 255 / 128
_PRECISE = jax.lax.Precision.HIGHEST


class Geometry(NamedTuple):
  """One geometric transform of a clip.

  Attributes:
    inverse: float32 [2, 3], maps (column, row) of the output to the input.
    apex: float32 [2], where the sector's apex lies in the output.
    scale: zoom.
    displacement: None, or float32 [S, S, 2] pixels (column, row) that are added
      to the place in the output before the affine map is undone.
  """

  inverse: Array
  apex: Array
  scale: Array
  displacement: Array | None


class _Numbers:
  """Uniform random numbers of one key, one after the other."""

  def __init__(self, key: Array, count: int):
    self._drawn = iter(jax.random.uniform(key, (count,)))

  def unit(self) -> Array:
    """The next, in [0, 1)."""
    return next(self._drawn)

  def spread(self, largest: float) -> Array:
    """The next, in [-largest, largest)."""
    return largest * (2 * self.unit() - 1)


def make_views(
  config: AugmentConfig, split: NamedSharding, fields: Sequence[str] = FIELDS
) -> Callable[[Batch], dict[str, Array]]:
  """Builds the program that draws views.

  Args:
    config: ranges.
    split: how a batch is divided, of `parallel.mesh.batch_sharding`.
    fields: which of `FIELDS` are wanted; others are not computed.

  Returns:
    views(batch) -> batch, jitted. Takes what `pipeline.make_train_dataset` says
    of `augment_on='device'`, and returns what it says of 'host'.
  """

  def draw(batch: Batch) -> dict[str, Array]:
    views = jax.vmap(lambda clip: clip_views(config, clip))(batch)
    return {name: views[name] for name in fields}

  # By hand, so that no partitioner ever moves clips between devices.
  divided = jax.shard_map(
    draw, mesh=split.mesh, in_specs=split.spec, out_specs=split.spec
  )
  return jax.jit(divided, in_shardings=split, out_shardings=split)


def clip_views(config: AugmentConfig, clip: Batch) -> dict[str, Array]:
  """Draws the two views of one clip, and the masks that belong to both.

  Args:
    config: ranges.
    clip: video uint8 [T, S, S, 1]; masks uint8 [N, S, S], of all frames or of
      the first and the last (N = 2); labeled bool [T]; spacing_mm float32 [2];
      seed uint32.

  Returns:
    The fields `FIELDS` of one clip.
  """
  frames, masks = clip['video'][..., 0], clip['masks']
  num_frames, size = frames.shape[:2]
  keys = jax.random.split(jax.random.key(clip['seed']), 3)
  spacing = clip['spacing_mm']
  apex = jnp.array([(size - 1) / 2, 0], jnp.float32)
  if _moves(config):
    geometry = sample_geometry(keys[0], config, size, spacing)
    frames = warp(frames, geometry.inverse, geometry.displacement)
    masks = warp(masks, geometry.inverse, geometry.displacement, nearest=True)
    spacing, apex = spacing / geometry.scale, geometry.apex
  weak = _weak_view(keys[1], config, frames)
  strong = weak
  if config.strong:
    strong = _strong_view(keys[2], config, frames, apex)
  if len(masks) < num_frames:
    between = jnp.zeros((num_frames - 2, size, size), jnp.uint8)
    masks = jnp.concatenate([masks[:1], between, masks[1:]])
  known = clip['labeled'][:, None, None]
  return {
    'video_weak': weak[..., None],
    'video_strong': strong[..., None],
    'masks': jnp.where(known, masks, jnp.uint8(IGNORE)),
    'labeled': clip['labeled'],
    'spacing_mm': spacing,
  }


def _moves(config: AugmentConfig) -> bool:
  return any(
    (
      config.rotation_deg,
      config.scale,
      config.translation,
      config.flip,
      config.elastic,
    )
  )


def sample_geometry(
  key: Array, config: AugmentConfig, size: int, spacing_mm: Array
) -> Geometry:
  """Draws one geometric transform, as `transforms.sample_geometry` does.

  Args:
    key: source of randomness.
    config: ranges.
    size: S, side of the frames in pixels.
    spacing_mm: [2] mm per pixel (row, column); NaN counts as square pixels.

  Returns:
    The transform about the center of the frame.
  """
  draw = _Numbers(key, 6)
  angle = jnp.deg2rad(draw.spread(config.rotation_deg))
  scale = jnp.exp(draw.spread(np.log1p(config.scale)))
  shift = jnp.stack([draw.spread(config.translation * size) for _ in range(2)])
  aspect = spacing_mm[1] / spacing_mm[0]  # Column mm by row mm.
  aspect = jnp.where(jnp.isfinite(aspect), aspect, 1.0)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  mirror = jnp.where(draw.unit() < config.flip, -1.0, 1.0)
  # linear = scale [[m cos, -sin / aspect], [m sin aspect, cos]], m the mirror.
  inverse = (
    jnp.array([[mirror * cos, mirror * sin / aspect], [-sin * aspect, cos]])
    / scale
  )
  center = (size - 1) / 2
  # No matrix product: a TPU's would round to eight bits.
  offset = center - (inverse * (center + shift)[None]).sum(1)
  to_apex = scale * center * jnp.array([sin / aspect, -cos])
  displacement = None
  if config.elastic:
    coarse = jax.random.uniform(
      jax.random.fold_in(key, 1), (5, 5, 2), minval=-1.0, maxval=1.0
    )
    displacement = _smooth(coarse * (config.elastic * size * draw.unit()), size)
  return Geometry(
    jnp.concatenate([inverse, offset[:, None]], 1),
    center + shift + to_apex,
    scale,
    displacement,
  )


def _smooth(coarse: Array, size: int) -> Array:
  """[5, 5, ...] -> [S, S, ...], bicubic as cv2.resize does it."""
  rows = cv2.resize(
    np.eye(5, dtype=np.float32), (5, size), interpolation=cv2.INTER_CUBIC
  )
  return jnp.einsum(
    'ia,jb,ab...->ij...', rows, rows, coarse, precision=_PRECISE
  )


def warp(
  images: Array,
  inverse: Array,
  displacement: Array | None = None,
  nearest: bool = False,
) -> Array:
  """Applies one geometric transform to every image; 0 flows in from outside.

  Args:
    images: uint8 [N, S, S] gray levels or labels.
    inverse: [2, 3], maps (column, row) of the output to the input.
    displacement: as in `Geometry`.
    nearest: True for labels: no new values arise.

  Returns:
    uint8 [N, S, S]; gray levels interpolated between four pixels, rounded.
  """
  count, size, _ = images.shape
  axis = jnp.arange(size, dtype=jnp.float32)
  column, row = axis[None, :], axis[:, None]
  if displacement is not None:
    column, row = column + displacement[..., 0], row + displacement[..., 1]
  # A frame of zeros around the image is all that lies outside.
  x, y = (jnp.clip(a * column + b * row + c, -1, size) for a, b, c in inverse)
  width = size + 3
  table = jnp.pad(jnp.moveaxis(images, 0, -1), ((1, 2), (1, 2), (0, 0)))
  table = table.reshape(width * width, count)

  def read(column: Array, row: Array) -> Array:
    places = (row.astype(jnp.int32) + 1) * width + column.astype(jnp.int32) + 1
    return table.at[places.ravel()].get(mode='promise_in_bounds')

  if nearest:
    out = read(jnp.floor(x + 0.5), jnp.floor(y + 0.5))
  else:
    left, top = jnp.floor(x), jnp.floor(y)
    right, down = (x - left).reshape(-1, 1), (y - top).reshape(-1, 1)
    upper = read(left, top) * (1 - right) + read(left + 1, top) * right
    lower = read(left, top + 1) * (1 - right) + read(left + 1, top + 1) * right
    out = jnp.round(upper * (1 - down) + lower * down).astype(jnp.uint8)
  return jnp.moveaxis(out.reshape(size, size, count), -1, 0)


def _to_gray(x: Array) -> Array:
  return jnp.round(jnp.clip(x, 0, 255)).astype(jnp.uint8)


def _weak_view(key: Array, config: AugmentConfig, frames: Array) -> Array:
  """uint8 [T, S, S] -> the same, with another gain and gamma."""
  if not (config.gain or config.gamma):
    return frames
  draw = _Numbers(key, 2)
  gain = 1 + draw.spread(config.gain)
  gray = (frames / 255.0) ** (2 ** draw.spread(config.gamma))
  return _to_gray(255 * gain * gray)


def _strong_view(
  key: Array, config: AugmentConfig, frames: Array, apex: Array
) -> Array:
  """Blur, shadows, speckle, gray curve and haze, coherent over the clip.

  Args:
    key: source of randomness.
    config: ranges.
    frames: uint8 [T, S, S].
    apex: [2] place (column, row) of the sector's apex in pixels.

  Returns:
    uint8 [T, S, S].
  """
  size = frames.shape[-1]
  keys = jax.random.split(key, 4)
  draw = _Numbers(keys[0], 5)
  out = frames.astype(jnp.float32)
  if config.blur:
    out = _blur(out, config.blur * size * draw.unit(), config.blur * size)
  out *= _smooth_gain(keys[1], config, size, apex)[None]
  if config.speckle:
    out *= _speckle_gains(
      keys[2], config.speckle * draw.unit(), len(frames), size
    )
  if config.strong_gamma or config.contrast or config.brightness:
    level = jnp.clip(out, 0, 255)
    gray = (level / 255) ** (2 ** draw.spread(config.strong_gamma))
    change = (gray - 0.5) * draw.spread(config.contrast) + draw.spread(
      config.brightness
    )
    # Black, and with it the outside of the sector, stays black.
    out = 255 * (gray + change * jnp.minimum(level / 48, 1))
  if config.haze:
    out = jnp.clip(out, 0, 255) + _haze(keys[3], config.haze, frames)[None]
  return _to_gray(out)


def _blur(frames: Array, sigma: Array, largest: float) -> Array:
  """Gaussian blur of float32 [T, S, S]; none below 0.3 pixels."""
  reach = max(1, int(np.ceil(3 * largest)))
  taps = jnp.arange(-reach, reach + 1)
  sharp = (taps == 0).astype(jnp.float32)
  weights = jnp.exp(-0.5 * (taps / jnp.maximum(sigma, 0.3)) ** 2)
  weights = jnp.where(sigma > 0.3, weights / weights.sum(), sharp)
  size = frames.shape[-1]
  for axis in (1, 2):
    ends = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
    padded = jnp.pad(frames, ends, mode='reflect')
    frames = sum(
      weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
      for i, weight in enumerate(weights)
    )
  return frames


def _smooth_gain(
  key: Array, config: AugmentConfig, size: int, apex: Array
) -> Array:
  """[S, S] gain: attenuation, sector shadows, dimmed rectangles."""
  draw = _Numbers(key, 23)
  axis = jnp.arange(size, dtype=jnp.float32)
  depth = jnp.maximum(axis[:, None] - apex[1], 1) / size
  gain = 1 - config.attenuation * draw.unit() * jnp.minimum(depth, 1)
  # The tangent of the angle to the beam axis: constant along a scan line.
  slope = (axis[None, :] - apex[0]) / (depth * size)
  for _ in range(2 if config.shadow else 0):
    use, center, width, loss, onset = (draw.unit() for _ in range(5))
    notch = (slope - (1.4 * center - 0.7)) / (0.03 + 0.1 * width)
    begin = jnp.clip((depth - 0.5 * onset) * 8, 0, 1)
    dimmed = (0.4 + 0.6 * loss) * jnp.exp(-(notch**2)) * begin
    gain = gain * jnp.where(use < config.shadow, 1 - dimmed, 1)
  for _ in range(2 if config.dropout else 0):
    use, row, column, height, width, loss = (draw.unit() for _ in range(6))

    def within(place, share):
      begin = jnp.floor(place * size)
      end = begin + jnp.floor(size * (0.05 + 0.2 * share))
      return (axis >= begin) & (axis < end)

    inside = within(row, height)[:, None] & within(column, width)[None, :]
    gain = jnp.where(inside & (use < config.dropout), gain * (1 - loss), gain)
  return gain


def _speckle_gains(
  key: Array, deviation: Array, num_frames: int, size: int
) -> Array:
  """[T, S, S] gains: a texture that drifts over time by whole pixels."""
  draw = _Numbers(key, 4)
  margin = min(size // 2, 2 * num_frames)
  corner = jnp.stack(
    [jnp.floor(draw.unit() * (size - margin)) for _ in range(2)]
  )
  speed = jnp.stack(
    [draw.spread(margin / max(num_frames - 1, 1)) for _ in range(2)]
  )
  start = corner + jnp.where(speed < 0, margin, 0)
  places = (
    start[None]
    + speed[None] * jnp.arange(num_frames, dtype=jnp.float32)[:, None]
  )
  bank = jnp.asarray(transforms.speckle_bank(size))
  texture = jax.vmap(
    lambda place: jax.lax.dynamic_slice(bank, tuple(place), (size, size))
  )(jnp.round(places).astype(jnp.int32))
  return jnp.clip(1 + deviation * texture, 0, _LARGEST_GAIN)


def _haze(key: Array, largest: float, frames: Array) -> Array:
  """[S, S] whole gray levels of clutter inside the sector of all frames."""
  size = frames.shape[-1]
  coarse = jax.random.uniform(key, (5, 5), minval=-0.5, maxval=1.0)
  strength = jax.random.uniform(jax.random.fold_in(key, 1))
  haze = _smooth(coarse * (255 * largest * strength), size)
  inside = (frames.max(0) > 10).astype(jnp.float32)
  # A box blur as a matrix, with cv2's border.
  box = cv2.blur(np.eye(size, dtype=np.float32), (1, size // 16 * 2 + 1))
  inside = jnp.einsum('ia,jb,ab->ij', box, box, inside, precision=_PRECISE)
  return jnp.floor(jnp.clip(haze * inside, 0, 255))
