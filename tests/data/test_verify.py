"""Verification: clean phantoms pass, every broken fixture is named."""

import gzip
import json
from pathlib import Path
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from echoforge_jax.data.verify import verify_camus
from echoforge_jax.errors import InputError
from echoforge_jax.formats import camus
from echoforge_jax.formats.findings import CODES, as_json, summary
from echoforge_jax.phantom.camus_writer import write_camus
from tests.data import test_camus_stills, test_datasets, test_malformed_folders, test_verify_echonet
from tests.phantom import ellipses


def _write(root, layout):
  write_camus(
    root,
    num_patients=4,
    seed=3,
    layout=layout,
    config=ellipses.Config(),
    generate=ellipses.generate,
    progress=False,
  )
  return root


@pytest.fixture(scope='module')
def nifti(tmp_path_factory):
  return _write(tmp_path_factory.mktemp('verify') / 'nifti', 'nifti')


@pytest.fixture(scope='module')
def mhd(tmp_path_factory):
  return _write(tmp_path_factory.mktemp('verify') / 'mhd', 'mhd')


@pytest.mark.parametrize('layout', ['nifti', 'mhd'])
def test_clean_phantom_has_no_error(layout, request):
  findings = verify_camus(request.getfixturevalue(layout))
  # Two sequences of this seed are stored from ES to ED; nothing else is odd.
  assert [(finding.code, finding.severity) for finding in findings] == [
    ('es-before-ed', 'warning')
  ] * 2
  assert all(Path(finding.file).is_file() for finding in findings)


# -- mutations of one file; each names what must be reported -----------------


def _image(path):
  return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def _save(path, array, spacing=(3.08, 3.08, 1.0)):
  image = sitk.GetImageFromArray(array)
  image.SetSpacing(spacing[: image.GetDimension()])
  sitk.WriteImage(image, str(path))


def _change(function, **kwargs):
  def mutate(path):
    _save(path, function(_image(path)), **kwargs)

  return mutate


def _cut(path):
  path.write_bytes(path.read_bytes()[:-100])


def _flip_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


def _short_payload(path):
  path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-500]))


def _header(offset, data):
  def mutate(path):
    payload = bytearray(gzip.decompress(path.read_bytes()))
    payload[offset : offset + len(data)] = data
    path.write_bytes(gzip.compress(bytes(payload)))

  return mutate


def _line(start, new):
  def mutate(path):
    path.write_text(
      '\n'.join(new if line.startswith(start) else line for line in path.read_text().splitlines())
      + '\n'
    )

  return mutate


def _append(text):
  def mutate(path):
    path.write_text((path.read_text() if path.exists() else '') + text)

  return mutate


def _labels(label, new, frames=slice(None)):
  def change(masks):
    masks = masks.copy()
    part = masks[frames]
    part[part == label] = new
    return masks

  return _change(change)


def _swap_ends(path):
  """The last frame's larger ventricle makes ED the smaller one."""
  _save(path, _image(path)[::-1])


def _grow_es(path):
  masks = _image(path)
  rows, columns = np.nonzero(masks[0] == 1)
  target = masks[-1]
  target[target == 1] = 2
  keep = int(0.98 * len(rows))
  target[rows[:keep], columns[:keep]] = 1
  masks[0][masks[0] == 1] = 2
  masks[0][rows[: keep - 1], columns[: keep - 1]] = 1
  _save(path, masks)


def _touch_border(masks):
  masks = masks.copy()
  masks[..., -1, 20:30] = 3
  return masks


def _copy_of(other):
  def mutate(path):
    shutil.copy(path.parent / other, path)

  return mutate


def _copy_patient(path):
  for view in ('2CH', '4CH'):
    for name in ('ED', 'ES', 'half_sequence'):
      for suffix in ('', '_gt'):
        tail = f'_{view}_{name}{suffix}.nii.gz'
        shutil.copy(
          path.parents[1] / 'patient0001' / f'patient0001{tail}',
          path.parents[1] / 'patient0003' / f'patient0003{tail}',
        )
  for view in ('2CH', '4CH'):
    shutil.copy(
      path.parents[1] / 'patient0001' / f'Info_{view}.cfg',
      path.parents[1] / 'patient0003' / f'Info_{view}.cfg',
    )


P = 'database_nifti/patient0003/'
SEQ = P + 'patient0003_2CH_half_sequence.nii.gz'
SEQ_GT = P + 'patient0003_2CH_half_sequence_gt.nii.gz'
ED_FILE = P + 'patient0003_2CH_ED.nii.gz'
ED_GT = P + 'patient0003_2CH_ED_gt.nii.gz'
CFG = P + 'Info_2CH.cfg'
TRAIN = 'database_split/subgroup_training.txt'
VALID = 'database_split/subgroup_validation.txt'
TEST = 'database_split/subgroup_testing.txt'

# Code expected, file at fault, mutation of it.
BROKEN = [
  ('missing-file', SEQ, Path.unlink),
  ('missing-file', SEQ_GT, Path.unlink),
  ('missing-file', ED_GT, Path.unlink),
  ('missing-file', CFG, Path.unlink),
  ('truncated-file', SEQ, _cut),
  ('truncated-file', SEQ_GT, _cut),
  ('truncated-file', ED_FILE, _cut),
  ('truncated-file', SEQ, _short_payload),
  ('truncated-file', SEQ, lambda path: path.write_bytes(path.read_bytes()[:20])),
  ('damaged-file', SEQ, _flip_bit),
  ('damaged-file', SEQ, lambda path: path.write_bytes(b'')),
  ('damaged-file', SEQ, lambda path: path.write_text('<html>404</html>')),
  ('damaged-file', SEQ, _header(40, bytes(16))),
  ('stray-file', P + 'patient0003_2CH_half_sequence (1).nii.gz', _append('x')),
  ('stray-file', 'database_nifti/.DS_Store', _append('x')),
  (
    'volume-shape',
    SEQ,
    _change(lambda array: np.stack([array, array, array]), spacing=(3.08, 3.08, 1.0, 1.0)),
  ),
  ('shape-mismatch', SEQ_GT, _change(lambda array: array[:, :, :-1])),
  ('shape-mismatch', SEQ_GT, _change(lambda array: array[:-1])),
  ('shape-mismatch', ED_FILE, _change(lambda array: array[:-1])),
  ('shape-mismatch', ED_FILE, _copy_of(Path(SEQ).name)),
  ('frame-mismatch', ED_FILE, _change(lambda array: array[:, ::-1])),
  ('frame-mismatch', ED_GT, _change(lambda array: np.roll(array, 3, 1))),
  ('frame-order', ED_GT, _copy_of('patient0003_2CH_ES_gt.nii.gz')),
  ('frame-order', ED_FILE, lambda path: _swap_ends(path.parent / Path(SEQ).name)),
  ('voxel-dtype', SEQ, _change(lambda array: array.astype(np.float32))),
  ('voxel-dtype', SEQ_GT, _change(lambda array: array.astype(np.int16))),
  ('voxel-values', SEQ, _change(lambda array: array / np.float32(255))),
  ('voxel-values', SEQ, _change(lambda array: array.astype(np.int16) - 9)),
  (
    'voxel-values',
    SEQ,
    _change(lambda array: np.where(array > 100, np.nan, array).astype(np.float32)),
  ),
  ('voxel-values', ED_GT, _change(lambda array: array.astype(np.float32) * 0.5)),
  ('image-blank', SEQ, _change(np.zeros_like)),
  (
    'image-blank',
    SEQ,
    _change(lambda array: array * (np.arange(len(array)) != 2)[:, None, None].astype(np.uint8)),
  ),
  ('image-is-mask', SEQ, _copy_of(Path(SEQ_GT).name)),
  ('label-values', SEQ_GT, _labels(1, 255)),
  ('label-values', ED_GT, _labels(3, 4)),
  ('lv-empty', SEQ_GT, _labels(1, 2, slice(0, 1))),
  ('lv-empty', SEQ_GT, _labels(1, 2)),
  ('lv-empty', SEQ_GT, _change(np.zeros_like)),
  (
    'frame-unlabeled',
    SEQ_GT,
    _change(lambda masks: masks * (np.arange(len(masks)) != 2)[:, None, None].astype(np.uint8)),
  ),
  ('frame-unlabeled', SEQ_GT, _labels(1, 2, slice(2, 3))),
  ('ed-es-swapped', CFG, lambda path: _swap_ends(path.parent / Path(SEQ_GT).name)),
  ('ed-es-close', CFG, lambda path: _grow_es(path.parent / Path(SEQ_GT).name)),
  (
    'es-before-ed',
    CFG,
    lambda path: path.write_text(
      path.read_text().replace('ED: 1\n', 'ED: 5\n').replace('ES: 5\n', 'ES: 1\n')
    ),
  ),
  ('atrium-cut', SEQ_GT, _change(_touch_border)),
  ('spacing-missing', SEQ, _header(80, bytes(8))),
  ('spacing-missing', SEQ, _header(80, np.float32(np.nan).tobytes())),
  ('spacing-implausible', SEQ, _change(lambda array: array, spacing=(0.00308, 0.00308, 1.0))),
  ('spacing-implausible', SEQ, _change(lambda array: array, spacing=(30.8, 30.8, 1.0))),
  ('spacing-mismatch', SEQ_GT, _change(lambda array: array, spacing=(3.08, 1.54, 1.0))),
  ('spacing-mismatch', ED_FILE, _change(lambda array: array, spacing=(3.0, 3.0))),
  ('cfg-unreadable', CFG, lambda path: path.write_bytes(b'\xff\xfe\x00')),
  ('cfg-unreadable', CFG, lambda path: path.write_text('')),
  ('cfg-frame', CFG, _line('ED', 'ED: 0')),
  ('cfg-frame', CFG, _line('ES', 'ES: 99')),
  ('cfg-frame', CFG, _line('ES', 'ES: last')),
  ('cfg-frame', CFG, _line('ES', '')),
  ('cfg-count', CFG, _line('NbFrame', 'NbFrame: 18')),
  ('cfg-count', CFG, _line('NbFrame', '')),
  ('ed-equals-es', CFG, _line('ES', 'ES: 1')),
  ('ef-range', CFG, _line('EF', 'EF: 153')),
  ('ef-range', CFG, _line('EF', 'EF: n/a')),
  ('quality-unknown', CFG, _line('ImageQuality', 'ImageQuality: Fine')),
  ('fps-range', CFG, _line('FrameRate', 'FrameRate: 0')),
  ('views-disagree', P + 'Info_4CH.cfg', _line('Age', 'Age: 3')),
  ('split-missing', TEST, Path.unlink),
  ('split-unreadable', TEST, lambda path: path.write_text('id\n')),
  ('split-unreadable', TEST, lambda path: path.write_bytes(b'\xff\xfe\x80')),
  ('split-empty', TEST, lambda path: path.write_text('\n\n')),
  ('split-duplicate', TEST, lambda path: path.write_text(2 * path.read_text())),
  (
    'split-leak',
    TEST,
    lambda path: path.write_text(path.read_text() + (path.parent / Path(TRAIN).name).read_text()),
  ),
  ('split-absent', TEST, _append('patient0451\n')),
  (
    'split-absent',
    VALID,
    lambda path: shutil.rmtree(path.parents[1] / 'database_nifti' / path.read_text().strip()),
  ),
  (
    'split-unlisted',
    'database_nifti/patient0001',
    lambda path: (path.parents[1] / TRAIN).write_text('patient0002\n'),
  ),
  ('duplicate-images', SEQ, lambda path: _copy_patient(path)),
  ('duplicate-images', P + 'patient0003_4CH_half_sequence.nii.gz', _copy_of(Path(SEQ).name)),
]


@pytest.mark.parametrize(
  'code, name, mutate', BROKEN, ids=[f'{number}-{case[0]}' for number, case in enumerate(BROKEN)]
)
def test_broken_fixture_is_named(nifti, tmp_path, code, name, mutate):
  root = tmp_path / 'raw'
  shutil.copytree(nifti, root)
  mutate(root / name)
  findings = verify_camus(root)
  mine = [finding for finding in findings if finding.code == code]
  assert str(root / name) in [finding.file for finding in mine], findings
  severity, _, remedy = CODES[code]
  assert mine[0].severity == severity
  assert mine[0].remedy == remedy
  assert mine[0].found and mine[0].wanted
  assert code in summary(findings, 4)
  # What stops the reader is one of them, word for word.
  try:
    camus.read_clip(root, 'patient0003', '2CH')
  except InputError as error:
    # Not that patient's fault: the test has deleted the whole folder.
    assert name == VALID or error.finding in findings
  # Nothing about the patients that were left alone.
  others = [
    finding
    for finding in findings
    if 'patient0004' in finding.file and not finding.code.startswith('split')
  ]
  assert not others


def test_mutations_cover_every_code():
  planted = {code for code, _, _ in BROKEN} | {'labels-withheld'}
  others = (test_verify_echonet, test_datasets, test_malformed_folders, test_camus_stills)
  assert planted.union(*(other.PLANTED for other in others)) == set(CODES)


def test_mutations_that_are_errors_stop_the_reader(nifti, tmp_path):
  """Whatever the reader returns as a clip had no error in its sequence."""
  passed = []
  for number, (code, name, mutate) in enumerate(BROKEN):
    if CODES[code][0] != 'error' or not name.startswith(P) or name not in (SEQ, SEQ_GT, CFG):
      continue
    root = tmp_path / str(number)
    shutil.copytree(nifti, root)
    mutate(root / name)
    try:
      camus.read_clip(root, 'patient0003', '2CH')
    except InputError as error:
      assert str(root) in str(error)
    else:
      passed.append(code)
  # Only verification knows these: they need other files or judgement.
  assert set(passed) == {
    'image-blank',
    'image-is-mask',
    'ed-es-swapped',
    'spacing-missing',
    'spacing-implausible',
    'spacing-mismatch',
    'ef-range',
    'duplicate-images',
    'cfg-count',
  }


RAW = 'training/patient0001/patient0001_2CH_sequence.raw'


@pytest.mark.parametrize(
  'code, name, mutate',
  [
    ('missing-file', RAW, Path.unlink),
    ('truncated-file', RAW, _cut),
    ('truncated-file', RAW, lambda path: path.write_bytes(path.read_bytes() + b'x')),
    (
      'damaged-file',
      RAW.replace('.raw', '.mhd'),
      lambda path: path.write_text('ObjectType = Image\n'),
    ),
    ('spacing-missing', RAW.replace('.raw', '.mhd'), _line('ElementSpacing', '')),
    ('missing-file', RAW.replace('sequence.raw', 'ES_gt.mhd'), Path.unlink),
    ('stray-file', RAW.replace('.raw', '.nii.gz'), _append('x')),
    ('ef-range', 'training/patient0001/Info_2CH.cfg', _line('LVef', '')),
  ],
)
def test_broken_mhd_is_named(mhd, tmp_path, code, name, mutate):
  root = tmp_path / 'raw'
  shutil.copytree(mhd, root)
  mutate(root / name)
  mine = [finding for finding in verify_camus(root) if finding.code == code]
  assert [finding.file for finding in mine] == [str(root / name)]


def test_withheld_labels_are_a_warning(mhd, tmp_path):
  root = tmp_path / 'raw'
  shutil.copytree(mhd, root)
  folder = next((root / 'testing').iterdir())
  for path in folder.glob('*_gt.*'):
    path.unlink()
  for path in folder.glob('*.cfg'):
    _line('LVef', '')(path)
  codes = [finding.code for finding in verify_camus(root) if str(folder) in finding.file]
  assert codes == ['labels-withheld'] * 2


def test_many_faults_are_all_reported(nifti, tmp_path):
  root = tmp_path / 'raw'
  shutil.copytree(nifti, root)
  cases = [
    ('damaged-file', 'patient0001', _flip_bit),
    ('missing-file', 'patient0002', Path.unlink),
    ('truncated-file', 'patient0003', _cut),
  ]
  for _, patient, mutate in cases:
    mutate(root / 'database_nifti' / patient / f'{patient}_4CH_half_sequence.nii.gz')
  (root / TEST).unlink()
  found = {
    (finding.code, Path(finding.file).name.split('_')[0])
    for finding in verify_camus(root)
    if finding.severity == 'error'
  }
  assert found == {(code, patient) for code, patient, _ in cases} | {('split-missing', 'subgroup')}


def test_threads_do_not_change_the_findings(nifti):
  assert verify_camus(nifti, num_threads=1) == verify_camus(nifti, num_threads=3)


def test_json_form(nifti):
  findings = verify_camus(nifti)
  report = json.loads(json.dumps(as_json(findings, dataset='camus', raw_dir=nifti, num_patients=4)))
  assert report['errors'] == 0 and report['warnings'] == 2
  assert set(report['findings'][0]) == {'severity', 'code', 'file', 'found', 'wanted', 'remedy'}


def test_missing_folder(tmp_path):
  with pytest.raises(InputError, match='database_nifti'):
    verify_camus(tmp_path)


def test_every_code_is_documented():
  text = (Path(__file__).parents[2] / 'docs' / 'data.md').read_text()
  documented = dict(re.findall(r'^\| `([a-z-]+)` \| (error|warning) \|', text, re.MULTILINE))
  assert documented == {code: entry[0] for code, entry in CODES.items()}
