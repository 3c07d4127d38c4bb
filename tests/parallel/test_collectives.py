"""Collectives, read from the text of compiled programs."""

import pytest

from echoforge_jax.parallel.collectives import (
  Collective,
  find_collectives,
  total_bytes,
)


@pytest.mark.parametrize('line, wanted', [
    ('  %a = f32[8,4]{1,0} all-reduce(%x), channel_id=1, '
     'replica_groups={{0,1,2,3}}, to_apply=%add',
     Collective('all-reduce', 1, 128, 4)),
    ('  %b = (f32[2]{0}, bf16[8]{0}, /*index=5*/f32[]) all-reduce(%x, %y, '
     "/*index=5*/%z), replica_groups=mesh['a'=2,'b'=4] {'a','b'}",
     Collective('all-reduce', 3, 28, 8)),
    ("  %c = pred[] all-reduce(%x), replica_groups=mesh['a'=2,'b'=4], "
     "device_ids=([2,4]T(1,0)) {'b'}", Collective('all-reduce', 1, 1, 4)),
    ('  %d = f32[16]{0} reduce-scatter(%x), replica_groups=[2,4]<=[8]',
     Collective('reduce-scatter', 1, 256, 4)),
    ('  %e = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), '
     'replica_groups=[1,8]<=[8]', Collective('all-gather', 1, 128, 8)),
    ('  %f = ((f32[4]{0}, f32[2]{0}), (f32[32]{0}, f32[16]{0})) '
     'all-gather-start(%x, %y), replica_groups=[1,8]<=[8]',
     Collective('all-gather', 2, 192, 8)),
    ('  %g = (u8[4]{0}, u8[4]{0}, u32[], u32[]) collective-permute-start(%x)',
     Collective('collective-permute', 1, 4, 0)),
])
def test_an_instruction(line, wanted):
  assert find_collectives(line) == [wanted]


@pytest.mark.parametrize('line', [
    '  %h = f32[32]{0} all-gather-done(%e)',
    '  %i = f32[8]{0} fusion(%all-reduce.3), kind=kLoop',
    '  ROOT %add = f32[] add(%x, %y)'])
def test_what_is_no_collective(line):
  assert not find_collectives(line)


def test_bytes_add_up_by_kind():
  assert total_bytes([Collective('all-reduce', 1, 3, 8),
                      Collective('all-gather', 1, 5, 8),
                      Collective('all-reduce', 2, 4, 8)]) == {
                          'all-reduce': 7, 'all-gather': 5}
