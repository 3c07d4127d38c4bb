import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.evaluation import predict
from echoforge_jax.formats.sector import whole_image
from echoforge_jax.inference import Segmenter
from echoforge_jax.models import build_model
from tests.inference.clips import noise, random_segmenter


class Bright(nn.Module):
  """A class is where the frame is bright, by two learned offsets."""

  @nn.compact
  def __call__(self, video, train=False):
    assert not train
    offset = self.param('offset', lambda _: jnp.array([-0.5, -0.8]))
    return {'logits': 20 * (video + offset[None, None, None, None])}


def clip(name, value, frames=3, size=8):
  video = np.full((frames, size, size, 1), value, np.uint8)
  video[:, :2] = 0
  masks = (video[..., 0] > 127).astype(np.uint8)
  return {
    'video': video,
    'masks': masks,
    'labeled': np.ones(frames, bool),
    'patient': name,
    'view': '4CH',
    'ef_percent': np.float32(55),
    'spacing_mm': np.array([0.5, 0.6], np.float32),
    'native_size': np.array([40, 48], np.int32),
    'quality': 'Good',
  }


@pytest.fixture(scope='module')
def variables():
  return Bright().init(jax.random.key(0), jnp.zeros((1, 3, 8, 8, 1)))


def test_cases_keep_order_through_padded_batches_and_trace_once(variables):
  traces = []

  class Counting(Bright):
    @nn.compact
    def __call__(self, video, train=False):
      traces.append(video.shape)
      return super().__call__(video, train)

  clips = [clip(f'p{k}', 60 * k) for k in range(5)]
  cases = predict.PredictedClips(Counting(), variables, clips, batch_size=2)
  assert len(cases) == 5 and not traces
  found = list(cases)
  assert traces == [(2, 3, 8, 8, 1)]
  assert [c.patient for c in found] == ['p0', 'p1', 'p2', 'p3', 'p4']
  for number, (case, source) in enumerate(zip(found, clips)):
    assert case.prediction.dtype == np.uint8
    assert case.prediction.shape == (3, 8, 8)
    assert (case.frames == source['video'][..., 0]).all()
    again = cases[number]
    assert again.patient == case.patient
    assert (again.prediction == case.prediction).all()
    assert (again.probability == case.probability).all()
  # 120/255 is under both offsets, 180/255 over the first; 240/255 is over
  # both and the first has the larger probability.
  assert [int(c.prediction[0, 5, 5]) for c in found] == [0, 0, 0, 1, 1]
  assert found[3].ef_percent == 55 and found[3].native_size == (40, 48)
  assert np.isnan(found[3].edv_ml)


def test_threshold(variables):
  clips = [clip('p', 140, frames=1)]  # The logit is about 0.98, p .73.
  case = predict.PredictedClips(Bright(), variables, clips)[0]
  assert case.prediction[0, 2:].all()
  wanted = 1 / (1 + np.exp(-20 * (140 / 255 - 0.5)))
  assert float(case.probability[0, 5, 5]) == pytest.approx(wanted, abs=1e-3)
  strict = predict.PredictedClips(Bright(), variables, clips, threshold=0.8)
  assert not strict[0].prediction.any()


class Memory(nn.Module):
  """Adds the frames seen before: what a call gets depends on the order."""

  delay = 0

  def init_memory(self, batch, image_size):
    assert image_size == (8, 8)
    return jnp.zeros((batch, 1))

  @nn.compact
  def step(self, frame, memory):
    memory = memory + frame[:, 0, 0]
    logits = jnp.broadcast_to(memory[:, None, None], (*frame.shape[:3], 1))
    return {'logits': logits}, memory


@pytest.mark.parametrize('fps,stride', [(27.0, 1), (54.0, 2)])
def test_whole_clips_carry_the_memory_on(fps, stride):
  count = 19
  source = clip('p', 0, frames=count) | {'fps': fps, 'ed': 4, 'es': 1}
  source['video'] = source['video'] + np.arange(count, dtype=np.uint8)[:, None, None, None]
  segmenter = Segmenter(Memory(), {}, classes=('lv',), image_size=8)
  whole = predict.WholeClips(segmenter, [source, source])
  assert len(whole) == 2
  for case in whole:
    expected = np.zeros(count)
    for turn in range(stride):
      expected[turn::stride] = np.cumsum(np.arange(count)[turn::stride]) / 255
    assert case.probability[:, 0, 0] == pytest.approx(1 / (1 + np.exp(-expected)), abs=2e-3)
    assert (case.ed, case.es) == (4, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, options',
  [
    ('echoforge', {'backbone': 'lite', 'dim': 16, 'decoder_dim': 8}),
    ('sscf', {'width': 4, 'backbone': 'resnet10', 'norm': 'group'}),  # Its outputs lag one frame.
  ],
)
def test_whole_clips_are_what_segment_gives(name, options):
  segmenter = random_segmenter(build_model(name, **options))
  for count, fps in ((1, 54.0), (8, 27.0), (5, 54.0)):
    video = noise(count, (64, 64))
    source = clip('p', 0, frames=count) | {'video': video[..., None], 'fps': fps, 'ed': 0, 'es': 0}
    (case,) = predict.WholeClips(segmenter, [source])
    wanted = segmenter.segment(video, fps=fps, sector=whole_image((64, 64)))
    np.testing.assert_array_equal(case.prediction, wanted)
    assert 0 < wanted.mean() < 1
