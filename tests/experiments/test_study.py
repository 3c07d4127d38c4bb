"""Every row of every study is a config that builds."""

import pytest

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
  assert chosen.reference in configs
  for config in configs.values():
    # There must be unlabeled patients where their clips are asked for.
    assert not (config.unlabeled_batch_size and config.data.label_fraction == 1)
    assert (config.unlabeled_batch_size == 0) == (
      config.objective.name == 'supervised' or config.data.label_fraction == 1
    )


def test_some_rows_keep_the_reference():
  chosen = study.get_study('rows', ['all'])
  assert [row.name for row in chosen.rows] == ['baseline', 'all']


@pytest.mark.parametrize(
  'name, rows, text',
  [
    ('row', [], 'rows, methods, anchors, labels, supervision'),
    ('rows', ['best'], "'best'.*baseline"),
  ],
)
def test_refuses(name, rows, text):
  with pytest.raises(InputError, match=text):
    study.get_study(name, rows)
