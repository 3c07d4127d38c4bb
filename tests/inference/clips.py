"""Clips, segmentations and networks that tests of inference share."""

import math

import grain
import jax
import numpy as np

from echoforge_jax.formats.raw_clip import RawClip
from echoforge_jax.formats.resize import squeeze_frames
from echoforge_jax.formats.sector import Sector, whole_image
from echoforge_jax.inference import Segmenter
from echoforge_jax.inference.confidence import Scaling
from echoforge_jax.inference.measurement import Measurement, measure_clip
from echoforge_jax.inference.segmenter import Segmentation
from echoforge_jax.training import build, checkpoint
from echoforge_jax.training.workdir import claim_workdir


def noise(frames=7, shape=(60, 76), seed=0):
  """uint8 [T, H, W]."""
  return np.random.default_rng(seed).integers(0, 255, (frames, *shape), dtype=np.uint8)


def segmentation(masks, box=None, confidence=None, low=0.0) -> Segmentation:
  """Of masks that a network might have given, all of it certain."""
  sector = whole_image(masks.shape[1:])
  return Segmentation(
    masks,
    np.ones(len(masks)) if confidence is None else confidence,
    masks[:, ::4, ::4],
    sector if box is None else Sector(box, box, None, True),
    scaling=Scaling(low=low),
  )


def measured(
  masks,
  spacing_mm=(1.0, 1.0),
  fps=40.0,
  *,
  frames=None,
  flags=(),
  box=None,
  confidence=None,
  low=0.0,
) -> Measurement:
  """Of masks alone; NaN where spacing or rate are None."""
  clip = RawClip(
    masks if frames is None else frames,
    spacing_mm or (math.nan, math.nan),
    fps or math.nan,
    flags=flags,
  )
  return measure_clip(clip, segmentation(masks, box, confidence, low))


def random_parameters(shapes, seed=0):
  """Fills a tree of shapes: kernels by their fan-in, scales 1, biases 0."""
  generator = np.random.default_rng(seed)

  def fill(path, leaf):
    if leaf.ndim < 2:
      return np.full(leaf.shape, 'scale' in str(path[-1]), np.float32)
    fan_in = np.prod(leaf.shape[:-1])
    return generator.normal(0, 2 / np.sqrt(fan_in), leaf.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def random_segmenter(model, image_size=64) -> Segmenter:
  """Of a model with random parameters, made without compiling."""
  video = np.zeros((1, 3, image_size, image_size, 1), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), video)
  return Segmenter(
    model,
    random_parameters(shapes),
    classes=('lv',),
    image_size=image_size,
    receipt={'name': 'untrained'},
  )


def make_workdir(folder, config):
  """Fills a run's workdir: teacher of seed 2, student of seed 1, step 3, validation Dice .8125."""
  state = jax.eval_shape(build.make_parts(config).create_state)
  state = state.replace(
    step=np.int32(3),
    rng=jax.random.key(0),
    batch_stats={},
    teacher_batch_stats={},
    params=random_parameters(state.params, 1),
    teacher_params=random_parameters(state.teacher_params, 2),
    opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state.opt_state),
  )
  claim_workdir(folder, config)
  checkpointer = checkpoint.Checkpointer(folder, best_metric='dice_teacher')
  iterator = iter(grain.MapDataset.range(4).to_iter_dataset())
  checkpointer.save(3, state, iterator, {'dice_teacher': 0.8125})
  checkpointer.close()
  return folder


def logits_of(segmenter, video, **options):
  """float32 [T, S, S, K] of frames that are squeezed already, or will be."""
  small = squeeze_frames(video, segmenter.image_size)
  return np.stack(list(segmenter.frame_loop(**options).run(small)))
