"""An evaluation read back is the one that was written, or an error."""

import csv
import json
import shutil

import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.comparison.read import read_evaluation
from tests.evaluation.runs import write_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp('files') / 'run', [1, 2, 4])


@pytest.fixture
def copy(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / 'copy')


def test_patients_are_the_unit(folder):
  found = read_evaluation(folder)
  with (folder / 'per_case.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 6 and found.patients == ('patient0001', 'patient0002', 'patient0003')
  mean = sum(float(r['lv_hd']) for r in rows[2:4]) / 2
  assert found.values['lv_hd']['patient0002'] == pytest.approx(mean)
  error = abs(float(rows[0]['ef_predicted']) - float(rows[0]['ef_reference']))
  assert found.values['ef_error']['patient0001'] == pytest.approx(error)
  assert found.label == 'run'
  units = {q.name: (q.unit, q.better) for q in found.quantities()}
  assert units['lv_dice'] == ('%', 'higher')
  assert units['lv_hd'] == ('mm', 'lower')
  assert units['area_roughness'] == ('%', '')
  assert 'ef_error_whole_clip' not in units  # not scored here


def edit(path, change):
  document = json.loads(path.read_text())
  change(document)
  path.write_text(json.dumps(document))


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda d: d.pop('classes'), 'found no classes.*older'),
    (lambda d: d['receipt'].pop('protocol'), 'protocol in its receipt'),
    (lambda d: d.update(receipt=None), 'protocol in its receipt'),
    (lambda d: d.update(n_patients=4), '3 patients and 6 clips, wanted the 4'),
    (lambda d: d['classes']['lv']['hd'].update(mean=1.5), 'mean lv hd .* wanted the 1.5'),
    (lambda d: d['classes'].update(la=d['classes']['lv']), 'found no column la_dice'),
  ],
)
def test_foreign_or_older_metrics(copy, change, message):
  edit(copy / 'metrics.json', change)
  with pytest.raises(InputError, match=message) as caught:
    read_evaluation(copy)
  assert '\n' not in str(caught.value) and str(copy) in str(caught.value)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda t: t[:1], 'found no rows'),
    (lambda t: [t[0], t[1], t[1], *t[3:]], 'patient0001 2CH more than once'),
    (lambda t: [t[0].replace('lv_asd', 'x'), *t[1:]], 'no column lv_asd'),
    (lambda t: [*t[:2], t[2].replace('mm', 'mm,0'), *t[3:]], 'line 3: found'),
    (lambda t: [*t[:2], t[2].replace(',mm', 'x,mm'), *t[3:]], 'line 3, column lv_asd: found .*x'),
    (lambda t: [*t[:2], t[2].rsplit(',', 20)[0], *t[3:]], 'line 3, column .* found None'),
    (lambda t: t[:-1], '3 patients and 5 clips'),
  ],
)
def test_damaged_table(copy, change, message):
  path = copy / 'per_case.csv'
  path.write_text('\n'.join(change(path.read_text().splitlines())) + '\n')
  with pytest.raises(InputError, match=message) as caught:
    read_evaluation(copy)
  assert 'per_case.csv' in str(caught.value)


def test_missing_files(tmp_path, copy):
  with pytest.raises(InputError, match='metrics.json: cannot be read .No such'):
    read_evaluation(tmp_path / 'nowhere')
  (copy / 'metrics.json').write_text('{')
  with pytest.raises(InputError, match='metrics.json: cannot be read'):
    read_evaluation(copy)
  (copy / 'metrics.json').write_text('[1]')
  with pytest.raises(InputError, match='another program'):
    read_evaluation(copy)
