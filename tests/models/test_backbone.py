import jax
import jax.numpy as jnp
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.models import backbone


def _shapes(kind, **options):
  options = {'norm': 'batch', 'remat': False, 'dtype': jnp.float32} | options
  module = backbone.make_backbone(kind, **options)
  video = jax.ShapeDtypeStruct((2, 64, 96, 1), jnp.float32)
  return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, False), video)


def _count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


# torchvision's counts less the classifier and two of the stem's channels.
@pytest.mark.parametrize(
  'kind, channels, parameters',
  [
    ('resnet18', (64, 128, 256, 512), 11_689_512 - 513_000 - 6_272),
    ('resnet34', (64, 128, 256, 512), 21_797_672 - 513_000 - 6_272),
    ('resnet50', (256, 512, 1024, 2048), 25_557_032 - 2_049_000 - 6_272),
  ],
)
def test_residual_networks_are_torchvisions(kind, channels, parameters):
  outputs, variables = _shapes(kind)
  assert [x.shape for x in outputs] == [
    (2, 64 // s, 96 // s, c) for s, c in zip(backbone.STRIDES, channels)
  ]
  assert _count(variables['params']) == parameters


def test_bottleneck_strides_in_its_3x3():
  params = _shapes('resnet50')[1]['params']
  block = params['layer2_0']
  assert block['conv2']['kernel'].shape == (3, 3, 128, 128)
  assert block['downsample_conv']['kernel'].shape == (1, 1, 256, 512)
  module = backbone.Bottleneck(8, 2, 'frozen', False, jnp.float32)
  shapes = jax.eval_shape(
    lambda: module.init_with_output(
      jax.random.key(0), jnp.zeros((1, 4, 4, 32)), capture_intermediates=True
    )[1]
  )['intermediates']
  sides = {name: value['__call__'][0].shape[1] for name, value in shapes.items() if 'conv' in name}
  # The first 1x1 never strides.
  assert sides == {'conv1': 4, 'conv2': 2, 'conv3': 2, 'downsample_conv': 2}


def test_lite_shapes():
  outputs, variables = _shapes('lite', norm='group')
  assert [x.shape[1:] for x in outputs] == [(16, 24, 32), (8, 12, 64), (4, 6, 128), (2, 3, 128)]
  assert 'batch_stats' not in variables
  assert 0.5e6 < _count(variables['params']) < 1.5e6


@pytest.mark.slow
def test_remat_changes_neither_names_nor_results(fill):
  plain = backbone.LiteEncoder(widths=(16, 16), norm='batch')
  remat = backbone.LiteEncoder(widths=(16, 16), norm='batch', remat=True)
  x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 1))
  variables = fill(plain, x, train=False)

  def gradient(module):
    return jax.jit(
      jax.grad(lambda p: (module.apply(variables | {'params': p}, x, False)[0] ** 2).sum())
    )(variables['params'])

  left, right = gradient(plain), gradient(remat)
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right)):
    assert jnp.allclose(a, b, rtol=1e-3, atol=1e-4)


def test_unknown_backbone_lists_the_choices():
  with pytest.raises(InputError, match='vgg.*resnet18.*lite'):
    _shapes('vgg')
