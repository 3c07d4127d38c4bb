"""Means, spreads and differences of known lines; the files they become."""

import json

import numpy as np
import pytest

from echoforge_jax.experiments import tables
from echoforge_jax.experiments.cost import Cost


@pytest.fixture
def summary(small_study, line):
  lines = [
    line(row, seed, gain) for seed in range(3) for row, gain in (('baseline', 0.0), ('all', 0.03))
  ]
  return tables.summarise(small_study, lines, resamples=200)


@pytest.mark.slow
def test_differences_are_those_of_the_same_patients(summary):
  base, best = summary['rows']
  assert summary['n_patients'] == 12 and summary['seeds'] == [0, 1, 2]
  assert best['dice']['mean'] == pytest.approx(0.8 + 0.03 + 0.015 + 0.001)
  assert best['dice']['sd'] == pytest.approx(0.001)
  # Every patient gains as much: no spread but that of rounding.
  assert best['dice']['difference'] == pytest.approx(0.03)
  np.testing.assert_allclose(best['dice']['difference_ci95'], 0.03, rtol=1e-6)
  low, high = best['dice']['ci95']
  assert low < best['dice']['mean'] < high
  # Twelve patients who agree: 2^-11; the only row but the reference.
  assert best['dice']['p_value'] == pytest.approx(2**-11)
  assert best['dice']['p_holm'] == best['dice']['p_value']
  assert best['asd']['difference'] == pytest.approx(-0.03)
  assert base['dice']['difference'] is None
  assert base['dice']['p_value'] is None
  assert best['ef_bias']['mean'] == pytest.approx(-2)
  assert best['ef_pearson_r']['mean'] == pytest.approx(1)


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
  assert '| 84.60 [' in row and '| +3.00 [3.00, 3.00] | .0005 |' in row
  assert row.endswith('| 2.50 | 12.50 | 80 |')
  assert 'camus_full on camus test (synthetic, raw files 0123abcd)' in text
  assert 'revision abc1234; jax 0.10.2' in text
  found = json.loads((tmp_path / 'rows.json').read_text())
  assert found['costs']['all']['gflop'] == 12.5


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
  assert row['ef_bias']['mean'] is None and row['asd']['mean'] is None
  assert row['asd']['n_patients'] == 0
  assert row['dice']['mean'] == 0
  for path in tables.write(summary, tmp_path):
    assert path.stat().st_size > 500
