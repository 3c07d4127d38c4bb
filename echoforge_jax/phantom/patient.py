"""One synthetic patient: two apical views of one moving ventricle."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.clip import Clip
from echoforge_jax.phantom import anatomy, raster, render, scene, speckle
from echoforge_jax.phantom.config import QUALITIES, PhantomConfig

VIEWS = ('4CH', '2CH')
_CAMUS = PhantomConfig.camus()
# Frames planned in one call.
_CHUNK = 30


@dataclasses.dataclass(frozen=True)
class Patient:
  """Both views of one patient with their exact truth."""

  clips: dict[str, Clip]  # '2CH' and '4CH' (or one) at native size, every frame labeled.
  edv_ml: float  # Biplane disc integral of the contours.
  esv_ml: float
  ef_percent: float  # 100 (EDV - ESV) / EDV, not rounded.
  group: str  # Name of a `config.Group`.
  sex: str
  age: int


@functools.partial(jax.jit, static_argnames='config')
def _sample(key, config):
  keys = jax.random.split(key, 3)
  heart = anatomy.sample_heart(keys[0], config)
  places = jax.vmap(lambda k, view: anatomy.sample_view(k, config, heart, view))(
    keys[1:], jnp.arange(len(VIEWS))
  )
  return heart, places


@jax.jit
def _plan(heart, place, phases):
  """Frame states and outlines (sector frame, mm) of all phases [N]."""

  def one(phase):
    frame = scene.frame_state(heart, place, phase)
    shape = frame['shape']
    outlines = shape['endo'], shape['epi'], scene.left_atrium_outline(place, frame)
    world = [anatomy.to_world(o, place, frame['g']) for o in outlines]
    return frame, world

  return jax.lax.map(one, phases)


_start = jax.jit(render.start_clip, static_argnames='grid')


@functools.partial(jax.jit, static_argnames='grid', donate_argnames='clip')
def _render(key, index, place, frames, clip, grid, pool, seconds):
  frame = jax.tree.map(lambda v: v[index % _CHUNK], frames)
  gray, clip = render.next_frame(
    jax.random.fold_in(key, index), place, frame, clip, grid, pool, seconds
  )
  return jnp.round(gray * 255.0).astype(jnp.uint8), clip


@functools.cache
def _pool():
  return speckle.noise_pool()


def _phases(heart, place, config, beats):
  """Returns the phases in beats of all frames, and the indices of ED and ES."""
  seconds = 60.0 / float(heart['heart_rate'])
  systole = float(heart['systole'])
  fps = float(place['fps'])
  if not beats:
    low, high = config.num_frames
    count = int(np.clip(round(seconds * systole * fps) + 1, low, high))
    return np.linspace(0.0, systole, count), 0, count - 1
  # The beat is stretched a little so that ES falls on a frame.
  es = max(2, round(seconds * systole * fps))
  step = systole / es
  count = int(np.ceil(beats / step))
  return np.arange(count) * step, 0, es


def _plan_all(heart, place, phases):
  """Plans in chunks of one size, so that one compilation serves all."""
  count = len(phases)
  phases = np.append(phases, np.full(-count % _CHUNK, phases[-1]))
  chunks = [_plan(heart, place, part.astype(np.float32)) for part in phases.reshape(-1, _CHUNK)]
  frames, outlines = zip(*chunks)
  return frames, [np.concatenate(parts)[:count] for parts in zip(*outlines)]


def _make_clip(key, heart, place, name, view, config, beats, truth, images=True):
  phases, ed, es = _phases(heart, place, config, beats)
  frames, outlines = _plan_all(heart, place, phases)
  half = float(place['half'])
  size = raster.native_size(float(place['depth']), half)
  converter = raster.ScanConverter(size[0] * raster.SPACING, half, render.GRID, size)
  masks = np.stack([raster.label_image(converter, *frame) for frame in zip(*outlines)])
  video = np.zeros_like(masks)
  if images:
    start_key, frame_key = jax.random.split(key)
    clip = _start(start_key, place, render.GRID, _pool())
    fixed = render.GRID, _pool(), np.float32(1.0 / place['fps'])
    for i in range(len(phases)):
      gray, clip = _render(frame_key, i, place, frames[i // _CHUNK], clip, *fixed)
      video[i] = converter(np.asarray(gray))
  return Clip(
    patient=name,
    view=view,
    frames=video,
    masks=masks,
    labeled=np.ones(len(phases), bool),
    ed=ed,
    es=es,
    spacing_mm=np.full(2, raster.SPACING, np.float32),
    fps=float(np.round(place['fps'], 1)),
    quality=QUALITIES[int(place['quality'])],
    **truth,
  )


def generate_patient(
  seed: int,
  index: int,
  config: PhantomConfig = _CAMUS,
  *,
  beats: int = 0,
  views: tuple[str, ...] = VIEWS,
  images: bool = True,
) -> Patient:
  """Generates one patient; the same arguments give the same bytes.

  Patients (`index` from 1 in the cohort of `seed`) do not depend on each other, nor on how many are
  made; a view is the same with and without the other.

  Args:
    beats: 0 for frames from ED to ES (10-30 of them); n > 0 for n whole beats that begin at ED,
      `ed` and `es` being those of the first.
    images: False leaves the frames black: masks and truth, quickly.
  """
  key = jax.random.fold_in(jax.random.key(seed), index)
  sample_key, *render_keys = jax.random.split(key, 3)
  heart, places = jax.device_get(_sample(sample_key, config))
  edv, esv = float(heart['edv']), float(heart['esv'])
  truth = {'ef_percent': 100.0 * (edv - esv) / edv, 'edv_ml': edv, 'esv_ml': esv}
  truth |= {'sex': 'M' if heart['male'] > 0.5 else 'F', 'age': float(heart['age'])}
  name = f'patient{index:04d}'
  clips = {}
  for view in sorted(views):
    i = VIEWS.index(view)
    place = jax.tree.map(lambda v, i=i: v[i], places)
    clips[view] = _make_clip(render_keys[i], heart, place, name, view, config, beats, truth, images)
  group = config.groups[int(heart['group'])].name
  return Patient(clips, group=group, **truth | {'age': int(heart['age'])})
