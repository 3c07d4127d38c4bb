"""Waiting for a batch counts where the device had nothing else to do."""

import time

from echoforge_jax.training import waiting


class Result:
  """Stands for what a step gives: over already, or not."""

  def __init__(self, over):
    self._over = over

  def is_ready(self):
    return self._over


def test_only_a_wait_that_the_device_felt_counts():
  def slow():
    time.sleep(0.02)
    return 'batch'

  wait = waiting.InputWait()
  assert wait.get(slow, None) == 'batch'  # Before the first step.
  assert wait.get(slow, {'loss': Result(False)}) == 'batch'
  # A part of a step is not over: the device is busy.
  wait.get(slow, {'loss': Result(True), 'dice': Result(False)})
  assert wait.idle == 0
  wait.get(slow, {'loss': Result(True), 'dice': Result(True)})
  assert wait.idle >= 0.02
