"""A model and batches small enough to train in a test."""

import dataclasses

from flax import linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.clip import IGNORE
from echoforge_jax.data.augment import AugmentConfig

SIZE, FRAMES = 32, 4
# No augmentation, for tests of what comes after it.
PLAIN = {'augmentation': dataclasses.asdict(AugmentConfig.none())}


def disc_clip(seed, labels='sparse'):
  """A bright disc on noise that shrinks from ED to ES; a batch's example."""
  rng = np.random.default_rng(seed)
  rows, columns = np.mgrid[:SIZE, :SIZE]
  centre = rng.uniform(12, 20, 2)
  radii = np.linspace(rng.uniform(8, 10), rng.uniform(4, 6), FRAMES)
  inside = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2)[None] < (
    radii[:, None, None] ** 2
  )
  video = 60 + 120 * inside + rng.normal(0, 15, inside.shape)
  strong = video + rng.normal(0, 15, inside.shape)
  labeled = np.zeros(FRAMES, bool)
  if labels != 'none':
    labeled[[0, -1]] = True
  masks = np.where(labeled[:, None, None], inside, IGNORE)

  def to_bytes(x):
    return np.clip(x, 0, 255).astype(np.uint8)[..., None]

  return {
    'video_weak': to_bytes(video),
    'video_strong': to_bytes(strong),
    'masks': masks.astype(np.uint8),
    'labeled': labeled,
    'spacing_mm': np.full(2, np.nan, np.float32),
  }


def undrawn_disc(seed):
  """The clip as the pipeline gives it, before its views are drawn."""
  clip = disc_clip(seed)
  return {
    'video': clip['video_weak'],
    'masks': clip['masks'][[0, -1]],
    'labeled': clip['labeled'],
    'spacing_mm': clip['spacing_mm'],
    'seed': np.uint32(seed),
  }


def disc_iterator(batch=2, seed=0, clips=16, example=disc_clip):
  """An endless grain iterator over batches of discs."""
  clips = grain.MapDataset.range(clips).seed(seed).shuffle().map(example)
  return iter(
    clips.repeat(1000)
    .batch(batch)
    .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
  )


class TinyModel(nn.Module):
  """Obeys the models' contract with two convolutions and batch norm."""

  features: int = 8
  gain: float = 1.0
  offset: float = 0.0
  dropout: float = 0.1

  @nn.compact
  def __call__(self, video, train=False, labeled=None, reforge=False, reforge_frames=None):
    def norm(x, name):
      return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)(x)

    # No bias before a norm: its gradient is rounding, and Adam would blow
    # that up to a full update.
    x = nn.Conv(self.features, (3, 3), strides=4, use_bias=False)(video)
    x = nn.relu(norm(x, 'norm1'))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = nn.Conv(self.features, (3, 3), use_bias=False)(x)
    features = nn.relu(norm(x, 'norm2'))
    head = nn.Dense(1)
    reforger = nn.Dense(self.features)
    b, t, h, w = video.shape[:4]

    def masks(x):
      return jax.image.resize(
        self.gain * head(x) + self.offset, (b, x.shape[1], h, w, 1), 'bilinear'
      )

    outputs = {'logits': masks(features), 'coarse_logits': head(features), 'features': features}
    if self.is_initializing():
      reforge, labeled = True, jnp.ones((b, t), bool)
    if reforge:
      weights = labeled / jnp.maximum(labeled.sum(1, keepdims=True), 1)
      reference = jnp.einsum('bt,bthwc->bhwc', weights, features)[:, None]
      target = features
      if reforge_frames is not None:
        target = jnp.take_along_axis(features, reforge_frames[..., None, None, None], axis=1)
      outputs['reforged_logits'] = masks(target + reforger(target * reference))
    return outputs
