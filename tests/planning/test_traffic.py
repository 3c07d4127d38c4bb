"""Memory traffic, read from lines as a TPU's compiler writes them."""

import pytest

from echoforge_jax.planning import traffic

# 1024 float32 are 4096 bytes; S(1) is on the chip.
_HEAD = """HloModule jit_f, is_scheduled=true

%fused (p: f32[1024]) -> f32[1024] {
  %p = f32[1024]{0:T(1024)} parameter(0)
  ROOT %n = f32[1024]{0:T(1024)} negate(%p)
}

%one (q: f32[1024]) -> f32[1024] {
  %q = f32[1024]{0:T(1024)} parameter(0)
  ROOT %m = f32[1024]{0:T(1024)S(1)} negate(%q), backend_config={"estimated_cycles":"7"}
}

%never (q: f32[1024]) -> f32[1024] {
  %q = f32[1024]{0:T(1024)} parameter(0)
  ROOT %m = f32[1024]{0:T(1024)} negate(%q)
}

ENTRY %main (a: f32[1024], b: bf16[1024]) -> f32[1024] {
  %a = f32[1024]{0:T(1024)} parameter(0)
  %c = f32[1024]{0:T(1024)S(1)} parameter(1)
"""  # noqa: E501


@pytest.mark.parametrize(
  'line, wanted',
  [
    # Reads and writes; only reads; only writes; neither.
    ('%x = f32[1024]{0:T(1024)} fusion(%a), kind=kLoop, calls=%fused', 8192),
    ('%x = f32[1024]{0:T(1024)S(1)} fusion(%a, %c), kind=kLoop', 4096),
    ('%x = f32[1024]{0:T(1024)} fusion(%c), kind=kLoop, calls=%fused', 4096),
    ('%x = f32[1024]{0:T(1024)S(1)} fusion(%c), kind=kLoop', 0),
    ('%x = (f32[1024]{0:T(1024)}, bf16[512]{0:T(512)(2,1)}) fusion(%c)', 5120),
    ('%x = f32[1024]{0:T(1024)} bitcast(%a)', 0),
    # Into the chip: read once; a slice reads only itself.
    ('%x = (f32[1024]{0:T(1024)S(1)}, f32[1024]{0:T(1024)}, u32[]{:S(2)}) copy-start(%a)', 4096),
    (
      '%x = ((f32[1024]{0:T(1024)}), f32[128]{0:T(128)S(1)}, s32[]{:S(2)}) '
      'slice-start(%a), slice={[0:128]}',
      512,
    ),
    ('%x = f32[1024]{0:T(1024)} custom-call(), custom_call_target="AllocateBuffer"', 0),
    # What a branch does counts, what nothing calls does not.
    (
      '%x = f32[1024]{0:T(1024)} conditional(%a, %a), branch_computations={%one}, metadata={}',
      4096,
    ),
    ('%x = f32[1024]{0:T(1024)} while(%a), condition=%cond, body=%one', 4096),
  ],
)
def test_an_instruction(line, wanted):
  assert traffic.hbm_bytes(f'{_HEAD}  {line}\n}}\n') == wanted


def test_cycles_add_up():
  line = (
    '  %x = f32[1]{{0}} fusion(%a), backend_config='
    '{{"window_config":{{"estimated_cycles":"{}"}}}}\n'
  )
  call = '  %y = f32[1]{0} call(%a), to_apply=%one\n'
  text = _HEAD + line.format(30) + line.format(5) + call + '}\n'
  assert traffic.cycles(text) == 42
  assert traffic.cycles(_HEAD + '}\n') == 0
