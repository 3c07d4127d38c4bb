"""Endless moving patients straight from the accelerator, pure JAX.

The same hearts, echoes and speckle as `patient.generate_patient`, drawn on a coarser beam grid and
converted to square images under jit, with geometry and photometry randomised as configured.
"""

import functools

import jax
import jax.numpy as jnp

from echoforge_jax.phantom import anatomy, render, scene, speckle
from echoforge_jax.phantom.config import PhantomConfig
from echoforge_jax.phantom.draw import Draw

# Marks drawn outside of the sector at most (depth scale, text, logo).
_MARKS = 6
_POOL = 1 << 21


def beam_grid(image_size) -> tuple[int, int]:
  """Rows and lines of the beam grid for square images of `image_size`."""
  return 2 * image_size, max(64, -(-image_size // 16) * 16)


def _sample_window(key, config, place) -> dict:
  """Draws the sector's place in the image and the display settings."""
  d = Draw(key)
  camus = d.chance(config.camus_geometry_share)
  tall = 2.0 * place['depth'] * jnp.sin(place['half'])
  # CAMUS: the sector fills the frame, which is then squeezed to a square.
  # EchoNet: square pixels, probe off centre, sector cut or surrounded.
  loose = place['depth'] / d.uniform((0.86, 1.12))
  square = jnp.maximum(loose, tall * d.uniform((0.72, 1.05)))
  free = 1.0 - camus
  photo = 1.0 if config.photometric else 0.0
  pick = lambda a, b: camus * a + free * b  # noqa: E731
  some = lambda p: photo * d.chance(p)  # noqa: E731
  return {
    'width': pick(tall * d.uniform((0.985, 1.015)), square),
    'height': pick(place['depth'], square * d.uniform((0.94, 1.06))),
    'cx': 0.5 + pick(d.uniform((-0.005, 0.005)), d.uniform((-0.06, 0.1))),
    'top': pick(0.0, d.uniform((0.0, 0.12))),
    'tip': free * photo * d.uniform((0.0, 10.0)),
    'gamma': 1.0 + some(0.7) * (jnp.exp(0.25 * d.normal()) - 1.0),
    'gain': some(0.6) * d.uniform((-0.06, 0.12)),
    'black': some(0.4) * d.uniform((0.0, 0.12)),
    'blur': some(0.4) * d.uniform((0.3, 1.1)),
    'sharpen': some(0.25) * d.uniform((0.2, 0.8)),
    'coarse': some(0.35) * d.uniform((0.3, 1.0)),
    'wedge': some(0.35) * d.uniform((0.05, 0.35)),
    'wedge_at': d.uniform((-1.0, 1.0)),
    'wedge_width': d.uniform((0.1, 0.5)),
    'floor': free * photo * d.uniform((0.0, 0.03)),
    'mark_on': free * photo * (d.unit((_MARKS,)) < 0.4),
    'mark_xy': d.uniform((0.02, 0.98), (_MARKS, 2)),
    'mark_size': d.uniform((0.006, 0.05), (_MARKS, 2)),
    'mark_gray': d.uniform((0.3, 1.0), (_MARKS,)),
  }


def _image_points(window, size):
  """Sector-frame coordinates X, Y in mm of the pixels [size, size]."""
  unit = (jnp.arange(size) + 0.5) / size
  x = (unit - window['cx']) * window['width']
  y = (unit - window['top']) * window['height']
  return (jnp.broadcast_to(x[None], (size, size)), jnp.broadcast_to(y[:, None], (size, size)))


def _display(key, gray, window, place, x, y):
  """Converts beams [rows, lines] to a processed image [S, S], all in [0, 1]."""
  size = x.shape[0]
  rows, lines = gray.shape
  radius, angle = jnp.sqrt(x * x + y * y), jnp.arctan2(x, y)
  side = angle / place['half']
  # A pixel shows the mean over its area, as images are scaled down; the grid is twice as fine.
  pixel = jnp.array([0.25, 0.5, 0.25])
  for axis in (0, 1):
    gray = jax.vmap(lambda v: jnp.convolve(v, pixel, mode='same'), axis, axis)(gray)
  image = speckle.lookup(
    gray[..., None], radius / place['depth'] * rows - 0.5, (side + 1.0) * (0.5 * lines) - 0.5
  )[..., 0]
  image = image + window['wedge'] * jnp.exp(
    -(((side - window['wedge_at']) / window['wedge_width']) ** 2)
  )
  image = (image + window['gain'] - window['black']) / (1.0 - window['black'])
  image = jnp.clip(image, 0.0, 1.0) ** window['gamma']
  inside = (radius < place['depth']) & (jnp.abs(side) < 1.0) & (radius > window['tip'])
  image = jnp.where(inside, image, 0.0)
  blur = speckle.smoother(size, 2.35 * window['blur'], False)
  wide = speckle.smoother(size, 2.35 * 1.2, False)
  image = blur @ image @ blur.T
  image = image + window['sharpen'] * (image - wide @ image @ wide.T)
  # Coarse pixels, as after low-resolution storage.
  half = jax.image.resize(
    jax.image.resize(image, (size // 2, size // 2), 'linear'), (size, size), 'linear'
  )
  image = image + window['coarse'] * (half - image)
  u, v = jnp.meshgrid(*[(jnp.arange(size) + 0.5) / size] * 2)
  outside = (radius > 1.02 * place['depth']) | (jnp.abs(side) > 1.06)
  for i in range(_MARKS):
    du = jnp.abs(u - window['mark_xy'][i, 0]) / window['mark_size'][i, 0]
    dv = jnp.abs(v - window['mark_xy'][i, 1]) / window['mark_size'][i, 1]
    on = window['mark_on'][i] * ((du < 1.0) & (dv < 1.0) & outside)
    image = jnp.maximum(image, on * window['mark_gray'][i])
  noise = jax.random.uniform(key, image.shape) * window['floor']
  return jnp.clip(image + noise, 0.0, 1.0)


def _phases(d, config, heart, place, num_frames):
  """Returns phases in beats [T] and seconds per frame."""
  steps = jnp.arange(num_frames, dtype=jnp.float32)
  systolic = steps / max(num_frames - 1, 1) * heart['systole']
  window = d.uniform((0.3, 1.8))
  free = d.unit() + steps / num_frames * window
  phases = jnp.where(d.unit() < config.ed_to_es_share, systolic, free)
  seconds = phases[1] - phases[0] if num_frames > 1 else 1.0 / place['fps']
  return phases, seconds * 60.0 / heart['heart_rate']


def _one_clip(key, pool, num_frames, image_size, config):
  """Video float32 [T, S, S, 1] and masks uint8 [T, S, S] of one patient."""
  keys = jax.random.split(key, 7)
  grid = beam_grid(image_size)
  heart = anatomy.sample_heart(keys[0], config)
  d = Draw(keys[1], 8)
  view = (d.unit() > config.four_chamber_share).astype(jnp.int32)
  place = anatomy.sample_view(keys[2], config, heart, view)
  window = _sample_window(keys[3], config, place)
  phases, seconds = _phases(d, config, heart, place, num_frames)
  # Persistence acts per recorded frame: skipped frames lessen it.
  skipped = jnp.maximum(seconds * place['fps'], 1.0)
  place = dict(place, persistence=place['persistence'] ** skipped)
  x, y = _image_points(window, image_size)
  clip = render.start_clip(keys[4], place, grid, pool)

  def step(clip, inputs):
    phase, render_key, show_key = inputs
    frame = scene.frame_state(heart, place, phase)
    gray, clip = render.next_frame(render_key, place, frame, clip, grid, pool, seconds)
    image = _display(show_key, gray, window, place, x, y)
    return clip, (image, scene.labels(place, frame, x, y))

  _, (video, masks) = jax.lax.scan(
    step,
    clip,
    (phases, jax.random.split(keys[5], num_frames), jax.random.split(keys[6], num_frames)),
  )
  return video[..., None], masks


def random_clips(
  key, *, batch: int, num_frames: int, image_size: int, config: PhantomConfig
) -> dict[str, jax.Array]:
  """Draws a batch of new moving patients; pure, for jit (all but `key` static) and vmap.

  Frames run from ED to ES or show any part of one or two beats. The same key gives the same clips.
  Returns `video` float32 [B, T, S, S, 1] in [0, 1] and `masks` uint8 [B, T, S, S], labels of
  `clip.LABELS`.
  """
  pool_key, clip_key = jax.random.split(key)
  pool = jax.random.normal(pool_key, (_POOL,))
  one = lambda k: _one_clip(k, pool, num_frames, image_size, config)  # noqa: E731
  keys = jax.random.split(clip_key, batch)
  video, masks = jax.lax.map(one, keys, batch_size=min(batch, 8))
  return {'video': video, 'masks': masks}


@functools.cache
def jitted(batch: int, num_frames: int, image_size: int, config: PhantomConfig):
  """Returns a compiled `key -> dict` for one set of static sizes."""
  sizes = dict(batch=batch, num_frames=num_frames, image_size=image_size)
  return jax.jit(functools.partial(random_clips, config=config, **sizes))
