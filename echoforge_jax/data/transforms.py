"""Augmentation of clips: one geometry a clip, a weak and a strong view of it.

Everything takes the numpy Generator it draws from and maps uint8 to uint8. One
geometric transform is applied to all frames, both views and the masks of a
clip. Photometric parameters are drawn once a clip and, where they change over
time, drift smoothly, so that the video stays coherent. All choices are ours;
the paper names only "weak" and "strong" augmentation.
"""

from collections.abc import Mapping
import dataclasses
import functools

import cv2
import numpy as np

from echoforge_jax.errors import InputError

_UNIT = 128  # Gain 1 in the uint8 gain maps: gains reach from 0 to 1.99.
_COARSE = 28  # Side of the grid on which smooth fields are computed.


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Ranges of all augmentations; 0 switches the single one off.

  Attributes:
    rotation_deg: largest rotation, either way, in degrees of the true
      (millimeter) geometry.
    scale: largest zoom, in or out, as a factor - 1.
    translation: largest shift, as a share of the side.
    flip: probability of a left-right flip; off, because it turns the views
      into anatomy that does not exist.
    elastic: largest displacement of a smooth deformation, share of the side.
    temporal_jitter: how far frames between ED and ES move, as a share of the
      distance between two sampled frames, at most 0.5; ED and ES stay.
    reversal: probability that the clip runs from ES to ED. Without it a model
      with a memory can tell the phase from a frame's place in the clip, and
      does.
    gain: weak view, largest change of gain as a factor - 1.
    gamma: weak view, largest change of log2(gamma).
    strong: False makes the strong view a copy of the weak one.
    strong_gamma: largest change of log2(gamma).
    contrast: largest change of contrast as a factor - 1.
    brightness: largest change of brightness as a share of 255.
    speckle: largest standard deviation of the multiplicative noise.
    blur: largest standard deviation of the blur, share of the side.
    attenuation: largest loss from top to bottom, as a share.
    haze: largest gray level of the haze, as a share of 255.
    shadow: probability of each of two sector-shaped shadows.
    dropout: probability of each of two dimmed rectangles.
  """

  rotation_deg: float = 12.0
  scale: float = 0.15
  translation: float = 0.06
  flip: float = 0.0
  elastic: float = 0.0
  temporal_jitter: float = 0.0
  reversal: float = 0.0
  gain: float = 0.1
  gamma: float = 0.15
  strong: bool = True
  strong_gamma: float = 0.6
  contrast: float = 0.35
  brightness: float = 0.1
  speckle: float = 0.25
  blur: float = 0.006
  attenuation: float = 0.5
  haze: float = 0.2
  shadow: float = 0.35
  dropout: float = 0.35

  @classmethod
  def light(cls) -> 'AugmentConfig':
    """Geometry, gain and gamma only; both views are the same."""
    return cls(strong=False)

  @classmethod
  def none(cls) -> 'AugmentConfig':
    """No augmentation at all; both views are the prepared frames."""
    return cls(
      rotation_deg=0, scale=0, translation=0, gain=0, gamma=0, strong=False
    )

  @classmethod
  def from_mapping(cls, values: Mapping | None) -> 'AugmentConfig':
    """Builds a config from field names, as a training config holds them.

    Args:
      values: field -> value; None or {} gives the defaults. 'preset': 'light'
        or 'none' (or 'default') chooses what the other fields start from.

    Raises:
      InputError: on an unknown name; the message lists the choices.
    """
    values = dict(values or {})
    presets = {'default': cls, 'light': cls.light, 'none': cls.none}
    preset = values.pop('preset', 'default')
    if preset not in presets:
      raise InputError(
        f'augmentation.preset: found {preset!r}, wanted one of '
        f'{sorted(presets)}'
      )
    names = [field.name for field in dataclasses.fields(cls)]
    if unknown := sorted(set(values) - set(names)):
      raise InputError(f'augmentation: found {unknown}, wanted some of {names}')
    return dataclasses.replace(presets[preset](), **values)

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not 0 <= value:
        raise InputError(
          f'augmentation.{field.name}: found {value}, wanted 0 or more'
        )
    for name, most in (
      ('temporal_jitter', 0.5),
      ('reversal', 1),
      ('flip', 1),
      ('shadow', 1),
      ('dropout', 1),
      ('gain', 0.9),
      ('contrast', 0.9),
      ('scale', 1),
      ('attenuation', 0.95),
      ('speckle', 0.4),
    ):
      if getattr(self, name) > most:
        raise InputError(
          f'augmentation.{name}: found {getattr(self, name)}, '
          f'wanted at most {most}'
        )


@dataclasses.dataclass(frozen=True)
class Geometry:
  """One geometric transform of a clip.

  Attributes:
    matrix: float64 [2, 3], maps (column, row) of the input to the output.
    scale: zoom; the output shows 1 / scale of the input's extent.
    displacement: None, or float32 [S, S, 2] pixels (column, row) that are
      added to the place in the output before the affine map is undone.
  """

  matrix: np.ndarray
  scale: float
  displacement: np.ndarray | None = None

  def spacing(self, spacing_mm: np.ndarray) -> np.ndarray:
    """mm per pixel (row, column) after the transform: spacing / scale."""
    return (np.asarray(spacing_mm) / self.scale).astype(np.float32)

  def place(self, column: float, row: float) -> np.ndarray:
    """Where a point (column, row) of the input lies in the output."""
    return self.matrix @ (column, row, 1.0)


def _spread(rng: np.random.Generator, largest: float) -> float:
  """Uniform in [-largest, largest]; always draws once."""
  return largest * (2 * rng.random() - 1)


def sample_geometry(
  rng: np.random.Generator,
  config: AugmentConfig,
  size: int,
  spacing_mm: np.ndarray,
) -> Geometry:
  """Draws one geometric transform.

  The rotation turns millimeters, not pixels: on a squeezed grid, whose pixels
  are not square, the heart keeps its shape and the spacing stays exact.

  Args:
    rng: source of randomness.
    config: ranges.
    size: S, side of the frames in pixels.
    spacing_mm: [2] mm per pixel (row, column); NaN counts as square pixels.

  Returns:
    The transform about the center of the frame.
  """
  angle = np.deg2rad(_spread(rng, config.rotation_deg))
  scale = float(np.exp(_spread(rng, np.log1p(config.scale))))
  shift = np.array([_spread(rng, config.translation * size) for _ in range(2)])
  aspect = float(spacing_mm[1] / spacing_mm[0])  # Column mm by row mm.
  if not np.isfinite(aspect):
    aspect = 1.0
  cos, sin = np.cos(angle), np.sin(angle)
  linear = scale * np.array([[cos, -sin / aspect], [sin * aspect, cos]])
  if config.flip and rng.random() < config.flip:
    linear = linear @ np.diag([-1.0, 1.0])
  center = np.full(2, (size - 1) / 2)
  offset = center + shift - linear @ center
  displacement = None
  if config.elastic:
    coarse = rng.uniform(-1, 1, (5, 5, 2)).astype(np.float32)
    coarse *= config.elastic * size * rng.random()
    displacement = cv2.resize(
      coarse, (size, size), interpolation=cv2.INTER_CUBIC
    )
  return Geometry(np.column_stack([linear, offset]), scale, displacement)


def warp(
  images: np.ndarray, geometry: Geometry, nearest: bool = False
) -> np.ndarray:
  """Applies one geometric transform to every image; 0 flows in from outside.

  Args:
    images: uint8 [N, S, S] gray levels or labels.
    geometry: the transform.
    nearest: True for labels: no new values arise.

  Returns:
    uint8 [N, S, S].
  """
  flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
  size = images.shape[1:][::-1]
  out = np.empty(images.shape, np.uint8)
  if geometry.displacement is None:
    for image, target in zip(images, out):
      cv2.warpAffine(image, geometry.matrix, size, dst=target, flags=flags)
    return out
  inverse = cv2.invertAffineTransform(geometry.matrix).astype(np.float32)
  columns, rows = np.meshgrid(
    np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32)
  )
  places = np.stack([columns, rows], -1) + geometry.displacement
  places = places @ inverse[:, :2].T + inverse[:, 2]
  for image, target in zip(images, out):
    cv2.remap(image, places, None, flags, dst=target)
  return out


def _lookup(frames: np.ndarray, table: np.ndarray) -> np.ndarray:
  flat = frames.reshape(-1, frames.shape[-1])
  return cv2.LUT(flat, table).reshape(frames.shape)


def _gray_table(gamma: float, contrast: float, offset: float) -> np.ndarray:
  """uint8 [256]: gamma, then contrast about middle gray and an offset.

  Contrast and offset fade out below gray 48: black, and with it the outside of
  the sector, stays black.
  """
  gray = np.linspace(0, 1, 256, dtype=np.float32) ** np.float32(gamma)
  change = (gray - 0.5) * (contrast - 1) + offset
  gray = gray + change * np.minimum(np.arange(256) / 48, 1)
  return np.clip(np.rint(255 * gray), 0, 255).astype(np.uint8)


def weak_view(
  rng: np.random.Generator, config: AugmentConfig, frames: np.ndarray
) -> np.ndarray:
  """Gain and gamma, constant over the clip.

  Args:
    rng: source of randomness.
    config: ranges.
    frames: uint8 [T, S, S].

  Returns:
    uint8 [T, S, S].
  """
  gain, gamma = _spread(rng, config.gain), _spread(rng, config.gamma)
  if not (config.gain or config.gamma):
    return frames
  gray = np.linspace(0, 1, 256, dtype=np.float32) ** np.float32(2**gamma)
  table = np.clip(np.rint(255 * (1 + gain) * gray), 0, 255).astype(np.uint8)
  return _lookup(frames, table)


@functools.lru_cache(maxsize=4)
def speckle_bank(size: int) -> np.ndarray:
  """float32 [2 size, 2 size] texture, mean 0 and deviation 1; never changes."""
  rng = np.random.default_rng(20260)
  noise = rng.standard_normal((2 * size, 2 * size), dtype=np.float32)
  noise = cv2.GaussianBlur(
    noise, (0, 0), sigmaX=max(1.0, size / 110), sigmaY=max(0.7, size / 180)
  )
  return noise / noise.std()


def _speckle_gains(
  rng: np.random.Generator, deviation: float, num_frames: int, size: int
) -> list[np.ndarray]:
  """uint8 [S, S] gain maps, one a frame: a texture that drifts over time."""
  margin = min(size // 2, 2 * num_frames)
  corner = rng.integers(0, size - margin, 2)
  extent = size + margin
  texture = speckle_bank(size)[
    corner[0] : corner[0] + extent, corner[1] : corner[1] + extent
  ]
  gains = cv2.convertScaleAbs(
    cv2.max(texture, -1 / max(deviation, 1e-6)),
    alpha=_UNIT * deviation,
    beta=_UNIT,
  )
  speed = rng.uniform(-1, 1, 2) * margin / max(num_frames - 1, 1)
  start = np.where(speed < 0, margin, 0)
  steps = np.arange(num_frames)[:, None] * speed + start
  return [
    gains[row : row + size, column : column + size]
    for row, column in np.rint(steps).astype(int)
  ]


def _smooth_gain(
  rng: np.random.Generator, config: AugmentConfig, size: int, apex: np.ndarray
) -> np.ndarray:
  """uint8 [S, S] gain map: attenuation, sector shadows, dimmed rectangles."""
  axis = (np.arange(_COARSE, dtype=np.float32) + 0.5) * (size / _COARSE) - 0.5
  depth = np.maximum(axis[:, None] - np.float32(apex[1]), 1) / size
  loss = np.float32(config.attenuation * rng.random())
  gain = 1 - loss * np.minimum(depth, 1)
  gain = np.repeat(gain, _COARSE, axis=1)
  # The tangent of the angle to the beam axis: constant along a scan line.
  slope = (axis[None] - np.float32(apex[0])) / (depth * size)
  for _ in range(2):
    use, center, width, loss, onset = rng.random(5).astype(np.float32)
    if use < config.shadow:
      notch = (slope - (1.4 * center - 0.7)) / (0.03 + 0.1 * width)
      notch = np.exp(-(notch**2))
      begin = np.clip((depth - 0.5 * onset) * 8, 0, 1)
      gain *= 1 - (0.4 + 0.6 * loss) * notch * begin
  gain = cv2.resize(gain, (size, size), interpolation=cv2.INTER_LINEAR)
  for _ in range(2):
    use, row, column, height, width, loss = rng.random(6)
    if use < config.dropout:
      top, left = int(row * size), int(column * size)
      gain[
        top : top + int(size * (0.05 + 0.2 * height)),
        left : left + int(size * (0.05 + 0.2 * width)),
      ] *= 1 - loss
  return cv2.convertScaleAbs(gain, alpha=_UNIT)


def _haze(
  rng: np.random.Generator, largest: float, frames: np.ndarray
) -> np.ndarray:
  """uint8 [S, S] stationary clutter inside the sector of all frames."""
  size = frames.shape[-1]
  coarse = rng.uniform(-0.5, 1, (5, 5)).astype(np.float32)
  coarse *= np.float32(255 * largest * rng.random())
  haze = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
  inside = (frames.max(axis=0) > 10).astype(np.float32)
  inside = cv2.blur(inside, (size // 16 * 2 + 1,) * 2)
  return np.clip(haze * inside, 0, 255).astype(np.uint8)


def strong_view(
  rng: np.random.Generator,
  config: AugmentConfig,
  frames: np.ndarray,
  apex: np.ndarray,
) -> np.ndarray:
  """Blur, shadows, speckle, gray curve and haze, coherent over the clip.

  Args:
    rng: source of randomness.
    config: ranges.
    frames: uint8 [T, S, S].
    apex: [2] place (column, row) of the sector's apex in pixels.

  Returns:
    uint8 [T, S, S].
  """
  size = frames.shape[-1]
  gain = _smooth_gain(rng, config, size, apex)
  speckle = _speckle_gains(
    rng, config.speckle * rng.random(), len(frames), size
  )
  table = _gray_table(
    2 ** _spread(rng, config.strong_gamma),
    1 + _spread(rng, config.contrast),
    _spread(rng, config.brightness),
  )
  sigma = config.blur * size * rng.random()
  haze = _haze(rng, config.haze, frames)
  out = np.empty_like(frames)
  for frame, noise, target in zip(frames, speckle, out):
    if sigma > 0.3:
      frame = cv2.GaussianBlur(frame, (0, 0), sigma)
    both = cv2.multiply(gain, noise, scale=1 / _UNIT)
    cv2.multiply(frame, both, dst=target, scale=1 / _UNIT)
  out = _lookup(out, table)
  if config.haze:
    for target in out:
      cv2.add(target, haze, dst=target)
  return out


def augment_clip(
  rng: np.random.Generator,
  config: AugmentConfig,
  frames: np.ndarray,
  masks: np.ndarray,
  spacing_mm: np.ndarray,
) -> dict[str, np.ndarray]:
  """Draws the two views of a clip and the masks that belong to both.

  Args:
    rng: source of randomness.
    config: ranges.
    frames: uint8 [T, S, S] gray levels.
    masks: uint8 [N, S, S] labels of any N of the frames.
    spacing_mm: [2] mm per pixel (row, column); NaN where unknown.

  Returns:
    dict with weak, strong: uint8 [T, S, S]; masks: uint8 [N, S, S];
    spacing_mm: float32 [2] of the transformed grid.
  """
  size = frames.shape[-1]
  geometry = sample_geometry(rng, config, size, spacing_mm)
  if geometry.displacement is not None or not np.array_equal(
    geometry.matrix, np.eye(2, 3)
  ):
    frames = warp(frames, geometry)
    masks = warp(masks, geometry, nearest=True)
  weak = weak_view(rng, config, frames)
  strong = weak
  if config.strong:
    apex = geometry.place((size - 1) / 2, 0)
    strong = strong_view(rng, config, frames, apex)
  return {
    'weak': weak,
    'strong': strong,
    'masks': masks,
    'spacing_mm': geometry.spacing(spacing_mm),
  }
