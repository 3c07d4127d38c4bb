"""Where time goes: names, kinds and shares; no timings."""

import json

import jax
import pytest

from benchmarks.speed import profile
from echoforge_jax.__main__ import main
from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%inside (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %c.2 = f32[8,8]{1,0} convolution(%p, %p), metadata={op_name="jit(step)/transpose(jvp(Net))/backbone/conv2/conv_general_dilated"}
}

%moved (q: f32[8]) -> f32[8] {
  %q = f32[8]{0} parameter(0)
  ROOT %copy.9 = f32[8]{0} copy(%q)
}

ENTRY %main (a: f32[8,8]) -> (f32[8,8], f32[]) {
  %a = f32[8,8]{1,0:T(8,128)} parameter(0)
  %fusion.1 = f32[8,8]{1,0} fusion(%a), kind=kOutput, calls=%inside
  %copy_fusion = f32[8]{0} fusion(%a), kind=kLoop, calls=%moved
  %cublas.3 = (f32[8,8]{1,0}, s8[4]{0}) custom-call(%a), custom_call_target="__cublas$gemm", metadata={op_name="jit(step)/jvp(Net)/head/dot_general" source_line=3}
  %all-reduce-start.1 = f32[8]{0} all-reduce-start(%a), to_apply=%sum
  %while.1 = (f32[8]{0}, s32[]) while(%t), condition=%x, body=%y
  ROOT %out = (f32[8,8], f32[]) tuple(%fusion.1, %reduce.1)
}
"""  # noqa: E501


def event(name, start, end):
  return profile.Event(name, start, end)


def test_programs_are_read():
  known = profile.instructions(PROGRAM)
  # Where a fusion is from stands inside.
  assert known['fusion.1'] == profile.Instruction(
    'fusion', 'convolution fusion', 'backbone/conv2', True
  )
  assert known['copy_fusion'] == profile.Instruction(
    'fusion', 'copy', '', False
  )
  assert known['cublas.3'] == profile.Instruction(
    'custom-call', 'matrix product', 'head', False
  )
  assert known['all-reduce-start.1'].kind == 'collective'


@pytest.mark.parametrize(
  'source, modules, backward',
  [
    (
      'jit(step)/EchoForge/backbone/layer1_0/conv1/conv_general_dilated',
      'backbone/layer1_0/conv1',
      False,
    ),
    (
      'jit(step)/transpose(jvp(SSCF))/SSCF._segment/fusion1/out/dot_general',
      'fusion1/out',
      True,
    ),
    ('jit(step)/jvp(Net)/norm/jit(relu)/max', 'norm', False),
    (
      'jit(step)/jit(main)/cond/branch_1_fun/tsf/softmax/exp',
      'cond/tsf/softmax',
      False,
    ),
    ('jit(step)/add', 'add', False),
  ],
)
def test_where_in_the_model(source, modules, backward):
  assert profile.where(source) == (modules, backward)


def test_operations_that_were_joined():
  joined = (
    'jit(step)/transpose(jvp(Net))/(Net._trunk/arc/norm/reduce_sum:'
    'Net._trunk/arc/norm/reduce_sum:Net._trunk/tsf/ffn/dot_general:'
    'jvp()/reduce_sum)'
  )
  assert profile.origins(joined)[2] == (
    'jit(step)/transpose(jvp(Net))/Net._trunk/tsf/ffn/dot_general'
  )
  known = profile.instructions(
    'ENTRY %main {\n  %all-reduce.1 = (f32[8], f32[8], f32[4], f32[]) '
    'all-reduce(%a, %b, %c, %d), to_apply=%sum, metadata={op_name="'
    + joined
    + '"}\n}'
  )
  assert known['all-reduce.1'] == profile.Instruction(
    'all-reduce', 'collective', 'arc/norm', True, others=2
  )
  alone = 'jit(step)/transpose(jvp(Net))/arc/norm/reduce_sum'
  assert profile.origins(alone) == [alone]
  assert profile.origins('(jit(f)/a/add:jit(f)/b/add)') == [
    'jit(f)/a/add',
    'jit(f)/b/add',
  ]


def test_time_is_divided_between_what_runs_at_once():
  spent, idle = profile.shares(
    [event('a', 0, 40), event('b', 20, 40), event('a', 60, 80)], 1e-7
  )
  assert spent == pytest.approx({'a': 0.5, 'b': 0.1})
  assert idle == pytest.approx(0.4)
  # Clocks that disagree do not make a share above one.
  spent, idle = profile.shares([event('a', 0, 300)], 1e-7)
  assert spent == {'a': 1} and idle == 0


def test_devices_are_averaged_and_containers_do_not_count():
  found = profile.summarise(
    [
      [event('fusion.1', 0, 50), event('while.1', 0, 100)],
      [
        event('fusion.1', 0, 30),
        event('cublas.3', 30, 50),
        event('of another program', 50, 100),
      ],
    ],
    profile.instructions(PROGRAM),
    1e-7,
    repeats=2,
  )
  first, second = found['operations']
  assert (first['op'], first['calls'], second['op']) == (
    'fusion.1',
    0.5,
    'cublas.3',
  )
  assert first['share'] == pytest.approx(0.4)
  assert first['ms'] == pytest.approx(20e-6)
  assert found['uncovered'] == pytest.approx(0.5)
  assert list(found['kinds']) == ['convolution fusion', 'matrix product']


@pytest.mark.slow
def test_training_step_of_a_config(tmp_path, capsys):
  out, trace = tmp_path / 'profile.jsonl', tmp_path / 'trace'
  flags = [
    'bench',
    'profile',
    '--config=configs/tiny.py:baseline',
    '--config.num_devices=1',
    '--repeats=2',
    '--top=6',
    f'--json={out}',
    f'--trace={trace}',
  ]
  assert main(flags) == 0
  printed = capsys.readouterr().out
  assert 'train of tiny.py:baseline: batch 2' in printed
  assert 'no operation ran in' in printed
  assert list(trace.rglob('*.xplane.pb'))
  step, *rows = [json.loads(row) for row in out.read_text().splitlines()]
  assert len(rows) == 6 and step['step_ms'] > 0
  for key in ('kinds', 'parts'):
    assert sum(step[key].values()) + step['uncovered'] == pytest.approx(1)
  assert {'backbone', 'backbone gradient'} <= set(step['parts'])
  assert 0 <= step['uncovered'] < 0.9
  shares = [row['share'] for row in rows]
  assert shares == sorted(shares, reverse=True) and shares[0] > 0.005
  assert {'convolution', 'matrix product fusion'} & set(step['kinds']) or any(
    kind.startswith('convolution') for kind in step['kinds']
  )
  assert any(row['where'].startswith('backbone/') for row in rows)
  assert all(row['calls'] >= 1 for row in rows)
  assert main(flags) == 2
  assert 'found a trace in it already' in capsys.readouterr().err


def test_stream_and_forward():
  config = parse_config(
    ['--config=configs/tiny.py:baseline', '--config.num_devices=1']
  )
  for target in ('forward', 'stream'):
    found = profile.measure(config, name='x', target=target, repeats=1)
    assert any(
      one['where'].startswith('backbone/') for one in found['operations']
    )
    assert {one['pass'] for one in found['operations']} == {'forward'}
    assert sum(one['share'] for one in found['operations']) + (
      found['uncovered']
    ) == pytest.approx(1)
  with pytest.raises(InputError, match="'warp', wanted one of train"):
    profile.measure(config, name='x', target='warp')


def test_a_jax_that_cannot_read_traces(monkeypatch, tmp_path):
  with pytest.raises(InputError, match='no operation of any device'):
    profile.read_trace(tmp_path)
  monkeypatch.delattr(jax.profiler, 'ProfileData')
  with pytest.raises(InputError, match='install jax'):
    profile.read_trace(tmp_path)
