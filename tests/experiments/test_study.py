"""Every row of every study is a config that builds."""

import pytest

from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError
from echoforge_jax.experiments import runner, study


@pytest.mark.parametrize('name', sorted(study.STUDIES))
def test_rows_are_different_trainings_that_build(name, tmp_path):
  chosen = study.STUDIES[name]
  settings = runner.Settings(tmp_path, tmp_path)
  configs = runner.check(chosen, settings)
  assert list(configs) == [row.name for row in chosen.rows]
  texts = {str(config) for config in configs.values()}
  assert len(texts) == len(configs)
  assert all(chosen.reference_of(row) in {'', *configs} for row in chosen.rows)
  for config in configs.values():
    # There must be unlabeled patients where their clips are asked for.
    hides = config.data.label_fraction < 1 or config.data.labeled_patients > 0
    assert hides or not config.unlabeled_batch_size
    assert (config.unlabeled_batch_size == 0) == (
      config.objective.name == 'supervised' or not hides
    )


def test_some_rows_keep_the_reference():
  chosen = study.get_study('rows', ['all'])
  assert [row.name for row in chosen.rows] == ['baseline', 'all']


@pytest.mark.parametrize(
  'name, rows, text',
  [
    ('row', [], 'rows, methods, anchors, supervision, labels, cost'),
    ('rows', ['best'], "'best'.*baseline"),
  ],
)
def test_refuses(name, rows, text):
  with pytest.raises(InputError, match=text):
    study.get_study(name, rows)


def test_the_labels_study_is_56_runs_in_an_order_that_can_be_cut_short():
  chosen = study.get_study('labels')
  runs = runner.all_runs(chosen)
  assert len(runs) == 56
  # Thrice everything before the seeds of 10 and 40 patients alone.
  assert {run.seed for run in runs[:36]} == {0, 1, 2}
  assert {run.row.name for run in runs[36:]} == {
    f'{weights}_{n}' for weights in ('random', 'phantom') for n in (10, 40)
  }
  pair = [chosen.row(name) for name in ('random_5', 'phantom_5')]
  assert [chosen.reference_of(row) for row in pair] == ['', 'random_5']
  assert [row.settings['init_from'] for row in pair] == ['', 'default']


def test_the_methods_study_gives_all_methods_the_same_network_start_and_labels():
  chosen = study.get_study('methods', weights='a.safetensors')
  settings = runner.Settings('out', 'data', config='camus_stills')
  configs = runner.check(chosen, settings)
  names = [*study.METHODS, 'supervised_long']
  assert [row.name for row in chosen.rows[: len(names)]] == names
  assert {chosen.row(name).seeds for name in (*names, 'supervised_40')} == {8}
  for name in names:
    config = configs[name]
    assert config.init_from == 'a.safetensors' and config.data.labeled_patients == 10
    assert config.model.use_tsf and config.model.use_arc and config.batch_size == 4
    assert config.model.use_cpr == (name == 'paper')
    assert config.num_steps == (900 if name == 'supervised_long' else 300)
    assert (config.unlabeled_batch_size == 4) == (not name.startswith('supervised'))
  assert configs['pose'].objective.cpr == 'pose' and configs['paper'].objective.cpr == 'paper'
  assert len(runner.all_runs(chosen)) == 10 * 8 + 15 + 6 + 3 * 7


def test_rows_of_ones_own():
  chosen = study.get_study(
    'rows', ['mine'], more=['mine:model.dropout=0.1,objective.name=my.module:loss']
  )
  base, mine = chosen.rows
  assert chosen.reference_of(mine) == base.name == 'baseline' and mine.variant == 'baseline'
  changed = {'model.dropout': '0.1', 'objective.name': 'my.module:loss'}
  assert mine.settings == {**base.settings, **changed}
  for text, message in (
    ('mine', 'wanted NAME:FIELD=VALUE'),
    ('../mine:a=1', 'wanted NAME:FIELD=VALUE'),
    ('all:model.dropout=0.1', 'a name twice'),
  ):
    with pytest.raises(InputError, match=message):
      study.get_study('rows', more=[text])


def test_a_row_trains_an_objective_from_outside(tmp_path):
  fields = 'objective.name=examples.own_objective:smooth,objective.bend_weight=0.3'
  more = [f"mine:{fields},unlabeled_batch_size=4,data.classes=('lv','myo')"]
  chosen = study.get_study('rows', ['mine'], more=more, steps=2)
  settings = runner.Settings(tmp_path, tmp_path, config='tiny')
  config = runner.check(chosen, settings)['mine']
  assert config.objective.name == 'examples.own_objective:smooth'
  assert (config.objective.bend_weight, config.objective.supervised_weight) == (0.3, 1.0)
  assert config.unlabeled_batch_size == 4 and tuple(config.data.classes) == ('lv', 'myo')
  # What `train` is called with gives the same config.
  (command, _), *_ = runner.Run('rows', chosen.row('mine'), 0).job(settings).commands
  flags = [flag for flag in command if flag.startswith('--config')]
  assert parse_config(flags).objective.to_dict() == config.objective.to_dict()
  wrong = study.get_study('rows', ['mine'], more=['mine:objective.name=examples.none:smooth'])
  with pytest.raises(InputError, match="row mine: .*no module 'examples.none'"):
    runner.check(wrong, settings)


def test_a_study_may_be_narrowed():
  chosen = study.get_study('labels', patients=[3, 0], seeds=2, steps=7, weights='a.safetensors')
  assert [row.name for row in chosen.rows] == ['random_3', 'phantom_3', 'random_all', 'phantom_all']
  assert {(row.seeds, row.settings['num_steps']) for row in chosen.rows} == {(2, 7)}
  assert chosen.rows[1].settings['init_from'] == 'a.safetensors'
  kept = study.get_study('labels', ['phantom_40'])
  assert [row.name for row in kept.rows] == ['random_40', 'phantom_40']
  with pytest.raises(InputError, match='--patients belongs to --study=labels'):
    study.get_study('rows', patients=[3])
