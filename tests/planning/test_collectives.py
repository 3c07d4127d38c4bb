"""Collectives, read from the text of compiled programs."""

import pytest

from echoforge_jax.planning.collectives import find_exchanges


@pytest.mark.parametrize(
  'line, wanted',
  [
    (
      '  %a = f32[8,4]{1,0} all-reduce(%x), channel_id=1, '
      'replica_groups={{0,1,2,3}}, to_apply=%add',
      {'all-reduce': (1, 128)},
    ),
    (
      '  %b = (f32[2]{0}, bf16[8]{0}, /*index=5*/f32[]) all-reduce(%x, %y, '
      "/*index=5*/%z), replica_groups=mesh['a'=2,'b'=4] {'a','b'}",
      {'all-reduce': (1, 28)},
    ),
    (
      "  %c = pred[] all-reduce(%x), replica_groups=mesh['a'=2,'b'=4], "
      "device_ids=([2,4]T(1,0)) {'b'}",
      {'all-reduce': (1, 1)},
    ),
    (
      '  %d = f32[16]{0} reduce-scatter(%x), replica_groups=[2,4]<=[8]',
      {'reduce-scatter': (1, 256)},
    ),
    (
      '  %e = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), replica_groups=[1,8]<=[8]',
      {'all-gather': (1, 128)},
    ),
    (
      '  %f = ((f32[4]{0}, f32[2]{0}), (f32[32]{0}, f32[16]{0})) '
      'all-gather-start(%x, %y), replica_groups=[1,8]<=[8]',
      {'all-gather': (1, 192)},
    ),
    (
      '  %g = (u8[4]{0}, u8[4]{0}, u32[], u32[]) collective-permute-start(%x)',
      {'collective-permute': (1, 4)},
    ),
    # A TPU's: tiles, memory spaces, meshes of five axes.
    (
      '  %h = (f32[4,4,16]{2,1,0:T(4,128)S(1)}, f32[]{:T(128)}) all-reduce(%x, '
      "%y), channel_id=3, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2]"
      " {'axis_0','axis_1'}, use_global_device_ids=true, to_apply=%add",
      {'all-reduce': (1, 1028)},
    ),
    (
      '  %i = bf16[3,3,16,32]{2,3,1,0:T(8,128)(2,1)S(1)} all-gather(%x), '
      "channel_id=1, replica_groups=mesh['axis_0'=1,'axis_1'=4] {'axis_1'}, "
      'dimensions={3}',
      {'all-gather': (1, 9216)},
    ),
  ],
)
def test_an_instruction(line, wanted):
  assert find_exchanges(line) == wanted


@pytest.mark.parametrize(
  'line',
  [
    '  %h = f32[32]{0} all-gather-done(%e)',
    '  %i = f32[8]{0} fusion(%all-reduce.3), kind=kLoop',
    '  ROOT %add = f32[] add(%x, %y)',
  ],
)
def test_what_is_no_collective(line):
  assert not find_exchanges(line)


def test_one_channel_is_one_collective():
  # A TPU's all-gather in three fusions: begun, under way, done.
  line = '%a.{} = f32[8]{{0}} {}(%x), channel_id={}'
  text = '\n'.join(
    line.format(n, kind, channel)
    for n, (kind, channel) in enumerate(
      [
        ('all-gather', 1),
        ('all-gather', 1),
        ('all-gather', 2),
        ('all-reduce', 1),
        ('all-gather', 1),
      ]
    )
  )
  assert find_exchanges(text) == {'all-gather': (2, 64), 'all-reduce': (1, 32)}


@pytest.mark.parametrize(
  'groups, devices',
  [
    ('{{0,1,2,3}}', 4),
    ('[2,4]<=[8]', 4),
    ("mesh['a'=2,'b'=4] {'a','b'}", 8),
    ("mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'b'}", 4),
  ],
)
def test_a_reduce_scatter_counts_all_shares(groups, devices):
  line = f'  %a = f32[2]{{0}} reduce-scatter(%x), replica_groups={groups}'
  assert find_exchanges(line) == {'reduce-scatter': (1, 8 * devices)}
