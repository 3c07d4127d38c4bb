"""Plans: the real steps compiled, estimates by hand, remedies in order."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import chips, compiled, plan, topology
from echoforge_jax.planning import report as plan_report
from tests.configs import load_config

CHIP = chips.Chip(
  'vX',
  bf16_flops=100.0,
  hbm_bytes=1000,
  hbm_bandwidth=10.0,
  link_bandwidth=2.0,
  dimensions=2,
  wraps_at=16,
  source='none',
)
GIB = 2**30


def get_config(name, arg='', **fields):
  return load_config(name, arg, num_devices=0, **fields)


def program(needed=2 * GIB, fits=True, **fields):
  memory = compiled.Memory(arguments=GIB, outputs=0, temporaries=needed - GIB, code=0)
  return compiled.CompiledStep(
    fits=fits, seconds=1.0, needed=needed, memory=memory if fits else None, **fields
  )


def place(count=8, hbm=4 * GIB, chip=CHIP):
  return topology.Slice('vX:2x4', chip, 'Chip', (2, 4), jax.devices()[:count], hbm)


def test_a_roofline_by_hand():
  found = compiled.estimate(
    program(flops=500.0, num_bytes=30.0, exchanges={'all-reduce': (3, 8), 'all-gather': (1, 4)}),
    CHIP,
    (4, 4),
  )
  # 2 x 8 + 4 bytes over two lines, one link of 2 bytes/s each.
  assert dataclasses.astuple(found) == (5.0, 3.0, 5.0)
  assert (found.alone, found.total) == (5.0, 10.0)
  alone = compiled.estimate(program(flops=10.0, num_bytes=30.0), CHIP, (1, 1))
  assert alone.total == alone.memory == 3.0


@pytest.mark.parametrize(
  'batch, per_chip, wanted, flags',
  [
    ((16, 0), 0, (16, 0), ()),
    ((4, 0), 0, (8, 0), ('--config.batch_size=8',)),
    ((4, 0), 2, (16, 0), ('--config.batch_size=16',)),
    ((16, 0), 2, (16, 0), ()),
    ((6, 2), 0, (6, 2), ()),
    ((3, 3), 2, (8, 8), ('--config.batch_size=8', '--config.unlabeled_batch_size=8')),
    ((99, 1), 1, (7, 1), ('--config.batch_size=7', '--config.unlabeled_batch_size=1')),
  ],
)
def test_the_batch_divides_over_chips(batch, per_chip, wanted, flags):
  config = get_config('tiny', batch_size=batch[0], unlabeled_batch_size=batch[1])
  changed, said = plan.with_clips(config, 8, per_chip)
  assert (changed.batch_size, changed.unlabeled_batch_size) == wanted
  assert said == flags and changed.is_locked
  assert config.batch_size == batch[0]


def test_one_clip_of_two_kinds():
  config = get_config('tiny', batch_size=3, unlabeled_batch_size=2)
  with pytest.raises(InputError, match='--per_chip'):
    plan.with_clips(config, 1, 1)


def test_bytes_of_shares():
  mesh = mesh_lib.make_mesh(8, 4)
  tree = {'whole': jnp.zeros((3, 5)), 'shared': jnp.zeros((64, 128)), 'key': jax.random.key(0)}
  shapes = jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    tree,
    mesh_lib.state_sharding(tree, mesh),
  )
  assert plan.bytes_on_a_chip(shapes) == 4 * 15 + 4 * 64 * 128 // 4 + 8


def test_the_largest_batch():
  # 1 GiB of state and 0.5 GiB for each of two clips, of 4 GiB.
  assert plan.largest_batch(program(), GIB, 4 * GIB, 2) == 6
  assert plan.largest_batch(program(), GIB, 2 * GIB, 2) == 2
  assert plan.largest_batch(program(), GIB, 0, 2) == 0
  assert plan.largest_batch(program(fits=False), GIB, 4 * GIB, 2) == 0


class Compiler:
  """Stands for the compiler: a step fits where `fits(config)` says so."""

  def __init__(self, fits):
    self.tried, self._fits = [], fits

  def __call__(self, config):
    self.tried.append((config.model.remat, config.fsdp, config.batch_size))
    fits = self._fits(config)
    return program(needed=3 * GIB if fits else 8 * GIB, fits=fits)


def make_plan(remedies):
  return plan.Plan(
    place=place(),
    chips=8,
    clips_per_chip=4,
    flags=(),
    train=program(needed=8 * GIB, fits=False),
    segment=program(flops=1.0),
    state_bytes=GIB,
    gradient_bytes=GIB // 4,
    largest=0,
    remedies=tuple(remedies),
  )


@pytest.mark.parametrize(
  'fits, tried, flags',
  [
    (lambda c: c.model.remat, [(False, 1, 32), (True, 1, 32)], '--config.model.remat=True'),
    (
      lambda c: c.fsdp == 8,
      [(False, 1, 32), (True, 1, 32), (True, 8, 32)],
      '--config.model.remat=True --config.fsdp=8',
    ),
    (
      lambda c: c.batch_size <= 8,
      [(False, 1, 32), (True, 1, 32), (True, 8, 32), (True, 1, 16), (True, 1, 8)],
      '--config.model.remat=True --config.batch_size=8',
    ),
  ],
)
def test_remedies_are_tried_in_order(fits, tried, flags):
  compiler = Compiler(fits)
  config = get_config('tiny', batch_size=32)
  # 4 GiB too much; a divided state may save as much, with remat on top.
  found = list(plan.try_remedies(config, 8, compiler, excess=4 * GIB, state_bytes=GIB))
  assert compiler.tried == tried[1:]
  assert found[-1].fits and ' '.join(found[-1].flags) == flags
  said = plan_report.text(make_plan(found))
  assert f'this fits (3.00 GiB): {flags}' in said
  assert 'does not fit' in plan_report.table([make_plan(found)])


def test_what_cannot_save_enough_is_not_tried():
  # 4 GiB too much; dividing a state of 1 GiB cannot help.
  config = get_config('tiny', batch_size=16)
  with config.unlocked():
    config.model.remat = True
  compiler = Compiler(lambda config: config.batch_size < 16)
  options = {'excess': 4 * GIB, 'state_bytes': GIB}
  found = list(plan.try_remedies(config, 8, compiler, **options))
  assert [one.fits for one in found] == [None, True]
  assert len(compiler.tried) == 1
  none = list(plan.try_remedies(config, 8, Compiler(lambda config: False), **options))
  assert 'nothing tried fits' in plan_report.text(make_plan(none))


def test_too_large_is_an_answer(libtpu):
  device = topology.get_slice('v5e:2x2').devices[0]
  huge = jax.ShapeDtypeStruct(
    (2**20, 2**20), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device)
  )
  found = compiled.compile_step(jax.jit(lambda x: x * 2), huge, platform='tpu')
  assert not found.fits and found.needed >= 4 * 2**40
  assert 'HBM' in found.message


def test_devices_whose_compiler_refuses_nothing():
  here = dataclasses.replace(place(1), hbm=1000)
  step = jax.jit(lambda x: x + 1)
  for size, fits in ((16, True), (1024, False)):
    found = plan._compile(here, step, jax.ShapeDtypeStruct((size,), 'float32'))
    assert found.fits is fits
  assert 'has 1,000 bytes' in found.message and found.needed >= 8192


@pytest.mark.slow
def test_chips_that_are_not_here(libtpu):
  found = plan.make_plan(get_config('tiny', 'baseline'), topology.get_slice('v5e:2x2'))
  assert (found.chips, found.clips_per_chip) == (4, 1)
  assert found.flags == ('--config.batch_size=4',)
  assert found.train.fits and found.segment.fits
  # A chip holds the whole state; gradients are summed and little else.
  memory = found.train.memory
  assert 4 * found.gradient_bytes <= found.state_bytes <= memory.arguments
  assert set(found.train.exchanges) == {'all-reduce'}
  assert 1 <= found.train.exchanged / found.gradient_bytes < 1.1
  # Both views of four frames, forward and backward, against one frame.
  assert found.train.flops > 8 * found.segment.flops > 0
  assert found.train.cycles > found.segment.cycles > 0
  # All arguments are read at least once.
  assert found.train.num_bytes > memory.arguments
  assert found.clips_per_second == pytest.approx(4 / found.estimate.total)
  assert found.largest > 100
  said = plan_report.text(found)
  assert 'fits: ' in said and 'cloud.google.com/tpu/docs/v5e' in said
  head, rule, row = plan_report.table([found]).splitlines()
  assert row.startswith('| v5e:2x2 | 4 | 4 | ')
  assert head.count('|') == rule.count('|') == row.count('|')
  written = json.loads(json.dumps(plan_report.to_json(found)))
  assert written['train']['needed'] == memory.total
  assert written['train']['estimate_seconds']['total'] == found.estimate.total
