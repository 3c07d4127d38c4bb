"""Augmentation: a weak and a strong view of every clip, as one JAX program.

One geometric transform moves all frames, both views and the masks of a clip. Photometric changes
are constant over the clip or drift smoothly. All choices are ours; the paper names only "weak" and
"strong" augmentation. The views of a clip depend on its frames and its seed alone.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import re
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np

from echoforge_jax.clip import IGNORE
from echoforge_jax.errors import InputError

Batch = Mapping[str, Array]
# Fields of a batch of views, as the training step takes it. 'video_strong_2', 'video_strong_3',
# ... are further strong views.
FIELDS = ('video_weak', 'video_strong', 'masks', 'labeled', 'spacing_mm')
_LARGEST = dict.fromkeys(('scale', 'flip', 'reversal', 'shadow', 'dropout'), 1) | {
  'rotation_deg': 45,  # The separable warp loses resolution beyond.
  'temporal_jitter': 0.5,
  'gain': 0.9,
  'contrast': 0.9,
  'speckle': 0.4,
  'attenuation': 0.95,
}


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Ranges of all augmentations; 0 switches the single one off."""

  rotation_deg: float = 12.0  # Largest, in degrees of the true (millimeter) geometry.
  scale: float = 0.15  # Largest zoom, in or out, as a factor - 1.
  translation: float = 0.06  # Largest shift, as a share of the side.
  flip: float = 0.0  # Probability of a left-right flip, of anatomy that does not exist.
  elastic: float = 0.0  # Largest displacement of a smooth deformation, share of the side.
  # How far frames between ED and ES move, as a share of the distance between two sampled frames.
  temporal_jitter: float = 0.0
  # Probability that the clip runs from ES to ED. Without it a model with a memory learns the phase
  # from a frame's place in the clip.
  reversal: float = 0.0
  gain: float = 0.1  # Weak view, largest change of gain as a factor - 1.
  gamma: float = 0.15  # Weak view, largest change of log2(gamma).
  strong: bool = True  # False makes the strong view a copy of the weak one.
  strong_gamma: float = 0.6  # Largest change of log2(gamma).
  contrast: float = 0.35  # Largest change as a factor - 1.
  brightness: float = 0.1  # Largest change as a share of 255.
  speckle: float = 0.25  # Largest standard deviation of the multiplicative noise.
  blur: float = 0.006  # Largest standard deviation, share of the side.
  # Standard deviation of the logarithm of a gain that differs smoothly from place to place.
  uneven: float = 0.0
  attenuation: float = 0.5  # Largest loss from top to bottom, as a share.
  haze: float = 0.2  # Largest gray level, as a share of 255.
  shadow: float = 0.35  # Probability of each of two sector-shaped shadows.
  dropout: float = 0.35  # Probability of each of two dimmed rectangles.

  @classmethod
  def none(cls) -> 'AugmentConfig':
    """Returns the config whose views are the prepared frames."""
    return cls(rotation_deg=0, scale=0, translation=0, gain=0, gamma=0, strong=False)

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value, most = getattr(self, field.name), _LARGEST.get(field.name, np.inf)
      if not 0 <= value <= most:
        wanted = '0 or more' if value < 0 else f'at most {most}'
        raise InputError(f'augmentation.{field.name}: found {value}, wanted {wanted}')


class Geometry(NamedTuple):
  """One geometric transform of a clip, as two warps of one axis each."""

  columns: Array  # float32 [S, S], input column by input row and output column.
  rows: Array  # float32 [S, S], input row by output row and column.
  apex: Array  # float32 [2], (column, row) of the sector's apex in the output.
  scale: Array  # Zoom; the output shows 1 / scale of the input's extent.


def make_views(
  config: AugmentConfig, sharding: NamedSharding, fields: Sequence[str] = FIELDS
) -> Callable[[Batch], dict[str, Array]]:
  """Returns the jitted program views(batch of `data.pipeline`) -> batch with `fields`.

  These are video_weak, video_strong uint8 [B, T, S, S, 1]; masks uint8 [B, T, S, S] class ids,
  `IGNORE` where not labeled; labeled bool [B, T]; spacing_mm float32 [B, 2] of the views.
  `sharding` is of a batch, of `parallel.mesh.batch_sharding`.
  """

  kinds = {name: view_kind(name) for name in fields}

  def draw(batch: Batch) -> dict[str, Array]:
    more = tuple(name for name, kind in kinds.items() if name != kind)
    views = jax.vmap(lambda clip: _clip_views(config, clip, more))(batch)
    return {name: views[name] for name in fields}

  # Mapped by hand, so that no partitioner moves clips between devices.
  mapped = jax.shard_map(draw, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec)
  return jax.jit(mapped, in_shardings=sharding, out_shardings=sharding)


def view_kind(field: str) -> str:
  """Returns which of `FIELDS` a field is like: 'video_strong_2' is another strong view."""
  kind = re.sub(r'(?<=^video_strong)_[2-9]$', '', field)
  if kind not in FIELDS:
    wanted = f'{", ".join(FIELDS)} and video_strong_2 to video_strong_9'
    raise InputError(f'batch_keys of the objective: found {field!r}, wanted some of {wanted}')
  return kind


def _clip_views(config: AugmentConfig, clip: Batch, more: Sequence[str] = ()) -> dict[str, Array]:
  """Draws the fields `FIELDS` of one clip, and `more` strong views."""
  frames, masks = clip['video'][..., 0], clip['masks']
  num_frames, size = frames.shape[:2]
  keys = jax.random.split(jax.random.key(clip['seed']), 3)
  spacing, apex = clip['spacing_mm'], jnp.array([(size - 1) / 2, 0])
  if any((config.rotation_deg, config.scale, config.translation, config.flip, config.elastic)):
    geometry = sample_geometry(keys[0], config, size, spacing)
    frames = warp(frames, geometry)
    masks = warp(masks, geometry, nearest=True)
    spacing, apex = spacing / geometry.scale, geometry.apex
  weak = _weak_view(keys[1], config, frames)

  def strong_view(key: Array) -> Array:
    return (_strong_view(key, config, frames, apex) if config.strong else weak)[..., None]

  if len(masks) < num_frames:  # Those of the first and the last frame.
    between = jnp.zeros((num_frames - 2, size, size), jnp.uint8)
    masks = jnp.concatenate([masks[:1], between, masks[1:]])
  return {
    'video_weak': weak[..., None],
    'video_strong': strong_view(keys[2]),
    **{name: strong_view(jax.random.fold_in(keys[2], int(name[-1]))) for name in more},
    'masks': jnp.where(clip['labeled'][:, None, None], masks, jnp.uint8(IGNORE)),
    'labeled': clip['labeled'],
    'spacing_mm': spacing,
  }


def _axes(size: int) -> tuple[Array, Array]:
  """Returns the rows [S, 1] and columns [1, S] of a grid."""
  axis = jnp.arange(size, dtype=jnp.float32)
  return axis[:, None], axis[None]


def _spread(unit: Array, largest: Array | float) -> Array:
  """Maps [0, 1) to [-largest, largest)."""
  return largest * (2 * unit - 1)


def sample_geometry(key: Array, config: AugmentConfig, size: int, spacing_mm: Array) -> Geometry:
  """Draws one geometric transform about the center of frames of `size` x `size` pixels.

  The rotation turns millimeters, not pixels: on a squeezed grid, whose pixels are not square, the
  heart keeps its shape and the spacing stays exact. `spacing_mm` is [2] mm per pixel (row, column);
  NaN counts as square pixels.
  """
  turn, zoom, right, down, side, bend = jax.random.uniform(key, (6,))
  angle = jnp.deg2rad(_spread(turn, config.rotation_deg))
  scale = jnp.exp(_spread(zoom, np.log1p(config.scale)))
  right, down = (_spread(x, config.translation * size) for x in (right, down))
  mirror = jnp.where(side < config.flip, -1.0, 1.0)
  aspect = spacing_mm[1] / spacing_mm[0]  # Column mm by row mm.
  aspect = jnp.where(jnp.isfinite(aspect), aspect, 1.0)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  # The inverse of the affine map, about the center: input column x = a (j - right) + b (i - down)
  # and row y = d (j - right) + e (i - down) of output column j and row i.
  a, b = mirror * cos / scale, mirror * sin / (aspect * scale)
  d, e = -sin * aspect / scale, cos / scale
  center = (size - 1) / 2
  row, column = _axes(size)
  row, column = row - center, column - center
  across = d * (column - right)  # Part of y that depends on the column.
  rows = e * (row - down) + across + center
  # x by input row and output column: i - down = (y - across) / e.
  columns = a * (column - right) + b / e * (row - across) + center
  if config.elastic:
    coarse = jax.random.uniform(jax.random.fold_in(key, 1), (2, 5, 5))
    coarse = _spread(coarse, config.elastic * size * bend)
    moved = jax.image.resize(coarse, (2, size, size), 'cubic')
    columns, rows = columns + moved[0], rows + moved[1]
  apex = scale * center * jnp.stack([sin / aspect, -cos])
  apex += center + jnp.stack([right, down])
  return Geometry(columns, rows, apex, scale)


def warp(images: Array, geometry: Geometry, nearest: bool = False) -> Array:
  """Applies one geometric transform to images, uint8 [N, S, S]; 0 flows in from outside.

  With `nearest`, for labels, no new values arise. Otherwise values are interpolated linearly along
  either axis.
  """

  def resample(images, places):
    # Gathers are what a TPU is slowest at and a CPU does best (docs/lab/augmentation.md).
    products, reads = (functools.partial(f, nearest=nearest) for f in (_by_products, _by_reads))
    return jax.lax.platform_dependent(images, places, tpu=products, default=reads)

  out = resample(images, geometry.columns)
  out = resample(out.swapaxes(1, 2), geometry.rows.T).swapaxes(1, 2)
  return jnp.round(out).astype(jnp.uint8)


def _by_products(images: Array, places: Array, nearest: bool) -> Array:
  """Resamples the last axis: [N, R, S] at places [R, K] -> [N, R, K]."""
  taps = jnp.arange(images.shape[-1])[None, None]
  if nearest:
    weights = jnp.floor(places + 0.5)[..., None] == taps
  else:
    weights = jnp.maximum(1 - jnp.abs(places[..., None] - taps), 0)
  images, weights = (x.astype(jnp.float32) for x in (images, weights))
  out = jnp.einsum('nrs,rks->nrk', images, weights)
  return out.astype(jnp.uint8) if nearest else out


def _by_reads(images: Array, places: Array, nearest: bool) -> Array:
  """Returns what `_by_products` returns."""
  size = images.shape[-1]
  places = jnp.clip(places, -1, size)
  # Images lie side by side, so that one read serves all; a border of zeros lies outside.
  table = jnp.pad(jnp.moveaxis(images, 0, -1), ((0, 0), (1, 2), (0, 0)))

  def read(column):
    number = column.astype(jnp.int32)[..., None] + 1
    return jnp.take_along_axis(table, number, 1, mode='promise_in_bounds')

  if nearest:
    out = read(jnp.floor(places + 0.5))
  else:
    left = jnp.floor(places)
    right = (places - left)[..., None]
    out = read(left) * (1 - right) + read(left + 1) * right
  return jnp.moveaxis(out, -1, 0)


def _to_gray(x: Array) -> Array:
  return jnp.round(jnp.clip(x, 0, 255)).astype(jnp.uint8)


def _weak_view(key: Array, config: AugmentConfig, frames: Array) -> Array:
  """Changes gain and gamma of uint8 [T, S, S]."""
  if not (config.gain or config.gamma):
    return frames
  gain, gamma = jax.random.uniform(key, (2,))
  gray = (frames / 255.0) ** (2 ** _spread(gamma, config.gamma))
  return _to_gray(255 * (1 + _spread(gain, config.gain)) * gray)


def _strong_view(key: Array, config: AugmentConfig, frames: Array, apex: Array) -> Array:
  """Blurs, shades, roughens and hazes uint8 [T, S, S] below `apex`."""
  size = frames.shape[-1]
  keys = jax.random.split(key, 4)
  width, rough, gamma, contrast, light = jax.random.uniform(keys[0], (5,))
  out = frames.astype(jnp.float32)
  if config.blur:
    kernel = _gaussian(size, config.blur * size * width)
    out = _filter(out, kernel, kernel)
  out *= _shading(keys[1], config, size, apex)[None]
  if config.speckle:
    out *= _speckle(keys[2], config.speckle * rough, len(frames), size)
  if config.strong_gamma or config.contrast or config.brightness:
    level = jnp.clip(out, 0, 255)
    gray = (level / 255) ** (2 ** _spread(gamma, config.strong_gamma))
    change = (gray - 0.5) * _spread(contrast, config.contrast)
    change += _spread(light, config.brightness)
    # Black, and with it the outside of the sector, stays black.
    out = 255 * (gray + change * jnp.minimum(level / 48, 1))
  if config.haze:
    out = jnp.clip(out, 0, 255) + _haze(keys[3], config.haze, frames)[None]
  return _to_gray(out)


def _gaussian(size: int, sigma: Array | float) -> Array:
  """Returns the matrix [S, S] that blurs one axis."""
  row, column = _axes(size)
  distance = (row - column) / jnp.maximum(sigma, 0.1)
  weights = jnp.exp(-0.5 * distance**2)
  return weights / weights.sum(1, keepdims=True)


def _filter(images: Array, rows: Array, columns: Array) -> Array:
  """Filters either axis of [N, S, S] by a matrix [S, S]."""
  return jnp.einsum('iy,nyx,jx->nij', rows, images, columns)


def _shading(key: Array, config: AugmentConfig, size: int, apex: Array) -> Array:
  """Draws gains [S, S]: attenuation, sector shadows, dimmed rectangles."""
  keys = jax.random.split(key, 3)
  row, column = _axes(size)
  depth = jnp.maximum(row - apex[1], 1) / size
  loss = config.attenuation * jax.random.uniform(keys[0])
  gain = 1 - loss * jnp.minimum(depth, 1)
  if config.uneven:
    coarse = config.uneven * jax.random.normal(jax.random.fold_in(key, 1), (4, 4))
    gain *= jnp.exp(jax.image.resize(coarse, (size, size), 'cubic'))
  # The tangent of the angle to the beam axis is constant along a scan line.
  slope = (column - apex[0]) / (depth * size)
  if config.shadow:
    for drawn in jax.random.uniform(keys[1], (2, 5)):
      use, center, width, loss, onset = drawn
      notch = (slope - (1.4 * center - 0.7)) / (0.03 + 0.1 * width)
      begin = jnp.clip((depth - 0.5 * onset) * 8, 0, 1)
      dimmed = (0.4 + 0.6 * loss) * jnp.exp(-(notch**2)) * begin
      gain *= jnp.where(use < config.shadow, 1 - dimmed, 1)
  if config.dropout:
    for drawn in jax.random.uniform(keys[2], (2, 6)):
      use, top, left, height, width, loss = drawn
      inside = (row >= top * size) & (row < (top + 0.05 + 0.2 * height) * size)
      inside &= (column >= left * size) & (column < (left + 0.05 + 0.2 * width) * size)
      gain *= jnp.where(inside & (use < config.dropout), 1 - loss, 1)
  return gain


def _speckle(key: Array, deviation: Array, num_frames: int, size: int) -> Array:
  """Draws gains [T, S, S]: one texture turns into another over the clip."""
  keys = jax.random.split(key)
  noise = jax.random.uniform(keys[0], (2, size, size), minval=-1.0)
  widths = max(0.7, size / 180), max(1.0, size / 110)
  noise = _filter(noise, *(_gaussian(size, width) for width in widths))
  noise /= noise.std()
  # Cosine and sine keep the deviation of the sum at 1.
  turn = jax.random.uniform(keys[1], maxval=np.pi / 2)
  turn *= jnp.linspace(0, 1, num_frames)[:, None, None]
  texture = jnp.cos(turn) * noise[:1] + jnp.sin(turn) * noise[1:]
  return jnp.clip(1 + deviation * texture, 0, 2)


def _haze(key: Array, largest: float, frames: Array) -> Array:
  """Draws [S, S] gray levels of clutter inside the sector of all frames."""
  size = frames.shape[-1]
  keys = jax.random.split(key)
  coarse = jax.random.uniform(keys[0], (5, 5), minval=-0.5, maxval=1.0)
  coarse *= 255 * largest * jax.random.uniform(keys[1])
  haze = jax.image.resize(coarse, (size, size), 'cubic')
  row, column = _axes(size)
  box = (jnp.abs(row - column) <= size // 16).astype(jnp.float32)
  box /= box.sum(1, keepdims=True)
  inside = _filter((frames.max(0) > 10)[None].astype(jnp.float32), box, box)
  return jnp.floor(jnp.clip(haze * inside[0], 0, 255))
