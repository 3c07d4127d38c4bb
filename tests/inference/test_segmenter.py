"""Masks at native size; offline equals streaming; loading of a run."""

import math

import jax
import numpy as np
import pytest

from echoforge_jax import inference
from echoforge_jax.errors import InputError
from echoforge_jax.formats import sector as sectors
from echoforge_jax.formats.resize import squeeze_frames
from echoforge_jax.inference import segmenter as segmenters
from echoforge_jax.models import build_model


def clip(frames=7, shape=(60, 76), seed=0):
  return np.random.default_rng(seed).integers(
    0, 255, (frames, *shape), dtype=np.uint8
  )


def native_logits(model, variables, video, size):
  """The parallel model's logits on a squeezed clip: [T, S, S, K]."""
  small = squeeze_frames(video, size)[None, ..., None].astype(np.float32)
  return np.asarray(jax.jit(model.apply)(variables, small / 255)['logits'][0])


def test_masks_are_the_models_at_native_size(model, variables, segmenter):
  video = clip()
  whole = sectors.whole_image(video.shape[1:])
  masks = segmenter.segment(video, sector=whole)
  assert masks.shape == video.shape and masks.dtype == np.uint8
  assert set(np.unique(masks)) <= {0, 1}
  assert 0.001 < (masks > 0).mean() < 0.999
  logits = native_logits(model, variables, video, segmenter.image_size)
  labels = np.asarray([1], np.uint8)
  wanted = np.stack(
    [segmenters.labels_of(frame, video.shape[1:], labels) for frame in logits]
  )
  assert (masks != wanted).mean() < 1e-3  # The clip at once rounds otherwise.


@pytest.mark.parametrize('fps', [math.nan, 60.0])
def test_stream_equals_offline(segmenter, fps):
  video = clip(frames=11)
  whole = sectors.whole_image(video.shape[1:])
  stream = segmenter.stream(fps=fps, sector=whole)
  streamed = np.stack([stream.step(frame) for frame in video])
  offline = segmenter.segment(video, fps=fps, sector=whole)
  np.testing.assert_array_equal(streamed, offline)
  np.testing.assert_array_equal(
    offline, segmenter.segment(video, fps=fps, sector=whole)
  )


def test_a_frame_never_depends_on_later_ones(segmenter):
  video, other = clip(), clip(seed=9)
  whole = sectors.whole_image(video.shape[1:])
  changed = np.concatenate([video[:4], other[4:]])
  first = segmenter.segment(video, sector=whole)
  second = segmenter.segment(changed, sector=whole)
  np.testing.assert_array_equal(first[:4], second[:4])
  assert (first[4:] != second[4:]).any()


def test_interleaved_memories_are_separate_clips(segmenter):
  video = clip(frames=8)
  whole = sectors.whole_image(video.shape[1:])
  assert segmenters.stride_of(60.0) == 2
  masks = segmenter.segment(video, fps=60.0, sector=whole)
  for start in (0, 1):
    np.testing.assert_array_equal(
      masks[start::2], segmenter.segment(video[start::2], sector=whole)
    )


def test_memory_matters(segmenter):
  video = clip(frames=5)
  whole = sectors.whole_image(video.shape[1:])
  alone = segmenter.segment(video[4:], sector=whole)
  assert (segmenter.segment(video, sector=whole)[4:] != alone).any()


def test_one_compilation_for_every_length_and_size(segmenter):
  segmenter.segment(clip())
  compiled = segmenters.jit_frame_step()._cache_size()
  for frames, shape in ((3, (40, 52)), (6, (64, 64)), (9, (33, 47))):
    video = clip(frames, shape)
    segmenter.segment(video, sector=sectors.whole_image(shape))
  assert segmenters.jit_frame_step()._cache_size() == compiled


def test_masks_lie_inside_the_box(segmenter):
  video = clip(shape=(90, 120))
  inside = np.zeros((90, 120), bool)
  inside[20:70, 30:100] = True
  sector = sectors.Sector((10, 25, 74, 105), (20, 30, 70, 100), inside, True)
  masks = segmenter.segment(video, sector=sector)
  assert masks[:, 10:74, 25:105].any()
  masks[:, 10:74, 25:105] = 0
  assert not masks.any()
  # What is blanked cannot change the result.
  dirty = video.copy()
  dirty[:, 72:, :] = 255
  np.testing.assert_array_equal(
    segmenter.segment(dirty, sector=sector),
    segmenter.segment(video, sector=sector),
  )


def test_labels_of_several_classes():
  logits = np.full((8, 8, 2), -3.0, np.float32)
  logits[:4, :, 0] = 2.0
  logits[2:, :4, 1] = 4.0
  labels = segmenters.labels_of(logits, (8, 8), np.asarray([1, 3], np.uint8))
  assert (labels[:2] == 1).all() and (labels[2:, :4] == 3).all()
  assert (labels[2:4, 4:] == 1).all() and (labels[4:, 4:] == 0).all()
  # The threshold comes after interpolation: halfway is at the zero crossing.
  steep = np.full((2, 2, 1), -1.0, np.float32)
  steep[:, 1] = 3.0
  wide = segmenters.labels_of(steep, (200, 200), np.asarray([1], np.uint8))
  assert np.argmax(wide[0]) == pytest.approx(75, abs=1)


@pytest.mark.parametrize(
  'fps,stride',
  [
    (math.nan, 1),
    (0.0, 1),
    (20.0, 1),
    (30.0, 1),
    (50.0, 2),
    (80.0, 3),
    (1000.0, 8),
  ],
)
def test_stride_keeps_the_trained_pace(fps, stride):
  assert segmenters.stride_of(fps) == stride


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


def test_stream_refuses_a_change_of_size(segmenter):
  stream = segmenter.stream()
  stream.step(clip()[0])
  with pytest.raises(InputError, match='frame 1 is'):
    stream.step(clip(shape=(50, 50))[0])


def test_load_restores_what_was_saved(workdir, config, tree_of):
  loaded = inference.load(workdir)
  assert loaded.classes == tuple(config.data.classes)
  assert loaded.image_size == config.data.image_size
  assert loaded.receipt['step'] == 3 and loaded.receipt['which'] == 'teacher'
  student = inference.load(workdir, 'student')
  assert student.receipt['which'] == 'student'
  assert len({loaded.receipt['sha256'], student.receipt['sha256']}) == 2
  for segmenter, seed in ((loaded, 2), (student, 1)):
    restored = segmenter._variables['params']
    jax.tree.map(
      np.testing.assert_array_equal, restored, tree_of(restored, seed)
    )


def test_load_says_what_is_missing(tmp_path):
  with pytest.raises(InputError, match='no such directory'):
    inference.load(tmp_path / 'none')
  with pytest.raises(InputError, match='config.json'):
    inference.load(tmp_path)


@pytest.fixture(scope='module')
def looking_ahead(tree_of):
  """A Segmenter with an SSCF, whose masks lag one frame behind."""
  model = build_model('sscf', width=8, clips=True, norm='group')
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 3, 64, 64, 1), np.float32),
  )
  return segmenters.Segmenter(
    model, tree_of(shapes), classes=('lv',), image_size=64
  )


def test_delayed_masks_belong_to_their_frames(looking_ahead):
  run = jax.jit(looking_ahead._model.apply)
  for fps in (math.nan, 60.0):
    _check_delayed_masks(looking_ahead, run, fps)


def _check_delayed_masks(looking_ahead, run, fps):
  # As many frames share a memory, whatever the pace: one compilation.
  video = clip(frames=4 * segmenters.stride_of(fps))
  whole = sectors.whole_image(video.shape[1:])
  stride = segmenters.stride_of(fps)
  masks = looking_ahead.segment(video, fps=fps, sector=whole)
  wanted = np.zeros_like(masks)
  for turn in range(stride):
    small = squeeze_frames(video[turn::stride], 64)[None, ..., None]
    logits = np.asarray(
      run(looking_ahead._variables, small.astype(np.float32) / 255)['logits'][0]
    )
    wanted[turn::stride] = np.stack(
      [
        segmenters.labels_of(frame, video.shape[1:], np.asarray([1], np.uint8))
        for frame in logits
      ]
    )
  assert 0.001 < (masks > 0).mean() < 0.999
  assert (masks != wanted).mean() < 1e-3
  assert (masks[1:] != wanted[:-1]).mean() > 1e-3  # A slip would show.


@pytest.mark.parametrize('frames, fps', [(7, math.nan), (7, 60.0), (1, 60.0)])
def test_a_delayed_stream_owes_its_last_masks(looking_ahead, frames, fps):
  video = clip(frames=frames)
  whole = sectors.whole_image(video.shape[1:])
  stream = looking_ahead.stream(fps=fps, sector=whole)
  assert stream.delay == segmenters.stride_of(fps)
  streamed = np.stack([stream.step(frame) for frame in video])
  assert not streamed[: stream.delay].any()
  rest = stream.flush()
  assert len(rest) == min(stream.delay, frames)
  np.testing.assert_array_equal(
    np.concatenate([streamed[stream.delay :], rest]),
    looking_ahead.segment(video, fps=fps, sector=whole),
  )
  with pytest.raises(InputError, match='has ended'):
    stream.step(video[0])


def test_a_causal_stream_owes_nothing(segmenter):
  stream = segmenter.stream()
  assert stream.delay == 0
  stream.step(clip()[0])
  assert stream.flush().shape == (0, 60, 76)
