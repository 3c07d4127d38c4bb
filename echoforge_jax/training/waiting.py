"""How long a device had nothing to do because its next batch was not there."""

from collections.abc import Callable
import time
from typing import Any

import jax


class InputWait:
  """Adds up the time in which the device stood still for want of a batch.

  An upper bound, found without waiting for the device: where the latest step is
  over by the time its successor's batch has come, the whole wait for that batch
  counts.

  Attributes:
    idle: seconds, so far.
  """

  def __init__(self):
    self.idle = 0.0

  def get(self, batch: Callable[[], Any], running: Any) -> Any:
    """Gets a batch.

    Args:
      batch: waits for the next batch and returns it.
      running: arrays that the latest step gives; None before the first, whose
        wait counts for nothing.

    Returns:
      What `batch` gives.
    """
    start = time.perf_counter()
    result = batch()
    waited = time.perf_counter() - start
    if running is not None and all(
      leaf.is_ready() for leaf in jax.tree.leaves(running)
    ):
      self.idle += waited
    return result
