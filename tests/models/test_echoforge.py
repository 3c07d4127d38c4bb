import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.models import build_model
from echoforge_jax.models.echoforge import log_odds

B, T, S, M = 2, 6, 32, 2
FRAMES = np.asarray([[0, T - 1]] * B)


def _model(**options):
  options = {
    'backbone': 'lite',
    'dim': 32,
    'decoder_dim': 16,
    'neighbours': 4,
    'memory_frames': M,
    'num_queries': 4,
  } | options
  return build_model('echoforge', **options)


def _video(seed=0):
  return jax.random.uniform(jax.random.key(seed), (B, T, S, S, 1))


def _labels():
  return jnp.zeros((B, T), bool).at[:, 0].set(True).at[:, -1].set(True)


@pytest.fixture(scope='module')
def model():
  return _model()


@pytest.fixture(scope='module')
def variables(model, fill):
  return fill(model, _video())


@pytest.fixture(scope='module')
def forward(model):
  """The compiled forward pass and its number of traces."""
  traces = []

  def run(variables, video):
    traces.append(0)
    return model.apply(variables, video)

  compiled = jax.jit(run)
  compiled.traces = traces
  return compiled


@pytest.fixture(scope='module')
def train_pass(model):
  """Outputs and gradients of a supervised plus reforged loss."""

  def loss(params, video, labeled):
    out = model.apply(
      {'params': params},
      video,
      train=True,
      labeled=labeled,
      reforge=True,
      reforge_frames=jnp.asarray(FRAMES),
    )
    terms = [
      jnp.mean(jax.nn.softplus(out[k])) for k in ('logits', 'coarse_logits', 'reforged_logits')
    ]
    return sum(terms), out

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def _eval_shapes(model, **kwargs):
  video = jax.ShapeDtypeStruct((B, T, S, S, 1), jnp.float32)

  def run(video):
    variables = model.init(jax.random.key(0), video)
    return model.apply(variables, video, **kwargs)

  return jax.eval_shape(run, video)


@pytest.mark.slow
@pytest.mark.parametrize('anchors, classes', [(1, 1), (2, 3), (3, 1), (4, 3)])
def test_shapes_for_every_anchor_layout(anchors, classes):
  model = _model(anchors=anchors, num_classes=classes)
  out = _eval_shapes(model, labeled=_labels(), reforge=True)
  full, grid = (B, T, S, S, classes), (B, T, S // 8, S // 8)
  assert out['logits'].shape == out['reforged_logits'].shape == full
  assert out['coarse_logits'].shape == (*grid, classes)
  assert out['features'].shape == (*grid, 32)
  assert out['logits'].dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize(
  'arc, tsf, cpr',
  [
    (False, False, False),
    (True, False, False),
    (False, True, False),
    (False, False, True),
    (False, True, True),
  ],
)
def test_every_switch(arc, tsf, cpr):
  model = _model(use_arc=arc, use_tsf=tsf, use_cpr=cpr)
  out = _eval_shapes(model, labeled=_labels(), reforge=cpr)
  assert ('coarse_logits' in out) == (arc or tsf)
  assert ('reforged_logits' in out) == cpr
  assert out['logits'].shape == (B, T, S, S, 1)


@pytest.mark.slow
def test_reforging_without_its_means():
  with pytest.raises(InputError, match='use_cpr'):
    _eval_shapes(_model(use_cpr=False), labeled=_labels(), reforge=True)
  with pytest.raises(InputError, match='without labeled'):
    _eval_shapes(_model(), reforge=True)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'backbon': 'lite'}, 'backbon.*choose from.*backbone'),
    ({'backbone': 'vgg'}, 'vgg.*resnet50'),
    ({'norm': 'layer'}, 'frozen'),
    ({'anchors': 7}, 'anchors: found 7, wanted one of 1, 2, 3, 4'),
    ({'pull': 1.5}, 'pull: found 1.5, wanted at most 1'),
    ({'pull': 'much'}, 'pull.*type float'),
    ({'band': 0.0}, 'band: found 0.0, wanted at least 0.01'),
    ({'patch': 2.5}, 'patch: found 2.5, wanted a value of type int'),
    ({'neighbours': 0}, 'neighbours.*at least 1'),
    ({'use_arc': 1}, 'use_arc: found 1, wanted a value of type bool'),
    ({'heads': 5}, 'divisor of dim'),
    ({'dtype': 'half'}, 'half.*bfloat16'),
    ({'knn': 'no'}, 'approx'),
    ({'num_queries': 1}, 'at least 2'),
    ({'num_classes': 0}, 'at least 1'),
  ],
)
def test_bad_options_say_what_is_wanted(options, message):
  with pytest.raises(InputError, match=message):
    build_model('echoforge', **options)


def test_unknown_model_lists_the_choices():
  with pytest.raises(InputError, match='unet.*echoforge'):
    build_model('unet')


def test_frames_must_suit_the_strides(model):
  with pytest.raises(InputError, match='40x32x1.*multiples of 32'):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 40, 32, 1)))


@pytest.mark.slow
def test_log_odds_invert_the_sigmoid():
  scores = jax.random.normal(jax.random.key(0), (5, 4))
  np.testing.assert_allclose(
    jax.nn.sigmoid(log_odds(scores)), jax.nn.softmax(scores)[:, 1:], atol=1e-6
  )


@pytest.mark.slow
def test_causal_with_bounded_memory_and_independent_clips(forward, variables):
  video = _video()
  before = forward(variables, video)
  after = forward(variables, video.at[0, 1].set(0.0))
  same = [bool((a == b).all()) for a, b in zip(before['logits'][0], after['logits'][0])]
  # Frame 1 and the M frames that remember it, none before or later.
  assert same == [True] + [False] * (1 + M) + [True] * (T - 2 - M)
  for key in before:
    np.testing.assert_array_equal(before[key][1], after[key][1])
  assert len(forward.traces) == 1


@pytest.mark.slow
def test_stream_equals_clip(model, forward, variables):
  video = _video(1)
  clip = forward(variables, video)
  step = jax.jit(lambda v, frame, memory: model.apply(v, frame, memory, method='step'))
  memory = model.init_memory(B, (64, 64))
  for t in range(T):
    out, memory = step(variables, video[:, t], memory)
    assert set(out) == set(clip)
    for key in out:
      # To 1e-5 of their size: logits and features are larger than one.
      np.testing.assert_allclose(out[key], clip[key][:, t], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_is_finite_and_close(forward, variables):
  video = _video(2)
  exact = forward(variables, video)['logits']
  half = _model(dtype='bfloat16')
  rough = jax.jit(half.apply)(variables, video)['logits']
  assert rough.dtype == jnp.float32
  assert np.isfinite(rough).all()
  assert np.corrcoef(exact.ravel(), rough.ravel())[0, 1] > 0.98


@pytest.mark.slow
def test_gradient_reaches_every_parameter(train_pass, variables):
  (_, _), gradients = train_pass(variables['params'], _video(3), _labels())
  flat = jax.tree_util.tree_leaves_with_path(gradients)
  assert all(np.isfinite(g).all() for _, g in flat)
  idle = [jax.tree_util.keystr(k) for k, g in flat if not np.any(g)]
  assert not idle


@pytest.mark.slow
def test_reforged_logits(train_pass, model, variables):
  video, none = _video(4), jnp.zeros((B, T), bool)
  (_, out), _ = train_pass(variables['params'], video, _labels())
  plain = np.take_along_axis(np.asarray(out['logits']), FRAMES[..., None, None, None], 1)
  assert out['reforged_logits'].shape == (B, 2, S, S, 1)
  assert np.abs(out['reforged_logits'] - plain).max() > 1e-2
  # Without any label in the batch, reforged is the plain prediction.
  (_, out), _ = train_pass(variables['params'], video, none)
  np.testing.assert_allclose(out['reforged_logits'], plain, atol=1e-5)


@pytest.mark.slow
def test_black_video_has_finite_outputs_and_gradients(train_pass, variables):
  for labeled in (_labels(), jnp.zeros((B, T), bool)):
    (_, out), gradients = train_pass(variables['params'], jnp.zeros((B, T, S, S, 1)), labeled)
    for leaf in jax.tree.leaves((out, gradients)):
      assert np.isfinite(leaf).all()


@pytest.mark.slow
def test_batch_norm_statistics_are_a_collection_of_their_own():
  model = _model(norm='batch')
  video = jax.ShapeDtypeStruct((B, T, S, S, 1), jnp.float32)

  def run(video):
    variables = model.init(jax.random.key(0), video)
    _, changed = model.apply(variables, video, train=True, mutable=['batch_stats'])
    return variables, changed

  variables, changed = jax.eval_shape(run, video)
  assert set(variables) == {'params', 'batch_stats'}
  assert jax.tree.structure(changed['batch_stats']) == jax.tree.structure(variables['batch_stats'])


@pytest.mark.slow
def test_paper_setting_stays_within_the_papers_cost():
  model = build_model('echoforge')
  video = jax.ShapeDtypeStruct((1, 10, 256, 256, 1), jnp.float32)
  variables = jax.eval_shape(lambda v: model.init(jax.random.key(0), v), video)
  count = sum(x.size for x in jax.tree.leaves(variables['params']))
  assert 23.5e6 < count <= 67e6
  # A multiply-add counts as two.
  cost = jax.jit(lambda v, x: model.apply(v, x)['logits']).lower(variables, video).cost_analysis()
  assert 100e9 < cost['flops'] <= 125e9
