"""A study is resumed, not repeated; nothing of other settings is taken."""

import dataclasses
import hashlib
import json

import pytest

from echoforge_jax.data import selection
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
  'ef_view_masks',
  'ef_view_predicted',
)
FRAME = 'patient,view,phase,scored,class,dice,asd'
METRICS_JSON = {
  'protocol': 'camus_full',
  'n_patients': 2,
  'n_clips': 2,
  'unit': 'mm',
  'classes': {'lv': {}},
  'ef': {},
  'receipt': {'protocol': {'name': 'camus_full', 'pooling': 'frame'}},
}
# Trains, as far as a study can tell; fails where a file says so.
FAKE = """
import pathlib, sys
flags = dict(a.partition('=')[::2] for a in sys.argv[2:])
root = pathlib.Path(flags['--workdir'])
with pathlib.Path('calls').open('a') as file:
  file.write(f'{sys.argv[1]} {root.name}' + chr(10))
if pathlib.Path(f'fail_{root.name}').exists():
  sys.exit('error: the dog ate the data')
"""


def write_scores(one, settings):
  """Writes the files of an evaluation."""
  out = one.folder(settings) / 'evaluation'
  out.mkdir()
  (out / 'metrics.json').write_text(json.dumps(METRICS_JSON))
  dice = '.9' if one.row.name == 'all' else '.8'
  rows, frames = [','.join(('patient', 'view', 'unit', *COLUMNS))], [FRAME]
  for patient, unit in (('p0', 'mm'), ('p1', 'px')):
    rows.append(','.join((patient, '4CH', unit, *[dice] * len(COLUMNS))))
    for phase, asd in (('ED', 2), ('', 9), ('ES', 4)):
      frames.append(f'{patient},4CH,{phase},1,lv,{dice},{asd}')
  (out / 'per_case.csv').write_text('\n'.join(rows) + '\n')
  (out / 'per_frame.csv').write_text('\n'.join(frames) + '\n')
  return out


@pytest.fixture
def settings(tmp_path, monkeypatch, disc_data_dir):
  """Of a folder whose `python -m echoforge_jax` is the fake one."""
  fake_package(tmp_path, FAKE)
  monkeypatch.chdir(tmp_path)
  return runner.Settings(
    tmp_path / 'out',
    disc_data_dir,
    overrides=(('num_steps', '60'), ('num_devices', '1'), ('data.image_size', '32')),
    jobs=2,
  )


def run(study, seeds, settings):
  rows = tuple(dataclasses.replace(row, seeds=seeds) for row in study.rows)
  said = []
  lines = runner.run_study(
    dataclasses.replace(study, rows=rows), settings, score=write_scores, say=said.append
  )
  return lines, said


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
  first, said = run(small_study, 1, settings)
  assert said[0].endswith('2 runs, 0 done; about 0 h 1 min left')  # 120 steps.
  assert [(x['row'], x['dice']) for x in first] == [('baseline', 0.8), ('all', 0.9)]
  assert first[0]['patients']['p1']['asd'] == 0.8
  assert first[0]['train_seconds'] > 0
  assert len(calls(tmp_path)) == 2
  both, _ = run(small_study, 2, settings)
  assert calls(tmp_path) == ['train all_seed1', 'train baseline_seed1']
  assert [(x['row'], x['seed']) for x in both] == [
    ('baseline', 0),
    ('all', 0),
    ('baseline', 1),
    ('all', 1),
  ]
  assert both[:2] == first


def test_a_line_has_parts_and_a_receipt(small_study, settings, disc_data_dir):
  lines, _ = run(small_study, 1, settings)
  patients, receipt = lines[0]['patients'], lines[0]['receipt']
  assert patients['p0']['lv_dice_4CH_ED'] == patients['p0']['ef_4CH_masks'] == 0.8
  # Distances in pixels are left out, frames between ED and ES as well.
  assert patients['p0']['lv_asd_4CH'] == 3 and 'lv_asd_4CH' not in patients['p1']
  assert receipt['labeled_patients'] == 1 and receipt['weights_sha256'] is None
  first = selection.rank_patients([f'p{k:02d}' for k in range(4)], 0)[0]
  wanted = hashlib.sha256(first.encode()).hexdigest()
  assert receipt['labeled_patients_sha256'] == wanted
  assert receipt['trained_at'] and len(receipt['seconds']) == 2


def test_a_failure_does_not_stop_the_others(small_study, settings, tmp_path):
  (tmp_path / 'fail_all_seed0').touch()
  with pytest.raises(runner.RunFailed) as failed:
    run(small_study, 2, settings)
  text = str(failed.value)
  assert 'all_seed0: failed (1)' in text and 'train.log' in text
  assert 'the dog ate the data' in text and failed.value.status == 1
  kept = runner.read_results(settings.out_dir / runner.RESULTS)
  assert set(kept) == {('rows', 'baseline', 0), ('rows', 'baseline', 1), ('rows', 'all', 1)}


def test_a_torn_line_is_done_again(small_study, settings, tmp_path):
  run(small_study, 1, settings)
  path = settings.out_dir / runner.RESULTS
  lines = path.read_text().splitlines(keepends=True)
  torn = json.loads(lines[1])['row']
  path.write_text(''.join(lines)[:-40])
  calls(tmp_path)
  (settings.out_dir / 'runs' / 'rows' / f'{torn}_seed0' / 'evaluation').rename(
    tmp_path / 'elsewhere'
  )
  run(small_study, 1, settings)
  assert calls(tmp_path) == [f'train {torn}_seed0']
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
  run(small_study, 1, settings)
  other = dataclasses.replace(settings, overrides=(('num_steps', '90'),))
  with pytest.raises(InputError, match='num_steps=60.*num_steps=90'):
    run(small_study, 1, other)


def test_a_wrong_field_names_the_row(small_study, settings):
  wrong = runner.Settings(settings.out_dir, settings.data_dir, overrides=(('num_stairs', '90'),))
  with pytest.raises(InputError, match='row baseline: .*num_stairs'):
    runner.check(small_study, wrong)
