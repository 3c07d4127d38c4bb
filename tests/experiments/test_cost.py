"""Operations and parameters against a count by hand."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from echoforge_jax.experiments import cost


class Convolution(nn.Module):
  """One 3x3 convolution of every frame, four channels to one logit."""

  @nn.compact
  def __call__(self, video, train=False):
    x = nn.Conv(4, (3, 3), use_bias=False, name='first')(video)
    return {'logits': nn.Dense(1, use_bias=False, name='last')(x)}


def test_counts_by_hand():
  found = cost.measure_model(Convolution(), frames=3, image_size=64, repeats=2)
  assert found.parameters == {'first': 36, 'last': 4}
  assert found.total_parameters == 40
  # A multiply-add counts two; at the borders taps are missing.
  exact = 2 * 3 * 64 * 64 * (36 + 4) / 1e9
  assert 0.9 * exact < found.gflop < 1.1 * exact
  low, high = found.spread
  assert 0 < low <= found.frames_per_second <= high
  assert '| it | 0.00 | 0.0 | ' in cost.markdown({'it': found})


def test_counting_alone_times_nothing():
  found = cost.measure_model(Convolution(), frames=1, image_size=32, repeats=0)
  assert found.frames_per_second != found.frames_per_second


def test_operations_are_counted_where_the_device_does_not_say():
  lowered = jax.jit(lambda x: x @ x).lower(jnp.ones((64, 32, 32)))

  class Accelerator:
    """A program of a device whose compiler counts nothing."""

    compiler_ir = lowered.compiler_ir

    def cost_analysis(self):
      return None

  assert cost.count_flops(lowered) == 64 * 2 * 32**3
  assert cost.count_flops(Accelerator()) == cost.count_flops(lowered)
