"""Speed of every part: what is measured, written and said; no timings."""

import contextlib
import importlib.util
import json
import sys

import jax
import numpy as np
import pytest

from benchmarks.speed import host, parts, report, speed, timing, training
from benchmarks.speed.__main__ import main
from echoforge_jax.clip import IGNORE, Clip
from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError
from echoforge_jax.metrics import surface
from echoforge_jax.phantom import patient, stream

FIELDS = {
  'part',
  'skipped',
  'unit',
  'compile_s',
  'repeats',
  'calls_per_repeat',
  'median',
  'min',
  'max',
  'p25',
  'p75',
  'values',
  'others',
  'config',
  'overrides',
  'batch',
  'frames',
  'image_size',
  'dtype',
  'device',
  'devices',
  'cpus',
  'load_average',
  'versions',
  'git_revision',
  'xla_flags',
  'seconds',
}
COMPILED = {
  'ceiling',
  'forward',
  'forward_plain',
  'trunk',
  'trunk_decoder',
  'stream',
  'latency',
  'train',
  'train_supervised',
  'trunk_train',
  'starvation',
  'phantom',
}
UNITS = {
  'ceiling': 'GFLOP/s',
  'forward': 'frames/s',
  'forward_plain': 'frames/s',
  'trunk': 'frames/s',
  'trunk_decoder': 'frames/s',
  'stream': 'ms',
  'latency': 'ms',
  'train': 'clips/s',
  'train_supervised': 'clips/s',
  'trunk_train': 'frames/s',
  'input': 'clips/s',
  'starvation': 'clips/s',
  'phantom': 'frames/s',
  'metrics': 'frames/s',
  'checkpoint': 's',
  'torch_trunk': 'frames/s',
  'torch_trunk_train': 'frames/s',
  'torch_sscf': 'frames/s',
}


@contextlib.contextmanager
def small_and_quick():
  """Small ceilings, single calls, and programs that compile quickly."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parts, '_CPU_MATMUL', 32)
    patch.setattr(parts, '_CPU_CONVOLUTION', (1, 8, 8))
    patch.setattr(timing, 'MIN_SECONDS', 0.0)
    patch.setattr(timing, 'WARM_UP', 1)
    yield


def bench_speed(capsys, *flags, config='configs/tiny.py'):
  """Runs the command and returns what it printed."""
  with small_and_quick():
    assert main([f'--config={config}', '--repeats=1', '--config.num_devices=1', *flags]) == 0
  return capsys.readouterr().out


def no_constant(name):
  raise AssertionError(f'{name} is no strict JSON')


def read_strict(path):
  return [json.loads(row, parse_constant=no_constant) for row in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
  """Lines and text of one run of all parts."""
  out = tmp_path_factory.mktemp('speed') / 'speed.jsonl'
  # Of all that have a teacher it compiles fastest.
  config = parse_config(['--config=configs/tiny.py:mean_teacher'])

  # The real phantoms take long to compile.
  def jitted(batch, frames, side, config):
    return jax.jit(lambda key: {'video': jax.random.uniform(key, (batch, frames, side, side, 1))})

  def generate(seed, index):
    clip = Clip(
      'p', '4CH', *2 * [host.ellipses(32, 9)], np.ones(9, bool), 0, 8, np.ones(2, np.float32)
    )
    return patient.Patient({'4CH': clip}, 1.0, 1.0, 0.0, 'mild', 'F', 50)

  with small_and_quick(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(patient, 'generate_patient', generate)
    patch.setattr(stream, 'jitted', jitted)
    lines = speed.measure(
      config, name='tiny.py', repeats=1, on_line=lambda line: report.append(line, out)
    )
  return read_strict(out), report.table(lines), out


@pytest.mark.slow
def test_every_part_gives_one_strict_line(whole_run):
  lines, _, _ = whole_run
  assert [line['part'] for line in lines] == list(speed.PARTS) == list(UNITS)
  for line in lines:
    assert set(line) == FIELDS, line['part']
    assert line['config'] == 'tiny.py' and line['batch'] == 2
    assert (line['frames'], line['image_size']) == (4, 32)
    assert line['dtype'] == 'float32' and line['devices'] == 1
    assert line['device'].startswith('cpu') and line['seconds'] > 0
    assert len(line['load_average']) == 3
    assert line['versions']['jax'] == jax.__version__
    if line['skipped']:
      assert line['part'].startswith('torch_') and line['median'] is None
      continue
    assert line['unit'] == UNITS[line['part']]
    for one in (line, *line['others'].values()):
      assert 0 < one['min'] <= one['p25'] <= one['median']
      assert one['median'] <= one['p75'] <= one['max']
    assert (line['compile_s'] > 0) == (line['part'] in COMPILED), line['part']


@pytest.mark.slow
def test_parts_are_put_in_relation(whole_run):
  values = {line['part']: line['values'] for line in whole_run[0]}
  lines = {line['part']: line for line in whole_run[0]}
  assert values['forward']['gflop_a_call'] > values['trunk']['gflop_a_call']
  assert values['forward']['share_of_ceiling'] > 0
  assert values['trunk']['forward_time_over_this'] == pytest.approx(
    lines['trunk']['median'] / lines['forward']['median']
  )
  assert values['trunk_decoder']['forward_time_over_this'] > 0
  assert lines['stream']['repeats'] == parts.STEPS_A_REPEAT
  stream = values['stream']
  assert 0 < stream['p50'] <= stream['p95'] <= stream['p99']
  # The teacher, which does nothing early in training, is part of the step.
  assert values['train']['objective'] == 'mean_teacher'
  assert values['train']['unsupervised_weight'] > 5
  assert values['train']['time_over_forward'] > 0
  assert values['train']['time_over_forward_plain'] == pytest.approx(
    values['train']['step_s']
    * lines['forward_plain']['median']
    / (lines['forward_plain']['batch'] * lines['forward_plain']['frames'])
  )
  assert values['train']['memory_mb'] > values['forward']['memory_mb'] > 0
  assert values['train_supervised']['objective'] == 'supervised'
  assert (
    values['train']['gflop_a_call']
    > values['train_supervised']['gflop_a_call']
    > 2 * values['forward']['gflop_a_call']
  )
  assert 0 <= values['starvation']['idle_share'] <= 1
  assert values['input']['first_batch_s'] > 0
  assert set(lines['input']['others']) == {'every clip read anew', 'views on the device'}
  assert lines['input']['others']['views on the device']['compile_s'] > 0
  assert set(lines['phantom']['others']) == {'patient'}
  assert set(lines['metrics']['others']) == {'dice', 'hd, hd95 and asd'}
  assert 'restore' in lines['checkpoint']['others']
  assert values['checkpoint']['state_mb'] > 0


@pytest.mark.slow
def test_table_has_every_part(whole_run):
  lines, text, _ = whole_run
  for name in (
    *speed.PARTS,
    'ceiling: convolution float32',
    'phantom: patient',
    'checkpoint: restore',
  ):
    assert any(row.startswith(f'  {name}  ') for row in text.splitlines()), name
  assert 'batch 2, 4 frames of 32x32, float32' in text
  assert 'share of ceiling' in text and 'compile s' in text
  assert 'torch_sscf: skipped: the model is echoforge' in text


def test_one_frame_is_a_clip_to_the_model_and_none_is_not():
  def bench(frames):
    config = parse_config(['--config=configs/tiny.py', f'--config.data.num_frames={frames}'])
    return parts.Bench(config, 1)

  assert bench(1).video.shape[1] == 1
  with pytest.raises(InputError, match='num_frames is 0'):
    bench(0)
  with pytest.raises(InputError, match='num_frames is 1'):
    training.train(bench(1))


def test_command_appends_compares_and_keeps_going(tmp_path, capsys):
  out = tmp_path / 'out.jsonl'
  flags = ['--parts=metrics,trunk', f'--json={out}', f'--config.data.image_size={32}']
  config = 'configs/phantom_sscf_lite.py:supervised'
  printed = bench_speed(capsys, *flags, config=config)
  assert 'skipped: the model sscf has no backbone' in printed
  old = read_strict(out)
  assert [line['part'] for line in old] == ['trunk', 'metrics']
  assert old[1]['config'] == 'phantom_sscf_lite.py:supervised'
  assert '--config.data.image_size=32' in old[1]['overrides']
  # The old run was faster.
  old[1] |= {name: 1000 * old[1]['median'] for name in ('median', 'p25', 'p75')}
  del old[1]['others']['dice']
  out.write_text(''.join(json.dumps(line) + '\n' for line in old))
  printed = bench_speed(capsys, *flags, '--batch=2', f'--compare={out}', config=config)
  assert 'not there for this config, batch and device: metrics' in printed
  printed = bench_speed(capsys, *flags, f'--compare={out}', config=config)
  (row,) = (row for row in printed.splitlines() if row.startswith('  metrics  ') and '->' in row)
  assert 'x slower' in row and 'frames/s' in row
  assert [line['part'] for line in read_strict(out)] == 3 * ['trunk', 'metrics']


@pytest.mark.slow
def test_trunk_decoder_is_the_baseline():
  whole = parse_config(['--config=configs/tiny.py'])
  baseline = parse_config(['--config=configs/tiny.py:baseline'])
  with small_and_quick():
    (trunk, cut), (same,) = (
      speed.measure(config, name='tiny.py', repeats=2, batch=1, names=names)
      for config, names in ((whole, ('trunk_decoder', 'trunk')), (baseline, ('forward',)))
    )
  assert cut['values']['gflop_a_call'] == same['values']['gflop_a_call']
  assert trunk['values']['gflop_a_call'] < same['values']['gflop_a_call']
  assert cut['values']['forward_time_over_this'] is None  # Not asked for.
  assert cut['values']['share_of_ceiling'] is None
  assert cut['batch'] == 1 and cut['repeats'] == 2


@pytest.mark.slow
def test_input_from_phantoms_that_are_drawn(monkeypatch):
  def draw(batch, frames, side, config):
    masks = np.stack(batch * [host.ellipses(side, frames)])
    return lambda key: {'video': masks[..., None] / np.float32(3), 'masks': masks}

  monkeypatch.setattr(stream, 'jitted', draw)
  config = parse_config(
    [
      '--config=configs/default_model.py',
      '--config.data.image_size=32',
      '--config.batch_size=3',
      '--config.num_devices=1',
    ]
  )
  with small_and_quick():
    (line,) = speed.measure(config, name='x', repeats=2, names=('input',))
  assert line['skipped'] is None and line['unit'] == 'clips/s'
  # A group of 8 clips is drawn for every 48 examples, which 16 batches hold.
  assert line['calls_per_repeat'] == 16 and line['batch'] == 3
  assert config.data.stream.pool == 512  # The caller's is as it was.


def test_torch_that_cannot_be_imported(monkeypatch):
  config = parse_config(['--config=configs/tiny.py', '--config.model.backbone=resnet18'])
  for found, text in ((None, 'not installed'), (1, 'cannot be imported')):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: found)
    monkeypatch.setitem(sys.modules, 'torch', None)
    (line,) = speed.measure(config, name='x', names=('torch_trunk',))
    assert text in line['skipped'] and line['median'] is None


def line_of(part='stream', median=2.0, unit='ms', **fields):
  series = timing.Series(unit, (median,)).summary()
  return (
    {
      'part': part,
      'config': 'a.py',
      'batch': 1,
      'device': 'cpu: cpu',
      'values': {},
      'others': {},
      'skipped': None,
    }
    | series
    | fields
  )


@pytest.mark.parametrize(
  'unit, new, text',
  [
    ('ms', 2.5, '1.25 1.25x slower'),
    ('s', 1.0, '0.50 2.00x faster'),
    ('frames/s', 1.6, '0.80 1.25x slower'),
    ('clips/s', 3.0, '1.50 1.50x faster'),
    ('GFLOP/s', 2.001, '1.00 the same'),
  ],
)
def test_ratios_in_words(unit, new, text):
  said = report.compare([line_of(median=new, unit=unit)], [line_of(unit=unit)], 'old.jsonl')
  assert text in ' '.join(said.split()) and 'old.jsonl' in said


def test_comparison_says_what_else_differs_and_what_is_noise():
  wide = {'p25': 1.0, 'p75': 4.0}
  said = report.compare(
    [line_of(median=3.0, dtype='bfloat16', **wide)],
    [line_of(median=9.0), line_of(dtype='float32', **wide)],
    'old',
  )
  # The last of the old lines counts.
  assert '1.50x slower (spreads overlap)' in said
  assert 'but dtype float32 -> bfloat16' in said
  skipped = line_of() | {'median': None, 'skipped': 'no torch'}
  assert 'stream' not in report.compare([skipped], [line_of()], 'old')
  for name, value in (('config', 'b.py'), ('batch', 2), ('device', 'gpu: X')):
    said = report.compare([line_of()], [line_of(**{name: value})], 'old')
    assert 'not there' in said and 'slower' not in said


@pytest.mark.parametrize(
  'text, words',
  [
    ('{', 'line 1 is not JSON'),
    ('', 'no measurement in it'),
    ('3', 'line 1 is no measurement'),
    ('{"part": "x"}', 'no measurement'),
    (
      json.dumps(line_of()) + '\n' + json.dumps(line_of(median=1.0) | {'median': 'fast'}),
      'line 2 is no measurement',
    ),
    (b'\xff\xfe\x00', 'not text'),
  ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, words):
  path = tmp_path / 'old.jsonl'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(InputError, match=words):
    report.read(path)


def test_statistics_are_those_of_the_repeats():
  found = timing.Series('s', (4.0, 1.0, 2.0, 3.0, 10.0), 7.0, 5).summary()
  assert found == {
    'unit': 's',
    'compile_s': 7.0,
    'repeats': 5,
    'calls_per_repeat': 5,
    'median': 3.0,
    'min': 1.0,
    'max': 10.0,
    'p25': 2.0,
    'p75': 4.0,
  }


def test_calls_are_counted(monkeypatch):
  monkeypatch.setattr(timing, 'MIN_SECONDS', 1e9)
  monkeypatch.setattr(timing, 'MAX_CALLS', 3)
  count = []
  seconds, calls = timing.time_calls(lambda: count.append(0), 4)
  assert calls == 3 and len(count) == timing.WARM_UP + 4 * 3
  assert seconds.shape == (4,) and (seconds > 0).all()


def test_a_part_without_memory_does_not_stop_the_rest(monkeypatch):
  def exhausted(bench):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 9 GB\nmore')

  monkeypatch.setitem(speed.PARTS, 'forward', exhausted)
  config = parse_config(['--config=configs/tiny.py'])
  with small_and_quick():
    lines = speed.measure(config, name='tiny.py', repeats=1, names=('metrics', 'forward'))
  assert lines[0]['skipped'] == 'out of memory: RESOURCE_EXHAUSTED: 9 GB'
  assert lines[1]['median'] > 0

  def broken(bench):
    raise jax.errors.JaxRuntimeError('INTERNAL: bug')

  monkeypatch.setitem(speed.PARTS, 'forward', broken)
  with pytest.raises(jax.errors.JaxRuntimeError, match='bug'):
    speed.measure(config, name='tiny.py', names=('forward',))


def test_batches_are_those_of_the_pipeline():
  flags = ['--config.unlabeled_batch_size=1', "--config.data.classes=('lv','la')"]
  config = parse_config(['--config=configs/tiny.py', *flags])
  batch = training.host_batch(config)
  assert batch['video_weak'].shape == batch['video_strong'].shape == (3, 4, 32, 32, 1)
  assert batch['labeled'].tolist() == 2 * [[True, False, False, True]] + [4 * [False]]
  assert (batch['masks'][~batch['labeled']] == IGNORE).all()
  assert set(np.unique(batch['masks'][batch['labeled']])) == {0, 1, 2}
  own = parts.Bench(config, 1)
  with pytest.raises(timing.NotMeasuredError, match='own objective'):
    with config.unlocked():
      config.objective.name = 'supervised'
    training.train_supervised(own)


@pytest.mark.parametrize(
  'flags, text',
  [
    (['--config=configs/none.py'], 'no file'),
    (['--parts=trunk,warp'], "found 'warp'; choose from ceiling, forward"),
    (['--repeats=0'], 'at least 1'),
    (['--batch=0'], 'at least 1'),
    (['--json=none/x.jsonl'], 'no such folder'),
    (['--json=configs'], 'cannot be written'),
    (['--compare=none.jsonl'], 'No such file'),
    (['--compare=configs/tiny.py'], 'line 1 is not JSON'),
    (['--config.stairs=2'], 'no such field'),
    (
      ['--config.num_devices=1', '--config.unlabeled_batch_size=2', '--batch=1'],
      'cannot be labeled',
    ),
  ],
)
def test_misuse_is_one_line(flags, text, capsys):
  assert main(['--config=configs/tiny.py', *flags]) == 2
  error = capsys.readouterr().err
  assert text in error and error.count('\n') == 1


def test_hearts_contract_and_differ():
  truth, other = (host.ellipses(64, 20, shift) for shift in (0, 0.02))
  assert set(np.unique(truth)) == {0, 1, 2, 3}
  areas = (truth == 1).sum((1, 2))
  assert areas[-1] < 0.7 * areas[0]
  distances = surface.surface_distances(truth[0] == 1, other[0] == 1)
  assert 0 < distances.asd < distances.hd95 <= distances.hd < 8
