"""Masks at native size, memory, and loading of a run."""

import math

import jax
import numpy as np
import pytest

from echoforge_jax import inference
from echoforge_jax.__main__ import main
from echoforge_jax.errors import InputError
from echoforge_jax.formats.resize import squeeze_frames
from echoforge_jax.formats.sector import Sector, whole_image
from echoforge_jax.inference.stream import native_mask
from echoforge_jax.models.memory import stride_of
from tests.inference.clips import noise, random_parameters

LV = np.asarray([1], np.uint8)


def whole(video):
  return whole_image(video.shape[1:])


def parallel_masks(segmenter, run, video):
  """Native masks of the model on all frames at once."""
  small = squeeze_frames(video, segmenter.image_size)[None, ..., None]
  logits = run(segmenter.variables, small.astype(np.float32) / 255)['logits'][0]
  return np.stack(
    [native_mask(frame, whole(video), video.shape[1:], LV) for frame in np.asarray(logits)]
  )


@pytest.mark.slow
@pytest.mark.parametrize('model', ['segmenter', 'looking_ahead'])
@pytest.mark.parametrize('fps', [math.nan, 60.0])
def test_masks_are_the_models_at_native_size(model, fps, request):
  segmenter = request.getfixturevalue(model)
  run = jax.jit(segmenter.model.apply)
  stride = stride_of(fps)
  video = noise(4 * stride)  # As many frames per memory: one compilation.
  masks = segmenter.segment(video, fps=fps, sector=whole(video))
  assert masks.shape == video.shape and masks.dtype == np.uint8
  assert set(np.unique(masks)) <= {0, 1}
  assert 0.001 < (masks > 0).mean() < 0.999
  wanted = np.zeros_like(masks)
  for turn in range(stride):
    wanted[turn::stride] = parallel_masks(segmenter, run, video[turn::stride])
  assert (masks != wanted).mean() < 1e-3  # The clip at once rounds otherwise.
  assert (masks[1:] != wanted[:-1]).mean() > 1e-3  # A slip would show.


@pytest.mark.slow
def test_a_frame_never_depends_on_later_ones(segmenter):
  video, other = noise(), noise(seed=9)
  changed = np.concatenate([video[:4], other[4:]])
  first = segmenter.segment(video, sector=whole(video))
  second = segmenter.segment(changed, sector=whole(video))
  np.testing.assert_array_equal(first[:4], second[:4])
  assert (first[4:] != second[4:]).any()


def test_interleaved_memories_are_separate_clips(segmenter):
  video = noise(8)
  assert stride_of(60.0) == 2
  masks = segmenter.segment(video, fps=60.0, sector=whole(video))
  for start in (0, 1):
    np.testing.assert_array_equal(
      masks[start::2], segmenter.segment(video[start::2], sector=whole(video))
    )


def test_memory_matters(segmenter):
  video = noise(5)
  alone = segmenter.segment(video[4:], sector=whole(video))
  assert (segmenter.segment(video, sector=whole(video))[4:] != alone).any()


def test_masks_lie_inside_the_box(segmenter):
  video = noise(shape=(90, 120))
  inside = np.zeros((90, 120), bool)
  inside[20:70, 30:100] = True
  sector = Sector((10, 25, 74, 105), (20, 30, 70, 100), inside, True)
  masks = segmenter.segment(video, sector=sector)
  assert masks[:, 10:74, 25:105].any()
  masks[:, 10:74, 25:105] = 0
  assert not masks.any()
  # What is blanked cannot change the result.
  dirty = video.copy()
  dirty[:, 72:, :] = 255
  np.testing.assert_array_equal(
    segmenter.segment(dirty, sector=sector), segmenter.segment(video, sector=sector)
  )


def test_labels_of_several_classes():
  logits = np.full((8, 8, 2), -3.0, np.float32)
  logits[:4, :, 0] = 2.0
  logits[2:, :4, 1] = 4.0
  labels = np.asarray([1, 3], np.uint8)
  mask = native_mask(logits, whole_image((8, 8)), (8, 8), labels)
  assert mask.dtype == np.uint8
  assert (mask[:2] == 1).all() and (mask[2:, :4] == 3).all()
  assert (mask[2:4, 4:] == 1).all() and (mask[4:, 4:] == 0).all()
  # The threshold comes after interpolation: halfway is at the zero crossing.
  steep = np.full((2, 2, 1), -1.0, np.float32)
  steep[:, 1] = 3.0
  wide = native_mask(steep, whole_image((200, 200)), (200, 200), LV)
  assert np.argmax(wide[0]) == pytest.approx(75, abs=1)


@pytest.mark.parametrize(
  'fps,stride', [(math.nan, 1), (0.0, 1), (20.0, 1), (30.0, 1), (50.0, 2), (80.0, 3), (1000.0, 8)]
)
def test_stride_keeps_the_trained_pace(fps, stride):
  assert stride_of(fps) == stride


@pytest.mark.parametrize(
  'video',
  [
    np.zeros((3, 40, 40), np.float32),
    np.zeros((40, 40), np.uint8),
    np.zeros((0, 40, 40), np.uint8),
    np.zeros((2, 4, 4, 1), np.uint8),
  ],
)
def test_wrong_arrays(segmenter, video):
  with pytest.raises(InputError, match=r'wanted uint8 gray levels \[T, H, W\]'):
    segmenter.segment(video)


@pytest.mark.slow
def test_load_restores_what_was_saved(workdir, config):
  loaded = inference.load(workdir)
  assert loaded.classes == tuple(config.data.classes)
  assert loaded.image_size == config.data.image_size
  assert loaded.receipt['step'] == 3 and loaded.receipt['which'] == 'teacher'
  student = inference.load(workdir, 'student')
  assert student.receipt['which'] == 'student'
  assert len({loaded.receipt['sha256'], student.receipt['sha256']}) == 2
  for segmenter, seed in ((loaded, 2), (student, 1)):
    restored = segmenter.variables['params']
    jax.tree.map(np.testing.assert_array_equal, restored, random_parameters(restored, seed))


@pytest.mark.slow
def test_the_best_step_is_named_from_a_run_to_its_file(workdir, tmp_path):
  file = tmp_path / 'best.safetensors'
  assert main(['export', f'--checkpoint={workdir}', '--step=best', f'--out={file}']) == 0
  for receipt in (inference.load(workdir, step='best').receipt, inference.load(file).receipt):
    assert receipt['step'] == 3
    assert receipt['step_choice'] == 'best dice_teacher' and receipt['step_score'] == 0.8125
  with pytest.raises(InputError, match='found --step=9, wanted .* kept: 3'):
    inference.load(workdir, step=9)


def test_load_says_what_is_missing(tmp_path):
  with pytest.raises(InputError, match='no such directory'):
    inference.load(tmp_path / 'none')
  with pytest.raises(InputError, match='config.json'):
    inference.load(tmp_path)
