"""A study is resumed, not repeated; nothing of other settings is taken."""

import json

import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.experiments import runner


@pytest.fixture
def settings(tmp_path):
  return runner.Settings(
    tmp_path / 'out',
    tmp_path / 'data',
    overrides=(('num_steps', '60'), ('num_devices', '1')),
  )


def fake(line, calls, fail=()):
  def execute(run, settings):
    calls.append(run.key)
    if run.row.name in fail:
      raise runner.RunFailed(f'{run.row.name} broke')
    found = line(run.row.name, run.seed, 0.03 * (run.row.name == 'all'))
    return found | {'flags': runner._identity(run, settings)}

  return execute


def test_flags_are_those_of_train(small_study, settings):
  run = runner.Run('rows', small_study.row('all'), 2)
  flags = runner.train_flags(run, settings)
  assert flags[0] == '--config=phantom_lite:all'
  assert {
    '--config.seed=2',
    '--config.data.label_seed=2',
    '--config.num_steps=60',
    '--config.data.label_fraction=0.1',
    '--config.unlabeled_batch_size=4',
  } <= set(flags)
  # What a line keeps names no folder of the machine.
  assert not any(
    str(settings.out_dir.parent) in flag
    for flag in runner._identity(run, settings)
  )


def test_only_what_is_missing_runs(small_study, settings, line):
  calls = []
  first = runner.run_study(
    small_study, [0], settings, say=lambda _: None, execute=fake(line, calls)
  )
  assert [x['row'] for x in first] == ['baseline', 'all']
  calls.clear()
  both = runner.run_study(
    small_study, [0, 1], settings, say=lambda _: None, execute=fake(line, calls)
  )
  assert sorted(calls) == [('rows', 'all', 1), ('rows', 'baseline', 1)]
  assert [(x['row'], x['seed']) for x in both] == [
    ('baseline', 0),
    ('all', 0),
    ('baseline', 1),
    ('all', 1),
  ]
  assert both[:2] == first


def test_a_failure_does_not_stop_the_others(small_study, settings, line):
  calls = []
  with pytest.raises(runner.RunFailed, match='all broke'):
    runner.run_study(
      small_study,
      [0, 1],
      settings,
      say=lambda _: None,
      execute=fake(line, calls, fail=['all']),
    )
  kept = runner.read_results(settings.out_dir / runner.RESULTS)
  assert [(x['row'], x['seed']) for x in kept] == [
    ('baseline', 0),
    ('baseline', 1),
  ]


def test_a_torn_line_is_done_again(small_study, settings, line):
  say = dict(say=lambda _: None)
  runner.run_study(small_study, [0], settings, execute=fake(line, []), **say)
  path = settings.out_dir / runner.RESULTS
  text = path.read_text()
  path.write_text(text[:-40])
  calls = []
  runner.run_study(small_study, [0], settings, execute=fake(line, calls), **say)
  assert len(calls) == 1
  assert [json.loads(x)['row'] for x in path.read_text().splitlines()] == [
    'baseline',
    'all',
  ]


def test_a_damaged_line_is_named(settings):
  settings.out_dir.mkdir()
  path = settings.out_dir / runner.RESULTS
  path.write_text('{"study": "rows"\n{}\n{}\n')
  with pytest.raises(InputError, match='line 1'):
    runner.read_results(path)


def test_other_settings_are_refused(small_study, settings, line, tmp_path):
  say = dict(say=lambda _: None)
  runner.run_study(small_study, [0], settings, execute=fake(line, []), **say)
  other = runner.Settings(
    settings.out_dir, settings.data_dir, overrides=(('num_steps', '90'),)
  )
  with pytest.raises(InputError, match='num_steps=60.*num_steps=90'):
    runner.run_study(small_study, [0], other, execute=fake(line, []), **say)


def test_a_wrong_field_names_the_row(small_study, settings):
  wrong = runner.Settings(
    settings.out_dir, settings.data_dir, overrides=(('num_stairs', '90'),)
  )
  with pytest.raises(InputError, match='row baseline: .*num_stairs'):
    runner.check(small_study, wrong)


def test_a_command_that_fails_is_told_with_its_last_words(
  small_study, settings
):
  run = runner.Run('rows', small_study.row('baseline'), 0)
  with pytest.raises(runner.RunFailed, match=r'train.log.*status 2.*data'):
    runner.execute_run(run, settings)
