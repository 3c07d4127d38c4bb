"""Endless phantom clips as a source of training data, drawn while training.

`PhantomSource` takes the place of `prepared.ClipSource`: clips by number, every one a new patient.
Clip n is a function of the seed and n, so a run that is resumed draws the same clips.
"""

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
  """Settings for drawing clips and for reusing them."""

  # Presets of `phantom.config.PhantomConfig` joined by '+', from which groups of clips take turns.
  style: str = 'transfer'
  without: str = ''  # One of `phantom.config.PARTS` to leave out, for ablations.
  pool: int = 512  # Clips in memory at a time, from which examples are taken at random.
  # How often a clip is used on average, augmented anew each time: drawing a clip costs about as
  # much as a step on it.
  uses: int = 4
  held_out: int = 64  # Clips of the validation, of other patients.

  def __post_init__(self):
    for name in ('pool', 'uses', 'held_out'):
      if getattr(self, name) < 1:
        raise InputError(f'stream.{name} is {getattr(self, name)}; wanted at least 1')
    try:
      self.presets()
    except ValueError as error:
      raise InputError(f'stream.style or stream.without: {error}') from error

  def presets(self) -> list[PhantomConfig]:
    """Returns what `style` names, without what `without` does."""
    found = [PhantomConfig.named(name) for name in self.style.split('+')]
    return [preset.without(self.without) for preset in found] if self.without else found


class PhantomSource:
  """Clips by number, as `prepared.ClipSource` gives them; every frame labeled.

  Drawn in groups by the first local device, in whichever thread asks first; the latest are kept.
  """

  def __init__(
    self, config: StreamConfig, *, num_frames: int, image_size: int, seed: int, split: str = 'train'
  ):
    """Draws nothing yet; 'validation' of `split` are the clips held out, whatever the seed.

    `seed` and a clip's number decide the clip of 'train', of `num_frames` frames of `image_size`
    pixels a side; the splits share no patient.
    """
    self._config, self._split = config, split
    self._num_frames, self._image_size = num_frames, image_size
    seed = 0 if split == _HELD_OUT else seed
    digest = hashlib.sha256(f'{split}:{seed}'.encode()).digest()
    self._key = int.from_bytes(digest[:4], 'little') >> 1
    self._groups: dict[int, dict[str, np.ndarray]] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return self._config.held_out if self._split == _HELD_OUT else 2**53

  def __getitem__(self, number: int) -> dict[str, np.ndarray | str]:
    """Returns one clip with the features of a prepared record."""
    group, place = divmod(int(number), GROUP)
    unknown = np.float32(np.nan)
    return {
      **{name: drawn[place] for name, drawn in self._group(group).items()},
      'labeled': np.ones(self._num_frames, np.bool_),
      'ed': np.int32(0),
      'es': np.int32(self._num_frames - 1),
      'spacing_mm': np.full(2, unknown),
      'native_spacing_mm': np.full(2, unknown),
      'native_size': np.full(2, self._image_size, np.int32),
      **dict.fromkeys(('fps', 'ef_percent', 'edv_ml', 'esv_ml'), unknown),
      'patient': f'{self._split}{number}',
      'view': 'any',
      'quality': 'any',
      'ef_source': '',
    }

  def _group(self, group: int) -> dict[str, np.ndarray]:
    with self._lock:
      if group not in self._groups:
        # The window moves on, so the groups that it has passed go first.
        while len(self._groups) > self._config.pool // GROUP + 2:
          del self._groups[min(self._groups)]
        self._groups[group] = self._draw(group)
      return self._groups[group]

  def _draw(self, group: int) -> dict[str, np.ndarray]:
    presets = self._config.presets()
    preset = presets[group % len(presets)]
    draw = stream.jitted(GROUP, self._num_frames, self._image_size, preset)
    clips = draw(jax.random.fold_in(jax.random.key(self._key), group))
    return jax.device_get({'frames': _gray_levels(clips['video']), 'masks': clips['masks']})


@jax.jit
def _gray_levels(video):
  return jnp.round(video[..., 0] * 255).astype(jnp.uint8)


class StreamOrder:
  """Position in training -> number of a clip, for endless clips.

  A window of `pool` clips moves on by one every `uses` positions; each takes any clip of it.
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
