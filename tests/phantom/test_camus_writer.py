"""The writer: layout, same bytes, resuming, the truth beside the files."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from echoforge_jax.errors import InputError
from echoforge_jax.phantom import camus_writer
from echoforge_jax.phantom.camus_writer import write_camus
from tests.phantom import ellipses


def _write(out, num_patients=3, seed=0, generate=ellipses.generate, **kwargs):
  kwargs.setdefault('config', ellipses.Config())
  return write_camus(
    out, num_patients=num_patients, seed=seed, generate=generate, progress=False, **kwargs
  )


def fingerprint(folder):
  digest = hashlib.sha256()
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      digest.update(f'{path.relative_to(folder)}\0'.encode())
      digest.update(hashlib.sha256(path.read_bytes()).digest())
  return digest.hexdigest()


def _tree(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def test_nifti_layout_is_the_providers(tmp_path):
  _write(tmp_path)
  wanted = ['phantom.json'] + [
    f'database_split/subgroup_{name}.txt' for name in ('training', 'validation', 'testing')
  ]
  for number in (1, 2, 3):
    patient = f'patient{number:04d}'
    folder = f'database_nifti/{patient}'
    for view in ('2CH', '4CH'):
      wanted.append(f'{folder}/Info_{view}.cfg')
      wanted += [
        f'{folder}/{patient}_{view}_{name}{suffix}.nii.gz'
        for name in ('ED', 'ES', 'half_sequence')
        for suffix in ('', '_gt')
      ]
  assert _tree(tmp_path) == sorted(wanted)


def test_mhd_layout_is_the_older_one(tmp_path):
  _write(tmp_path, layout='mhd')
  names = [name for name in _tree(tmp_path) if 'patient0001' in name]
  stems = [
    f'patient0001_{view}_{name}{ending}'
    for view in ('2CH', '4CH')
    for name in ('sequence', 'ED', 'ED_gt', 'ES', 'ES_gt')
    for ending in ('.mhd', '.raw')
  ]
  assert sorted(Path(name).name for name in names) == sorted(
    stems + ['Info_2CH.cfg', 'Info_4CH.cfg']
  )
  assert not (tmp_path / 'database_split').exists()
  folders = {Path(name).parts[0] for name in _tree(tmp_path)}
  assert folders == {'training', 'testing', 'phantom.json'}


def test_cfg_keys(tmp_path):
  _write(tmp_path / 'a')
  _write(tmp_path / 'b', layout='mhd')
  text = (tmp_path / 'a/database_nifti/patient0001/Info_2CH.cfg').read_text()
  keys = [line.split(': ')[0] for line in text.splitlines()]
  assert keys == ['ED', 'ES', 'NbFrame', 'Sex', 'Age', 'ImageQuality', 'EF', 'FrameRate']
  text = next((tmp_path / 'b').glob('*/patient0001/Info_2CH.cfg')).read_text()
  keys = [line.split(': ')[0] for line in text.splitlines()]
  assert keys == ['ED', 'ES', 'NbFrame', 'Sex', 'Age', 'ImageQuality', 'LVedv', 'LVesv', 'LVef']


def test_header_orientation_and_spacing(tmp_path):
  _write(tmp_path, config=ellipses.Config(spacing_mm=1.54))
  folder = tmp_path / 'database_nifti' / 'patient0001'
  image = sitk.ReadImage(str(folder / 'patient0001_4CH_half_sequence.nii.gz'))
  assert image.GetSpacing() == pytest.approx((1.54, 1.54, 1.0))
  assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
  assert image.GetOrigin() == (0, 0, 0)
  assert image.GetPixelID() == sitk.sitkUInt8
  assert image.GetSize()[:2] == (48, 40)
  single = sitk.ReadImage(str(folder / 'patient0001_4CH_ED.nii.gz'))
  assert single.GetSize() == (48, 40)
  older = tmp_path / 'older'
  _write(older, layout='mhd', config=ellipses.Config(spacing_mm=1.54))
  path = next(older.glob('*/patient0001/patient0001_4CH_sequence.mhd'))
  assert sitk.ReadImage(str(path)).GetSpacing() == pytest.approx((1.54, 0.77, 1.54))


def test_es_first_is_in_cfg_and_files(tmp_path):
  truth = _write(tmp_path)
  assert truth['patients']['patient0002']['es_first']['4CH']
  folder = tmp_path / 'database_nifti' / 'patient0002'
  cfg = dict(line.split(': ') for line in (folder / 'Info_4CH.cfg').read_text().splitlines())
  assert cfg['ES'] == '1' and cfg['ED'] == cfg['NbFrame']

  def read(name):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f'patient0002_4CH_{name}.nii.gz')))

  sequence, masks = read('half_sequence'), read('half_sequence_gt')
  np.testing.assert_array_equal(read('ES'), sequence[0])
  np.testing.assert_array_equal(read('ED'), sequence[-1])
  np.testing.assert_array_equal(read('ED_gt'), masks[-1])
  assert (read('ED_gt') == 1).sum() > (read('ES_gt') == 1).sum()


def test_es_first_share():
  draws = [
    camus_writer._es_first(0, index, view) for index in range(300) for view in ('2CH', '4CH')
  ]
  assert 0.05 < np.mean(draws) < 0.16


@pytest.mark.parametrize('layout', ['nifti', 'mhd'])
def test_same_seed_same_bytes(tmp_path, layout):
  _write(tmp_path / 'a', seed=5, layout=layout)
  _write(tmp_path / 'b', seed=5, layout=layout)
  _write(tmp_path / 'c', seed=6, layout=layout)
  a, b, c = (fingerprint(tmp_path / name) for name in 'abc')
  assert a == b != c


def test_gzip_headers_hold_no_time(tmp_path):
  _write(tmp_path)
  for path in tmp_path.rglob('*.nii.gz'):
    data = path.read_bytes()
    assert data[4:8] == bytes(4), path
    assert not data[3] & 8, f'{path}: a file name in the gzip header'
    gzip.decompress(data)


@pytest.mark.parametrize('layout', ['nifti', 'mhd'])
def test_interrupted_run_continues(tmp_path, layout):
  calls = []

  def stops_at_patient_3(seed, index, config):
    calls.append(index)
    if index == 2:
      raise KeyboardInterrupt
    return ellipses.generate(seed, index, config)

  _write(tmp_path / 'whole', 4, layout=layout)
  out = tmp_path / 'out'
  with pytest.raises(KeyboardInterrupt):
    _write(out, 4, layout=layout, generate=stops_at_patient_3)
  assert calls == [0, 1, 2]
  assert sorted(json.loads((out / 'phantom.json').read_text())['patients']) == [
    'patient0001',
    'patient0002',
  ]
  before = {path: path.stat().st_mtime_ns for path in out.rglob('patient*.*')}
  assert before

  def counts(seed, index, config):
    calls.append(index)
    return ellipses.generate(seed, index, config)

  _write(out, 4, layout=layout, generate=counts)
  assert calls == [0, 1, 2, 2, 3]
  assert all(path.stat().st_mtime_ns == time for path, time in before.items())
  assert fingerprint(out) == fingerprint(tmp_path / 'whole')


def test_half_written_patient_is_made_again(tmp_path):
  _write(tmp_path / 'whole')

  def second_lacks_a_view(seed, index, config):
    patient = ellipses.generate(seed, index, config)
    if index == 1:
      del patient.clips['4CH']
    return patient

  with pytest.raises(KeyError, match='4CH'):
    _write(tmp_path / 'out', generate=second_lacks_a_view)
  folder = tmp_path / 'out' / 'database_nifti'
  assert list(folder.glob('.patient0002.partial/*_2CH_*'))
  assert not (folder / 'patient0002').exists()
  _write(tmp_path / 'out')
  assert fingerprint(tmp_path / 'out') == fingerprint(tmp_path / 'whole')


def test_finished_run_makes_nothing(tmp_path):
  _write(tmp_path)
  before = fingerprint(tmp_path)

  def never(*_):
    raise AssertionError('a finished patient was made again')

  _write(tmp_path, generate=never)
  assert fingerprint(tmp_path) == before


def test_truth_is_exact(tmp_path):
  truth = _write(tmp_path, seed=9)
  assert json.loads((tmp_path / 'phantom.json').read_text()) == truth
  for index in range(3):
    patient = ellipses.generate(9, index)
    facts = truth['patients'][f'patient{index + 1:04d}']
    assert facts['edv_ml'] == patient.edv_ml
    assert facts['esv_ml'] == patient.esv_ml
    assert facts['ef_percent'] == patient.ef_percent
    assert (facts['sex'], facts['age']) == (patient.sex, patient.age)


@pytest.mark.parametrize(
  'count, sizes',
  [
    (1, [1, 0, 0]),
    (2, [1, 0, 1]),
    (3, [1, 1, 1]),
    (4, [2, 1, 1]),
    (20, [16, 2, 2]),
    (100, [80, 10, 10]),
    (500, [400, 50, 50]),
  ],
)
def test_split_proportions(count, sizes):
  splits = camus_writer.split_patients(count, seed=1)
  assert [len(part) for part in splits.values()] == sizes
  everyone = sum(splits.values(), [])
  assert len(set(everyone)) == count
  assert all(part == sorted(part) for part in splits.values())


def test_chosen_number_of_test_patients():
  splits = camus_writer.split_patients(20, seed=1, num_test=7)
  assert [len(part) for part in splits.values()] == [11, 2, 7]
  for wrong in (0, 18):
    with pytest.raises(InputError, match='num_test is'):
      camus_writer.split_patients(20, seed=1, num_test=wrong)


def test_misuse(tmp_path):
  for kwargs in ({'num_patients': 0}, {'seed': -1}, {'layout': 'dicom'}):
    with pytest.raises(InputError):
      _write(tmp_path / 'x', **kwargs)
  assert not (tmp_path / 'x').exists()
  _write(tmp_path / 'a')
  for kwargs in (
    {'seed': 1},
    {'num_patients': 4},
    {'layout': 'mhd'},
    {'num_test': 2, 'num_patients': 4},
    {'config': ellipses.Config(width=64)},
  ):
    with pytest.raises(InputError, match='phantom.json.*another'):
      _write(tmp_path / 'a', **kwargs)
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'thesis.tex').write_text('')
  with pytest.raises(InputError, match='holds files'):
    _write(tmp_path / 'b')
  with pytest.raises(InputError, match='is a file'):
    _write(tmp_path / 'b' / 'thesis.tex')
  with pytest.raises(InputError, match='cannot be written'):
    _write(tmp_path / 'b' / 'thesis.tex' / 'x')
  (tmp_path / 'a' / 'phantom.json').write_text('{')
  with pytest.raises(InputError, match='phantom.json'):
    _write(tmp_path / 'a')


@pytest.mark.slow
def test_workers_write_the_same_bytes(tmp_path):
  _write(tmp_path / 'one')
  truth = _write(tmp_path / 'two', num_workers=2)
  assert len(truth['patients']) == 3
  assert fingerprint(tmp_path / 'one') == fingerprint(tmp_path / 'two')
