"""Endless phantom clips as a source of training data, drawn while training.

Stands where `prepared.ClipSource` stands: clips by number, every one a new
patient. Nothing is written to disk. Clip n is a function of the seed and n, so
a run that goes on after an interruption draws the same clips.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import threading

import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.phantom import stream
from echoforge_jax.phantom.config import PhantomConfig

# The `config.data.dataset` that asks for this.
DATASET = 'phantom_stream'
# Clips that are drawn by one call of the generator.
GROUP = 8
_HELD_OUT = 'validation'


@dataclasses.dataclass(frozen=True)
class StreamConfig:
  """How clips are drawn and used.

  Attributes:
    style: preset of `phantom.config.PhantomConfig`.
    pool: clips in memory at a time, from which examples are taken at random.
    uses: how often a clip is used on average, augmented anew each time: drawing
      a clip costs about as much as a step on it.
    held_out: clips of the validation, of other patients.
  """

  style: str = 'transfer'
  pool: int = 512
  uses: int = 4
  held_out: int = 64

  @classmethod
  def from_mapping(cls, values: Mapping | None) -> 'StreamConfig':
    """Builds it from field names, as a training config holds them.

    Args:
      values: field -> value; None or {} gives the defaults.

    Raises:
      InputError: on an unknown name or a number out of range.
    """
    values = dict(values or {})
    names = [field.name for field in dataclasses.fields(cls)]
    if unknown := sorted(set(values) - set(names)):
      raise InputError(
        f'config.data.stream: found {unknown}, wanted some of {names}'
      )
    found = cls(**values)
    for name in names[1:]:
      if getattr(found, name) < 1:
        raise InputError(
          f'config.data.stream.{name} is '
          f'{getattr(found, name)}; wanted at least 1'
        )
    try:
      PhantomConfig.named(found.style)
    except ValueError as error:
      raise InputError(f'config.data.stream.style: {error}') from error
    return found


class PhantomSource:
  """Clips by number, as `prepared.ClipSource` gives them; every frame labeled.

  Drawn in groups by the first local device, in whichever thread asks first. The
  latest groups are kept.

  Attributes:
    path: what messages call it.
    split: 'train' or 'validation'; these share no patient.
    image_size: S, side of every frame in pixels.
    config: how clips are drawn.
  """

  def __init__(
    self,
    config: StreamConfig,
    *,
    num_frames: int,
    image_size: int,
    seed: int,
    split: str = 'train',
  ):
    """Draws nothing yet.

    Args:
      config: what to draw.
      num_frames: T, frames of a clip.
      image_size: S in pixels.
      seed: together with the split and a clip's number, decides the clip.
      split: 'train' or 'validation'.
    """
    self.config = config
    self.path, self.split = DATASET, split
    self.image_size = image_size
    self.num_frames = num_frames
    self._seed = _seed_of(0 if split == _HELD_OUT else seed, split)
    self._groups: dict[int, dict[str, np.ndarray]] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    """Clips that exist: as many as are asked for in training."""
    return self.config.held_out if self.split == _HELD_OUT else 2**53

  def __getitem__(self, number: int) -> dict[str, np.ndarray | str]:
    """Returns one clip with the features of `builder.example_features`."""
    group, place = divmod(int(number), GROUP)
    drawn = self._group(group)
    return {
      'frames': drawn['frames'][place],
      'masks': drawn['masks'][place],
      'labeled': np.ones(self.num_frames, np.bool_),
      'ed': np.int32(0),
      'es': np.int32(self.num_frames - 1),
      'spacing_mm': np.full(2, np.nan, np.float32),
      'native_spacing_mm': np.full(2, np.nan, np.float32),
      'native_size': np.full(2, self.image_size, np.int32),
      'fps': np.float32(np.nan),
      'ef_percent': np.float32(np.nan),
      'edv_ml': np.float32(np.nan),
      'esv_ml': np.float32(np.nan),
      'patient': f'{self.split}{number}',
      'view': 'any',
      'quality': 'any',
    }

  def _group(self, group: int) -> dict[str, np.ndarray]:
    with self._lock:
      if group not in self._groups:
        # The window moves on: what it has passed is wanted no more.
        while len(self._groups) > self.config.pool // GROUP + 2:
          del self._groups[min(self._groups)]
        self._groups[group] = self._draw(group)
      return self._groups[group]

  def _draw(self, group: int) -> dict[str, np.ndarray]:
    style = PhantomConfig.named(self.config.style)
    key = jax.random.fold_in(jax.random.key(self._seed), group)
    return jax.device_get(_drawer(self.num_frames, self.image_size, style)(key))

  def __getstate__(self):
    raise InputError(
      'config.data.num_workers: phantom clips are drawn by the training '
      'process itself, found worker processes; set it to 0'
    )

  def __repr__(self) -> str:
    return f'PhantomSource({self.config}, {self.split!r})'


def _drawer(num_frames: int, image_size: int, style: PhantomConfig):
  draw = stream.jitted(GROUP, num_frames, image_size, style)

  def gray(key):
    clips = draw(key)
    return {'frames': _gray_levels(clips['video']), 'masks': clips['masks']}

  return gray


@jax.jit
def _gray_levels(video):
  return jnp.round(video[..., 0] * 255).astype(jnp.uint8)


def _seed_of(seed: int, split: str) -> int:
  digest = hashlib.sha256(f'{split}:{seed}'.encode()).digest()
  return int.from_bytes(digest[:4], 'little') >> 1


class StreamOrder:
  """Position in training -> number of a clip, for endless clips.

  A window of `pool` clips moves on by one clip every `uses` positions, and each
  position takes any clip of the window.
  """

  def __init__(self, config: StreamConfig, seed: int):
    self._config, self._seed = config, seed

  def __len__(self) -> int:
    # As good as endless, and exact where grain divides it as a float.
    return 2**53

  def __getitem__(self, position: int) -> int:
    rng = np.random.default_rng((self._seed, position))
    return int(position // self._config.uses + rng.integers(self._config.pool))

  def __repr__(self) -> str:
    return f'StreamOrder({self._config}, seed {self._seed})'
