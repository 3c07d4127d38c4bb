"""Several seeds of one config as one result."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.comparison import seeds
from echoforge_jax.evaluation.comparison.document import write_comparison
from echoforge_jax.evaluation.comparison.read import read_evaluation
from tests.evaluation.runs import write_run

SHIFTS = ([1, 2, 1, 3], [2, 3, 1, 4], [1, 2, 2, 5])


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('seeds')
  return [write_run(root / f'run{k}', shifts, training_seed=k) for k, shifts in enumerate(SHIFTS)]


@pytest.fixture(scope='module')
def found(folders):
  return seeds.aggregate_runs(folders, seed=2, resamples=2000)


def row(found, name):
  return next(r for r in found['rows'] if r['name'] == name)


def table(folders, name):
  return np.array(
    [[v for _, v in sorted(read_evaluation(f).values[name].items())] for f in folders]
  )


@pytest.mark.slow
def test_rows_against_scipy(folders, found):
  assert found['n_seeds'] == 3 and found['n_patients'] == 4
  for name in ('lv_dice', 'lv_hd', 'lv_asd'):
    values = table(folders, name).mean(axis=1)
    r = row(found, name)
    assert r['values'] == pytest.approx(values)
    assert r['mean'] == pytest.approx(values.mean())
    assert r['sd'] == pytest.approx(values.std(ddof=1))
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert r['t_ci95'] == pytest.approx([low, high])
    assert r['n_patients'] == 4
  assert row(found, 'lv_dice')['values'][0] == pytest.approx(
    json.loads((folders[0] / 'metrics.json').read_text())['classes']['lv']['dice']['mean'], abs=1e-5
  )


def test_two_levels_have_the_variance_of_both(folders, found):
  values = table(folders, 'lv_dice')
  within = values - values.mean()
  # Crossed draws: Var = rows / S + columns / N + cells / (S N), plug-in.
  rows, columns = within.mean(axis=1), within.mean(axis=0)
  cells = within - rows[:, None] - columns
  expected = math.sqrt((rows**2).mean() / 3 + (columns**2).mean() / 4 + (cells**2).mean() / 12)
  rng = np.random.default_rng(0)
  drawn = np.array(
    [values[rng.integers(3, size=3)][:, rng.integers(4, size=4)].mean() for _ in range(4000)]
  )
  assert drawn.std() == pytest.approx(expected, rel=0.05)
  assert row(found, 'lv_dice')['ci95'] == pytest.approx(
    np.percentile(drawn, [2.5, 97.5]), abs=0.15 * expected
  )


def test_seeds_without_variation_leave_the_patients(tmp_path):
  same = [write_run(tmp_path / f'r{k}', SHIFTS[0], training_seed=k) for k in range(2)]
  r = row(seeds.aggregate_runs(same, resamples=500), 'lv_hd')
  assert r['sd'] == 0 and r['t_ci95'] == [r['mean'], r['mean']]
  assert r['ci95'][0] < r['mean'] < r['ci95'][1]


def test_ef_rows_agree_with_each_evaluation(folders, found):
  for key, label in (('pearson_r', 'ef_pearson_r'), ('bias', 'ef_bias')):
    each = [json.loads((f / 'metrics.json').read_text())['ef'][key] for f in folders]
    assert row(found, label)['values'] == pytest.approx(each, abs=1e-4)


def test_file_and_text_carry_the_receipt(found, tmp_path):
  path = write_comparison(found, tmp_path / 'new', 'seeds')['seeds']
  document = json.loads(path.read_text())
  assert path.name == 'seeds.json' and document == found
  assert document['receipt']['versions']['numpy']
  assert [r['receipt']['training_seed'] for r in document['runs']] == [0, 1, 2]
  text = seeds.seeds_table(found)
  assert text.startswith('3 seeds, 4 patients')
  for part in (
    'protocol camus_semi',
    'training seeds 0, 1, 2',
    'abc1234',
    'bootstrap seed 2 x 2000',
    'scipy ',
    '3: too few seeds for a claim',
  ):
    assert part in text
  line = next(x for x in text.splitlines() if 'LV HD (mm)' in x)
  hd = row(found, 'lv_hd')
  assert f'{hd["mean"]:.2f}' in line and f'{hd["values"][2]:.2f}' in line


@pytest.mark.parametrize(
  'options, message',
  [
    ({'config_digest': 'e' * 16}, 'differ in config .config_digest dd.*ee'),
    ({'config_digest': None}, 'no config_digest in its receipt.*older'),
    ({'which': 'student'}, 'differ in network'),
    ({'checkpoint_step': 7}, 'differ in steps .checkpoint_step 1000, 7'),
    ({'training_seed': 0}, 'training seeds 0, 0; wanted different'),
  ],
)
def test_refuses_what_is_not_another_seed(folders, tmp_path, options, message):
  other = write_run(tmp_path / 'other', SHIFTS[1], **{'training_seed': 9, **options})
  with pytest.raises(InputError, match=message):
    seeds.aggregate_runs([folders[0], other], resamples=10)
  mixed = seeds.aggregate_runs([folders[0], other], resamples=10, allow_mixed=True)
  assert any('configs were not compared' in w for w in mixed['warnings'])


@pytest.mark.slow
def test_the_best_of_one_score_may_be_any_step(folders, tmp_path):
  runs = [
    write_run(
      tmp_path / f'run{step}',
      SHIFTS[1],
      training_seed=step,
      checkpoint_step=step,
      step_choice='best dice_teacher',
      step_score=0.9,
    )
    for step in (1000, 2000)
  ]
  assert seeds.aggregate_runs(runs, resamples=10)['n_seeds'] == 2
  with pytest.raises(InputError, match='differ in steps .checkpoint_step best dice_teacher, 1000'):
    seeds.aggregate_runs([runs[1], folders[0]], resamples=10)


def test_refuses_other_data_even_when_mixed(folders, tmp_path):
  other = write_run(tmp_path / 'other', SHIFTS[1], training_seed=9, raw_fingerprint='0' * 64)
  with pytest.raises(InputError, match='raw data'):
    seeds.aggregate_runs([folders[0], other], allow_mixed=True)
  fewer = write_run(tmp_path / 'fewer', SHIFTS[1][:3], training_seed=9)
  with pytest.raises(InputError, match='different patients'):
    seeds.aggregate_runs([folders[0], fewer], allow_mixed=True)
  with pytest.raises(InputError, match='found 1 evaluation'):
    seeds.aggregate_runs(folders[:1])
