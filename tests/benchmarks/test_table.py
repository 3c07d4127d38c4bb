"""The table of goals, and the cases that fill it."""

import json
import pathlib

import pytest

from benchmarks.speed import goals, speed, table

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / 'benchmarks' / 'results'


@pytest.mark.parametrize('name, machine', [('cpu', 'cpu'), ('h200', 'gpu')])
def test_published_tables_are_of_the_published_lines(name, machine):
  path = RESULTS / f'speed_{name}.jsonl'
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert goals.table(goals.Lines(lines), machine) == (path.with_suffix('.md').read_text())


def line(case, part, median, **values):
  return {
    'case': case,
    'part': part,
    'median': median,
    'p25': 0.9 * median,
    'p75': 1.1 * median,
    'values': values,
    'device': 'abacus',
    'cpus': 1,
    'git_revision': 'r1',
  }


def row(text, quantity):
  found = [one for one in text.splitlines() if one.startswith(f'| {quantity} ')]
  assert len(found) == 1
  return [cell.strip() for cell in found[0].strip('|').split('|')][1:]


def test_goals_are_met_or_missed():
  text = goals.table(
    goals.Lines(
      [
        line('paper', 'forward', 5.0),
        line('paper', 'train', 0.1, time_over_forward=9.0, time_over_forward_plain=4.0),
        line('sscf_1', 'torch_sscf', 2.0, forward_time_over_this=1.14),
        line('input_112', 'input', 1000.0, first_batch_s=0.5),
        {'case': 'lite', 'failed': 'out of beads'},
        {'case': 'paper', 'part': 'stream', 'skipped': 'too short', 'git_revision': 'r2'},
      ]
    ),
    'cpu',
  )
  assert row(text, 'paper forward, s a clip') == [
    '2',
    '1.82 to 2.22',
    '<= 1.3',
    '**missed, 1.54 x**',
  ]
  # The goal is for the step's own forward.
  assert row(text, 'paper step over its forward, mean teacher') == ['4', '', '<= 5', 'met']
  assert row(text, 'paper step over forward, mean teacher') == ['9', '', '', '']
  assert row(text, 'SSCF over its torch twin, 1 target frames')[3] == ('**missed, 1.20 x**')
  assert row(text, 'input, 10 x 112 x 112, clips/s')[3] == '**missed, 1.50 x**'
  assert row(text, 'first batch, 112, s')[3] == 'met'
  assert row(text, 'first batch, 256, s') == ['', '', '<= 2', 'not measured']
  assert '- lite: out of beads' in text
  assert '- paper, stream: too short' in text
  assert text.startswith('abacus, 1 cores, revision r1, r2;')


def test_on_an_accelerator_there_is_one_forward():
  text = goals.table(
    goals.Lines([line(f'train_{goals.MIDDLE}', 'train', 9.0, time_over_forward=5.5)]), 'gpu'
  )
  assert row(text, 'paper step over forward, mean teacher')[2:] == ['<= 5', '**missed, 1.10 x**']
  assert 'its forward' not in text


@pytest.mark.parametrize('machine', ['cpu', 'gpu'], ids='on_{}'.format)
def test_cases_can_be_run(machine):
  cases = list(table.cpu_cases() if machine == 'cpu' else table.gpu_cases())
  assert len({case.name for case in cases}) == len(cases) > 5
  for case in cases:
    flags = dict(flag.lstrip('-').split('=', 1) for flag in case.flags if '=' in flag)
    assert (ROOT / flags['config']).is_file()
    assert speed.check_parts(flags['parts'].split(','))
