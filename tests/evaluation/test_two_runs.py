"""Paired comparison of two evaluations."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from scipy import stats

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.comparison import two_runs
from echoforge_jax.evaluation.comparison.document import write_comparison
from echoforge_jax.evaluation.comparison.read import read_evaluation
from echoforge_jax.metrics import statistics
from tests.evaluation.runs import write_run

GOOD, BAD = [1, 2, 1, 2, 1, 2, 1, 1, 2, 1], [3, 5, 4, 3, 3, 6, 4, 5, 6, 4]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('compare')
  return (write_run(root / 'good', GOOD), write_run(root / 'bad', BAD, config_digest='e' * 16))


@pytest.fixture(scope='module')
def found(folders):
  return two_runs.compare_runs(*folders, seed=3, resamples=500)


def row(found, name):
  return next(r for r in found['rows'] if r['name'] == name)


@pytest.mark.slow
def test_rows_against_scipy(folders, found):
  a, b = (read_evaluation(f) for f in folders)
  for name in ('lv_dice', 'lv_hd', 'lv_asd'):
    pairs = np.array([(a.values[name][p], b.values[name][p]) for p in a.patients])
    r = row(found, name)
    difference = pairs[:, 0] - pairs[:, 1]
    assert r['n'] == 10 and r['difference'] == pytest.approx(difference.mean())
    assert (r['first'], r['second']) == pytest.approx(tuple(pairs.mean(0)))
    assert r['p_value'] == pytest.approx(stats.wilcoxon(difference[difference != 0]).pvalue)
    assert r['ci95'] == pytest.approx(
      statistics.bootstrap_ci(difference, lambda x: x.mean(1), seed=3, resamples=500)
    )
  dice = row(found, 'lv_dice')
  assert dice['p_value'] == 2 / 2**10
  assert dice['better'] == 'first' and dice['ci95'][0] > 0
  assert dice['verdict'] == 'first is better'
  assert row(found, 'lv_hd')['difference'] < 0
  assert row(found, 'lv_hd')['better'] == 'first'
  assert row(found, 'area_roughness')['better'] == ''


@pytest.mark.slow
def test_holm_spans_the_table(found):
  assert [r['p_holm'] for r in found['rows']] == pytest.approx(
    statistics.holm([r['p_value'] for r in found['rows']])
  )
  assert row(found, 'lv_dice')['p_holm'] > row(found, 'lv_dice')['p_value']


@pytest.mark.slow
def test_swapping_the_runs_swaps_the_signs(folders, found):
  swapped = two_runs.compare_runs(*folders[::-1], seed=3, resamples=500)
  for r, s in zip(found['rows'], swapped['rows']):
    assert r['difference'] == -s['difference']
    assert r['p_value'] == pytest.approx(s['p_value'])
    assert {r['better'], s['better']} in ({'first', 'second'}, {'neither'}, {''})


def test_file_and_text_carry_the_receipt(found, tmp_path):
  path = write_comparison(found, tmp_path / 'new', 'comparison')['comparison']
  document = json.loads(path.read_text())
  assert path.name == 'comparison.json' and document == found
  assert document['receipt']['seed'] == 3
  assert document['receipt']['versions']['scipy']
  assert document['first']['receipt']['git_revision'] == 'abc1234'
  assert document['protocol'] == 'camus_semi'
  text = two_runs.comparison_table(found)
  assert text.startswith('first good minus second bad, 10 patients')
  for part in (
    'protocol camus_semi',
    'split test of camus',
    'abc1234',
    'bootstrap seed 3 x 500',
    'scipy ',
    'training seeds 0',
    'LV Dice (%)',
    'not the variation between training runs',
  ):
    assert part in text
  line = next(x for x in text.splitlines() if 'LV Dice' in x)
  dice = row(found, 'lv_dice')
  assert f'{100 * dice["difference"]:+.2f}' in line and '.0020' in line


@pytest.mark.slow
def test_few_patients_are_too_few_not_equal(tmp_path):
  found = two_runs.compare_runs(
    write_run(tmp_path / 'a', [1, 1, 2, 1, 2]),
    write_run(tmp_path / 'b', [4, 6, 4, 5, 4], config_digest='e' * 16),
    resamples=100,
  )
  dice = row(found, 'lv_dice')
  assert dice['p_value'] == 0.0625 and dice['verdict'].startswith('too few')
  text = two_runs.comparison_table(found)
  assert 'no adjusted p below .05 is possible' in text
  assert 'not distinguishable' not in text
  # Seven agree: p = .0156 alone, but not for all rows together.
  found = two_runs.compare_runs(
    write_run(tmp_path / 'c', [1] * 7),
    write_run(tmp_path / 'd', [5] * 7, config_digest='e' * 16),
    resamples=100,
  )
  dice = row(found, 'lv_dice')
  assert dice['p_value'] < 0.05 <= dice['smallest_p_holm']
  assert dice['verdict'].startswith('too few')
  rows = len(found['rows'])
  wanted = next(n for n in range(2, 40) if rows * 2.0 ** (1 - n) < 0.05)
  assert f'{wanted} differing patients always suffice' in two_runs.comparison_table(found)


def test_a_run_against_itself(folders):
  found = two_runs.compare_runs(folders[0], folders[0], resamples=50)
  assert all(
    r['difference'] == 0 and r['p_value'] == 1 and r['verdict'] == 'equal' for r in found['rows']
  )
  assert 'both are the same evaluation' in found['warnings']


@pytest.mark.slow
def test_unmeasurable_patients_are_counted(tmp_path):
  found = two_runs.compare_runs(
    write_run(tmp_path / 'a', [1] * 7),
    write_run(tmp_path / 'b', [2] * 7, empty=(0, 3)),
    resamples=50,
  )
  ef = row(found, 'ef_error')
  assert ef['n'] == 5 and (ef['only_first'], ef['only_second']) == (2, 0)
  assert (
    'EF |error|: patients left out because only the first could measure '
    'them: 2' in two_runs.comparison_table(found)
  )
  assert row(found, 'lv_dice')['n'] == 7


@pytest.mark.parametrize(
  'options, message',
  [
    ({'protocol': 'camus_full'}, 'protocol camus_semi and camus_full'),
    ({'split': 'validation'}, 'split test and validation'),
    ({'raw_fingerprint': '0' * 64}, 'raw data f.* and 0'),
    ({'raw_fingerprint': None}, 'raw data f.* and None'),
    ({'dataset': 'echonet'}, 'dataset camus and echonet'),
  ],
)
def test_refuses_other_settings(folders, tmp_path, options, message):
  other = write_run(tmp_path / 'other', [1, 2], **options)
  with pytest.raises(InputError, match=message) as caught:
    two_runs.compare_runs(folders[0], other)
  assert str(folders[0]) in str(caught.value) and str(other) in str(caught.value)


def test_refuses_a_protocol_of_the_same_name_with_other_fields(folders, tmp_path):
  other = shutil.copytree(folders[1], tmp_path / 'other')
  document = json.loads((other / 'metrics.json').read_text())
  document['receipt']['protocol']['threshold'] = 0.7
  (other / 'metrics.json').write_text(json.dumps(document))
  with pytest.raises(InputError, match='protocol threshold 0.5 and 0.7'):
    two_runs.compare_runs(folders[0], other)


def test_refuses_strangers(folders, tmp_path):
  other = shutil.copytree(folders[1], tmp_path / 'other')
  table = other / 'per_case.csv'
  table.write_text(table.read_text().replace('patient0', 'stranger'))
  with pytest.raises(InputError, match='no common patient'):
    two_runs.compare_runs(folders[0], other)


@pytest.mark.slow
@pytest.mark.parametrize(
  'options, message',
  [
    ({'checkpoint_step': 5000}, 'steps: 1000, 5000'),
    ({'which': 'student'}, 'networks: teacher, student'),
    ({'image_size': 96}, 'image sizes: 48, 96'),
    ({'git_revision': 'fff'}, 'git revisions: abc1234, fff'),
    ({'versions': {'jax': '0'}}, 'different versions of .*jax'),
    ({'run': 'good'}, 'the same checkpoint of the same run'),
    ({}, 'one config from one seed'),
  ],
)
def test_warns(folders, tmp_path, options, message):
  other = write_run(tmp_path / 'other', BAD, **options)
  found = two_runs.compare_runs(folders[0], other, resamples=20)
  assert any(re.search(message, warning) for warning in found['warnings'])


def test_teacher_and_student_of_a_run_may_differ(folders, tmp_path):
  other = write_run(tmp_path / 'other', BAD, which='student')
  found = two_runs.compare_runs(folders[0], other, resamples=20)
  assert not any('expect no difference' in w for w in found['warnings'])


def test_no_warning_without_a_cause(found):
  assert len(found['warnings']) == 1  # one training run each


def test_p_values_as_text():
  assert textio.p_text(0.03125) == '.0312' and textio.p_text(1.0) == '1.0000'
  assert textio.p_text(3e-7) == '<.0001'
  assert textio.p_text(None) == textio.p_text(math.nan) == 'n/a'
