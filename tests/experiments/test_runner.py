"""A study is resumed, not repeated; nothing of other settings is taken."""

import json

import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.scoring import METRICS
from echoforge_jax.experiments import runner
from tests.launch.launch_scripts import fake_package

COLUMNS = (
  *(f'lv_{metric}' for metric in METRICS),
  'ef_reference',
  'ef_predicted',
  'ef_whole_clip',
  'area_roughness',
  'inconsistent_share',
  'valid_share',
  'ece',
)
METRICS_JSON = {
  'protocol': 'camus_full',
  'n_patients': 2,
  'n_clips': 2,
  'unit': 'mm',
  'classes': {'lv': {}},
  'ef': {},
  'receipt': {'protocol': {'name': 'camus_full', 'pooling': 'frame'}},
}
# Trains and evaluates; fails where a file says so.
FAKE = f"""
import json, pathlib, sys
verb = sys.argv[1]
flags = dict(a.partition('=')[::2] for a in sys.argv[2:])
root = pathlib.Path(flags['--workdir'])
with pathlib.Path('calls').open('a') as file:
  file.write(f'{{verb}} {{root.name}}' + chr(10))
if pathlib.Path(f'fail_{{root.name}}').exists():
  sys.exit('error: the dog ate the data')
if verb == 'evaluate':
  out = pathlib.Path(flags['--out'])
  out.mkdir()
  (out / 'metrics.json').write_text({json.dumps(METRICS_JSON)!r})
  dice = '.9' if root.name.startswith('all') else '.8'
  rows = [','.join(('patient', 'view', *{COLUMNS!r}))]
  for patient in ('p0', 'p1'):
    rows.append(','.join((patient, '4CH', *[dice] * {len(COLUMNS)})))
  (out / 'per_case.csv').write_text(chr(10).join(rows) + chr(10))
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
  """Of a folder whose `python -m echoforge_jax` is the fake one."""
  fake_package(tmp_path, FAKE)
  monkeypatch.chdir(tmp_path)
  return runner.Settings(
    tmp_path / 'out',
    tmp_path / 'data',
    overrides=(('num_steps', '60'), ('num_devices', '1')),
    jobs=2,
  )


def run(study, seeds, settings):
  return runner.run_study(study, seeds, settings, say=lambda _: None)


def calls(tmp_path):
  """Calls since the last time this was asked for."""
  path = tmp_path / 'calls'
  lines = path.read_text().splitlines() if path.exists() else []
  path.unlink(missing_ok=True)
  return sorted(lines)


def test_flags_are_those_of_train(small_study, settings):
  one = runner.Run('rows', small_study.row('all'), 2)
  flags = one.flags(settings)
  assert flags[0] == '--config=phantom_lite:all'
  assert {
    '--config.seed=2',
    '--config.data.label_seed=2',
    '--config.num_steps=60',
    '--config.data.label_fraction=0.1',
    '--config.unlabeled_batch_size=4',
  } <= set(flags)
  # What a line keeps names no folder of the machine.
  assert not any(str(settings.data_dir) in flag for flag in one.identity(settings))


def test_only_what_is_missing_runs(small_study, settings, tmp_path):
  first = run(small_study, [0], settings)
  assert [(x['row'], x['dice']) for x in first] == [('baseline', 0.8), ('all', 0.9)]
  assert first[0]['patients']['p1']['asd'] == 0.8
  assert first[0]['train_seconds'] > 0
  assert len(calls(tmp_path)) == 4
  both = run(small_study, [0, 1], settings)
  assert calls(tmp_path) == [
    'evaluate all_seed1',
    'evaluate baseline_seed1',
    'train all_seed1',
    'train baseline_seed1',
  ]
  assert [(x['row'], x['seed']) for x in both] == [
    ('baseline', 0),
    ('all', 0),
    ('baseline', 1),
    ('all', 1),
  ]
  assert both[:2] == first


def test_a_failure_does_not_stop_the_others(small_study, settings, tmp_path):
  (tmp_path / 'fail_all_seed0').touch()
  with pytest.raises(runner.RunFailed) as failed:
    run(small_study, [0, 1], settings)
  text = str(failed.value)
  assert 'all_seed0: failed (1)' in text and 'train.log' in text
  assert 'the dog ate the data' in text and failed.value.status == 1
  kept = runner.read_results(settings.out_dir / runner.RESULTS)
  assert set(kept) == {('rows', 'baseline', 0), ('rows', 'baseline', 1), ('rows', 'all', 1)}


def test_a_torn_line_is_done_again(small_study, settings, tmp_path):
  run(small_study, [0], settings)
  path = settings.out_dir / runner.RESULTS
  lines = path.read_text().splitlines(keepends=True)
  torn = json.loads(lines[1])['row']
  path.write_text(''.join(lines)[:-40])
  calls(tmp_path)
  (settings.out_dir / 'runs' / 'rows' / f'{torn}_seed0' / 'evaluation').rename(
    tmp_path / 'elsewhere'
  )
  run(small_study, [0], settings)
  assert calls(tmp_path) == [f'evaluate {torn}_seed0', f'train {torn}_seed0']
  found = [json.loads(x)['row'] for x in path.read_text().splitlines()]
  assert sorted(found) == ['all', 'baseline']


@pytest.mark.parametrize(
  'text, words',
  [
    ('{"study": "rows"\n{}\n{}\n', 'line 1'),
    (2 * '{"study": "rows", "row": "all", "seed": 0}\n', 'there twice'),
  ],
)
def test_a_damaged_file_is_named(settings, text, words):
  settings.out_dir.mkdir()
  path = settings.out_dir / runner.RESULTS
  path.write_text(text)
  with pytest.raises(InputError, match=words):
    runner.read_results(path)


def test_other_settings_are_refused(small_study, settings):
  run(small_study, [0], settings)
  other = runner.Settings(settings.out_dir, settings.data_dir, overrides=(('num_steps', '90'),))
  with pytest.raises(InputError, match='num_steps=60.*num_steps=90'):
    run(small_study, [0], other)


def test_a_wrong_field_names_the_row(small_study, settings):
  wrong = runner.Settings(settings.out_dir, settings.data_dir, overrides=(('num_stairs', '90'),))
  with pytest.raises(InputError, match='row baseline: .*num_stairs'):
    runner.check(small_study, wrong)
