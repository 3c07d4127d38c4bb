import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.evaluation import predict


class Bright(nn.Module):
  """A class is where the frame is bright, by two learned offsets."""

  @nn.compact
  def __call__(self, video, train=False):
    assert not train
    offset = self.param('offset', lambda _: jnp.array([-.5, -.8]))
    return {'logits': 20 * (video + offset[None, None, None, None])}


def clip(name, value, frames=3, size=8):
  video = np.full((frames, size, size, 1), value, np.uint8)
  video[:, :2] = 0
  masks = (video[..., 0] > 127).astype(np.uint8)
  return {'video': video, 'masks': masks, 'labeled': np.ones(frames, bool),
          'patient': name, 'view': '4CH', 'ef_percent': np.float32(55),
          'spacing_mm': np.array([.5, .6], np.float32),
          'native_size': np.array([40, 48], np.int32), 'quality': 'Good'}


@pytest.fixture
def bright():
  model = Bright()
  variables = model.init(jax.random.key(0), jnp.zeros((1, 3, 8, 8, 1)))
  return model, variables


def test_cases_keep_order_through_padded_batches_and_compile_once(bright):
  model, variables = bright
  traces = []

  class Counting(Bright):
    @nn.compact
    def __call__(self, video, train=False):
      traces.append(video.shape)
      return super().__call__(video, train)

  run = predict.make_predictor(Counting())
  clips = [clip(f'p{k}', 60 * k) for k in range(5)]
  cases = list(predict.predict_clips(run, variables, clips, batch_size=2))
  assert [c.patient for c in cases] == ['p0', 'p1', 'p2', 'p3', 'p4']
  assert traces == [(2, 3, 8, 8, 1)]
  assert run._cache_size() == 1
  for case, source in zip(cases, clips):
    assert case.prediction.dtype == np.uint8
    assert case.prediction.shape == (3, 8, 8)
    assert (case.frames == source['video'][..., 0]).all()
  # 120/255 is under both offsets, 180/255 over the first; 240/255 is over
  # both and the first has the larger probability.
  assert [int(c.prediction[0, 5, 5]) for c in cases] == [0, 0, 0, 1, 1]
  assert cases[3].ef_percent == 55 and cases[3].native_size == (40, 48)
  assert np.isnan(cases[3].edv_ml)


def test_threshold(bright):
  model, variables = bright
  video = np.full((1, 1, 8, 8, 1), 140, np.uint8)  # logit about 0.98, p .73
  assert predict.make_predictor(model)(variables, video).all()
  assert not predict.make_predictor(model, threshold=.8)(
      variables, video).any()
