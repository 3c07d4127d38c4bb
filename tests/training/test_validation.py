"""Validation: means over the labeled frames of all clips, and only those."""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.clip import IGNORE
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import steps, validation


@struct.dataclass
class State:
  """What the evaluation step reads of a training state."""

  params: dict
  teacher_params: dict
  batch_stats: dict = struct.field(default_factory=dict)
  teacher_batch_stats: dict = struct.field(default_factory=dict)


class Threshold:
  """Calls bright what is above its one parameter."""

  def apply(self, variables, video, train):
    assert not train
    return {'logits': video - variables['params']['level']}


def clip(bright, true):
  """Four frames, the first two labeled: columns that are bright and true."""
  video = np.zeros((4, 8, 8, 1), np.uint8)
  video[:, :, :bright] = 200
  masks = np.full((4, 8, 8), IGNORE, np.uint8)
  masks[:2] = np.arange(8) < true
  return {'video': video, 'masks': masks}


@pytest.mark.parametrize('batch_size', [1, 2, 5])
def test_the_mean_is_over_labeled_frames_whatever_the_batch(batch_size):
  clips = [clip(4, 4), clip(2, 4), clip(4, 4), clip(4, 2), clip(8, 8)]
  batches = validation.stack_clips(clips, batch_size=batch_size, max_clips=3)
  assert all(len(batch['video']) == batch_size for batch in batches)
  mesh = mesh_lib.make_mesh(1)
  validator = validation.Validator(steps.make_eval_step(model=Threshold()), batches, ('lv',), mesh)
  state = jax.device_put(
    State(params={'level': jnp.float32(0.5)}, teacher_params={'level': jnp.float32(0.9)}),
    mesh_lib.replicated(mesh),
  )
  scores = validator(state)
  assert set(scores) == set(validation.score_names(('lv',)))
  # 2 x 2 / (2 + 4) where half is found; the last two clips are not asked for.
  np.testing.assert_allclose(scores['dice_student'], (1 + 2 / 3 + 1) / 3, rtol=1e-6)
  assert scores['dice_teacher'] == 0  # 200 / 255 is below its level.


def test_several_classes_are_scored_one_by_one():
  clips = [clip(4, 4)]
  mesh = mesh_lib.make_mesh(1)

  class Both(Threshold):
    """The bright columns as the first class, never the second."""

    def apply(self, variables, video, train):
      logits = super().apply(variables, video, train)['logits']
      return {'logits': jnp.concatenate([logits, 0 * logits - 1], -1)}

  clips[0]['masks'][0, 0, 7] = 2  # One frame shows the second class.
  state = jax.device_put(
    State(params={'level': jnp.float32(0.5)}, teacher_params={'level': jnp.float32(0.5)}),
    mesh_lib.replicated(mesh),
  )
  scores = validation.Validator(
    steps.make_eval_step(model=Both()),
    validation.stack_clips(clips, batch_size=1, max_clips=0),
    ('lv', 'myo'),
    mesh,
  )(state)
  assert set(scores) == set(validation.score_names(('lv', 'myo')))
  np.testing.assert_allclose(scores['dice_teacher_lv'], 1, rtol=1e-6)
  np.testing.assert_allclose(scores['dice_teacher_myo'], 0.5, rtol=1e-6)
  np.testing.assert_allclose(scores['dice_teacher'], 0.75, rtol=1e-6)
