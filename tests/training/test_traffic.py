"""What devices exchange in a step of EchoForge: no more than needed."""

import jax
import pytest

from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import collectives
from tests.configs import load_config
from tests.training import discs
from tests.training.compiled import compile_step


def traffic(fsdp):
  """Bytes of parameters, and kind -> bytes that EchoForge's step exchanges."""
  _, state, step = compile_step(
    load_config('tiny', batch_size=8),
    None,
    mesh_lib.make_mesh(8, fsdp),
    next(discs.disc_iterator(batch=8)),
  )
  return sum(4 * leaf.size for leaf in jax.tree.leaves(state.params)), {
    kind: size for kind, (_, size) in collectives.find_exchanges(step.as_text()).items()
  }


@pytest.mark.slow
def test_devices_exchange_gradients_and_little_else():
  parameters, totals = traffic(1)
  # The sums of batch norm, of CPR's references and of the losses are small:
  # nothing the size of a batch's features ever leaves a device.
  assert set(totals) == {'all-reduce'}
  assert parameters <= totals['all-reduce'] <= 1.1 * parameters


@pytest.mark.slow
def test_shares_are_gathered_once_a_network():
  parameters, totals = traffic(4)
  assert set(totals) <= {'all-reduce', 'all-gather', 'reduce-scatter'}
  # Student and teacher.
  assert totals['all-gather'] <= 2 * 1.1 * parameters
  # Whole within the group that shares a copy, a share of it across groups.
  assert totals['all-reduce'] + totals.get('reduce-scatter', 0) <= (1.1 * (1 + 1 / 4) * parameters)
