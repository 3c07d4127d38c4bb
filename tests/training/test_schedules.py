"""Schedules against numpy by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.training import schedules


@pytest.mark.parametrize(
  'step, weight, threshold',
  [(0, 0, 0.95), (10, 0, 0.95), (35, 1.0, 0.85), (60, 2.0, 0.75), (100, 2.0, 0.75)],
)
def test_flame_rise_at_its_corners(step, weight, threshold):
  flame_rise = schedules.FlameRise(weight_max=2.0)
  values = flame_rise(jnp.asarray(step), num_steps=100)
  np.testing.assert_allclose(values.weight, weight, atol=1e-6)
  np.testing.assert_allclose(values.threshold, threshold, atol=1e-6)
  np.testing.assert_allclose(values.fraction, step / 100, atol=1e-6)


def test_flame_rise_is_linear_within_an_epoch():
  flame_rise = schedules.FlameRise(start=0.2, end=0.8)
  steps = np.arange(1001)
  wanted = np.interp(steps / 1000, [0.2, 0.8], [0, 1])
  values = flame_rise(jnp.asarray(steps), num_steps=1000)
  np.testing.assert_allclose(values.weight, wanted, atol=1e-6)
  np.testing.assert_allclose(values.threshold, 0.95 - 0.2 * wanted, atol=1e-6)


def test_gaussian_ramp():
  rise = schedules.FlameRise(start=0.2, end=0.7, weight_max=3.0, shape='gaussian')
  steps = np.array([0, 199, 200, 450, 700, 1000])
  values = rise(jnp.asarray(steps), num_steps=1000)
  wanted = [0, 0, 3 * np.exp(-5), 3 * np.exp(-5 / 4), 3, 3]
  np.testing.assert_allclose(values.weight, wanted, rtol=1e-5, atol=1e-6)


def test_flame_rise_may_jump():
  flame_rise = schedules.FlameRise(start=0.5, end=0.5)
  weights = [float(flame_rise(jnp.asarray(s), num_steps=4).weight) for s in range(5)]
  assert weights == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
  'options, text',
  [
    ({'start': 0.7, 'end': 0.6}, 'start <= end'),
    ({'weight_max': -1}, 'weight_max'),
    ({'shape': 'cosine'}, 'linear, gaussian'),
    ({'threshold_end': 0.4}, 'threshold_end'),
  ],
)
def test_flame_rise_refuses(options, text):
  with pytest.raises(ValueError, match=text):
    schedules.FlameRise(**options)


def test_ema_decay_warms_up():
  for step in (0, 1, 8, 90, 10_000):
    np.testing.assert_allclose(
      schedules.ema_decay(jnp.asarray(step), 0.99), min(0.99, (1 + step) / (10 + step)), rtol=1e-6
    )


def test_learning_rate_decays_polynomially():
  schedule = schedules.learning_rate(base=2e-4, num_steps=100)
  steps = np.arange(101)
  np.testing.assert_allclose(
    [schedule(s) for s in steps], 2e-4 * (1 - steps / 100) ** 0.9, rtol=1e-4, atol=1e-12
  )


def test_learning_rate_warms_up_first():
  schedule = schedules.learning_rate(base=1.0, num_steps=110, warmup_steps=10, power=2.0)
  np.testing.assert_allclose(schedule(5), 0.5, rtol=1e-6)
  np.testing.assert_allclose(schedule(10), 1.0, rtol=1e-6)
  np.testing.assert_allclose(schedule(60), 0.25, rtol=1e-6)
  np.testing.assert_allclose(schedule(110), 0.0, atol=1e-9)


def test_learning_rate_refuses_a_warmup_without_end():
  with pytest.raises(ValueError, match='warmup_steps is 10'):
    schedules.learning_rate(base=1.0, num_steps=10, warmup_steps=10)
