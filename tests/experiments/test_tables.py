"""Means, spreads and differences of known lines; the files they become."""

import json

import numpy as np
import pytest
from scipy import stats

from echoforge_jax.experiments import study, tables
from echoforge_jax.experiments.cost import Cost


@pytest.fixture
def summary(small_study, line):
  """Eight seeds; the reference has nine."""
  lines = [
    line(row, seed, gain + 0.002 * (seed % 2) * (row == 'all'))
    for seed in range(8)
    for row, gain in (('baseline', 0.0), ('all', 0.03))
  ]
  return tables.summarise(small_study, [*lines, line('baseline', 8, 0.0)], resamples=200)


def test_differences_are_those_of_the_same_seeds(summary):
  base, best = summary['rows']
  assert (base['n_seeds'], best['n_seeds'], summary['n_patients']) == (9, 8, 12)
  assert best['dice']['mean'] == pytest.approx(0.8 + 0.031 + 0.015 + 0.0035)
  test = best['dice']['compared']
  apart = 0.03 + 0.002 * (np.arange(8) % 2)
  assert test['values'] == pytest.approx(apart) and test['enough']
  expected = stats.ttest_1samp(apart, 0)
  assert test['p_holm'] == pytest.approx(test['p_value'])  # The only row but the reference.
  assert test['p_value'] == pytest.approx(expected.pvalue, rel=1e-3)
  assert test['t_ci95'] == pytest.approx([*expected.confidence_interval()])
  # Every patient gains as much: no spread over patients but that of rounding.
  np.testing.assert_allclose(test['patients_ci95'], 0.031, rtol=1e-6)
  low, high = best['dice']['patients_ci95']
  assert low < best['dice']['mean'] < high
  assert best['asd']['compared']['difference'] == pytest.approx(-0.031)
  assert base['dice']['compared'] is None
  assert best['ef_bias']['mean'] == pytest.approx(-2)
  assert best['ef_pearson_r']['mean'] == pytest.approx(1)
  assert best['ef_4CH_mae']['mean'] == pytest.approx(1)
  assert best['parts']['lv_dice_4CH_ED']['mean'] == pytest.approx(best['dice']['mean'])


@pytest.mark.slow
def test_files(summary, tmp_path):
  costs = {
    name: Cost({'encoder': 2_500_000}, 12.5, 10, 96, 80.0, (70.0, 90.0), 3.0)
    for name in ('baseline', 'all')
  }
  for path in tables.write(summary, tmp_path, costs):
    assert path.stat().st_size > 500
  text = (tmp_path / 'rows.md').read_text()
  (row,) = [x for x in text.splitlines() if '(`all`)' in x]
  assert '| 84.95 [' in row and '| +3.10 [3.01, 3.19] | [3.10, 3.10] | <.0001 |' in row
  assert row.endswith('| 2.50 | 12.50 | 80 |')
  assert '| lv Dice 4CH ED | lv ASD mm 4CH | EF 4CH MAE, r |' in text
  assert 'camus_full on camus test (synthetic, raw files 0123abcd)' in text
  assert 'revision abc1234; jax 0.10.2' in text
  found = json.loads((tmp_path / 'rows.json').read_text())
  assert found['costs']['all']['gflop'] == 12.5
  tex = (tmp_path / 'rows.tex').read_text()
  assert tex.count(r'\toprule') == tex.count(r'\bottomrule') == 2
  assert r'Dice (\%)' in tex and r'(\texttt{all}) & 8 & 84.95' in tex
  for row in tex.splitlines():
    if row.endswith(r'\\'):
      assert row.count('&') - row.count(r'\&') in (14, 3)


def test_fewer_than_eight_seeds_make_no_claim(small_study, line):
  lines = [
    line(row, seed, gain) for seed in range(7) for row, gain in (('baseline', 0.0), ('all', 0.03))
  ]
  summary = tables.summarise(small_study, lines, resamples=50)
  assert 'too few seeds for a claim' in tables.markdown(summary)
  assert 'p_holm' not in summary['rows'][1]['dice']['compared']
  # One run of one row only: a table all the same.
  alone = tables.summarise(small_study, lines[1:2], resamples=50)
  assert [row['name'] for row in alone['rows']] == ['all']
  assert '(`all`) | 1 | 84.50 [' in tables.markdown(alone)


@pytest.mark.slow
def test_what_weights_are_worth_in_labels(line, tmp_path):
  """Random weights gain 1 point with each doubling, those of phantoms have 1 point more."""
  labels = study.get_study('labels', patients=[10, 20, 40])
  lines = [
    line(f'{name}_{n}', seed, 0.01 * np.log2(n / 10) + gain + 1e-4 * (seed % 2), labeled_patients=n)
    for seed in range(8)
    for n in (10, 20, 40)
    for name, gain in (('random', 0.0), ('phantom', 0.01))
  ]
  summary = tables.summarise(labels, lines, resamples=50)
  first, second = summary['worth']
  assert first['equals'] == pytest.approx(20, rel=1e-3)
  assert 16 < first['ci95'][0] < 20 < first['ci95'][1] < 25
  assert second['equals'] == pytest.approx(40, rel=1e-3)
  text = tables.markdown(summary)
  assert (
    '`phantom_10`, with 10 patients, is as good as the reference with 20 [17, 24] (8 seeds)' in text
  )
  assert 'with 20 patients, is as good as the reference with >= 40 [' in text
  for path in tables.write(summary, tmp_path):
    assert path.stat().st_size > 500
  # A single seed has no interval.
  alone = tables.summarise(labels, [x for x in lines if x['seed'] == 0], resamples=50)
  assert alone['worth'][0]['ci95'] == [None, None]
  assert 'is as good as the reference with 20 (1 seed)' in tables.markdown(alone)


@pytest.mark.slow
def test_a_row_that_finds_nothing_has_no_numbers_of_its_own(small_study, line, tmp_path):
  lines = [line(row, seed, 0.0) for seed in range(2) for row in ('baseline', 'all')]
  for found in lines:
    if found['row'] == 'all':
      for values in found['patients'].values():
        values['dice'] = 0.0
        for name in ('ef_predicted', 'inconsistent', 'asd'):
          del values[name]
  summary = tables.summarise(small_study, lines, resamples=100)
  row = summary['rows'][1]
  assert row['ef_bias']['mean'] is None and 'asd' not in row
  assert row['dice']['mean'] == 0
  for path in tables.write(summary, tmp_path):
    assert path.stat().st_size > 500
