"""Malformed folders: one clear line each, and never a traceback."""

import gzip
import json
import os
from pathlib import Path
import shutil

import numpy as np
from PIL import Image
import pytest

from echoforge_jax.__main__ import main
from tests import folders


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
  root = tmp_path_factory.mktemp('clean')
  folders.write_plain(root / 'plain')
  (root / 'plain' / 'cases.csv').write_text(folders.CSV)
  folders.write_nnunet(root / 'nnunet', patients=2)
  folders.write_pediatric(root / 'pediatric')
  return root


def _csv(old, new):
  """Returns a change of cases.csv."""

  def change(root):
    path = root / 'cases.csv'
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))

  return change


def _write(name, content):
  data = content if isinstance(content, bytes) else content.encode()

  def change(root):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(data)

  return change


def _png(name, change_mask):
  """Returns a change of the pixels of a PNG."""

  def change(root):
    pixels = np.asarray(Image.open(root / name)).copy()
    folders.write_png(root / name, change_mask(pixels).astype(np.uint8))

  return change


def _file(name, change_bytes):
  def change(root):
    path = root / name
    path.write_bytes(change_bytes(path.read_bytes()))

  return change


def _nan_spacing(packed):
  """Returns a NIfTI file whose header gives NaN millimetres."""
  content = bytearray(gzip.decompress(packed))
  content[80:88] = np.full(2, np.nan, '<f4').tobytes()
  return gzip.compress(bytes(content))


def _remove(*names):
  def change(root):
    for name in names:
      path = root / name
      shutil.rmtree(path) if path.is_dir() else path.unlink()

  return change


def _rename(*pairs):
  def change(root):
    for old, new in pairs:
      (root / old).rename(root / new)

  return change


def _copy(old, new):
  return lambda root: shutil.copy(root / old, root / new)


def _npz(name, **fields):
  return lambda root: np.savez(root / name, **fields)


def _nifti(name, array, spacing_mm=0.4):
  return lambda root: folders.write_nifti(root / name, array, spacing_mm)


def _both(*changes):
  def change(root):
    for one in changes:
      one(root)

  return change


def _splits(root, numbers):
  """Gives the patients of cases.csv numbers in turn."""
  patients = {}
  rows = [line.split(',') for line in folders.CSV.splitlines()]
  for row in rows[1:]:
    row[3] = patients.setdefault(row[1], numbers[len(patients) % len(numbers)])
  (root / 'cases.csv').write_text('\n'.join(map(','.join, rows)))


def _json(**content):
  return _write('dataset.json', json.dumps(content))


_P4, _P5 = folders.beat(seed=5)[1], folders.beat(8, seed=6)[1]
_FRAME0, _FRAME5 = (f'masks/p3_A4C_frame{n:02d}.png' for n in (0, 5))
_ED, _ES = 'p1_4CH_ED.png', 'p1_4CH_ES.png'
_FLIPPED = np.ones((3, 40, 36), np.uint8)
# Name -> (change, code, what the line must name).
PLAIN = {
  # Missing halves.
  'no mask': (_remove('masks/p2.png'), 'mask-missing', 'p2'),
  'no image': (_remove('images/p2.png'), 'image-missing', 'p2'),
  'no mask of ES': (_remove(f'masks/{_ES}'), 'mask-missing', 'p1_4CH'),
  'no still of ES': (_remove(f'images/{_ES}'), 'still-missing', 'p1_4CH'),
  'no still and no mask': (_remove(f'images/{_ED}', f'masks/{_ED}'), 'still-missing', 'p1_4CH'),
  'masks of ED only': (_remove(_FRAME5), 'mask-missing', 'p3'),
  'a line without files': (_csv('p2,', 'p9,x,,,,,,,\np2,'), 'image-missing', 'line 4: p9'),
  'a name with its ending': (_csv('p2,', 'p2.png,x,,,,,,,\np2,'), 'image-missing', 'without its'),
  'masks of a clip without it': (_remove('images/p5.npz'), 'image-missing', 'p5'),
  # Other views, sizes and labels.
  'a mask of another view': (
    _rename((_FRAME0, 'masks/p3_A2C_frame00.png'), (_FRAME5, 'masks/p3_A2C_frame05.png')),
    'mask-other-view',
    'p3_A2C_frame00',
  ),
  'a larger mask': (_png('masks/p2.png', lambda m: np.pad(m, 1)), 'mask-size', '42 x 38'),
  'a turned mask': (_png('masks/p2.png', np.transpose), 'mask-size', '36 x 40'),
  'stills of two sizes': (
    _both(*(_png(f'{d}/{_ES}', lambda m: m[:-4]) for d in ('images', 'masks'))),
    'mask-size',
    _ES,
  ),
  'an unknown label': (_png('masks/p2.png', lambda m: m * 4), 'mask-values', '[4, 8]'),
  'white on black': (_png('masks/p2.png', lambda m: 255 * (m == 1)), 'mask-values', '[255]'),
  'fractions': (_nifti('masks/p4.nii.gz', _P4 * 0.5), 'voxel-values', 'p4.nii.gz'),
  'not numbers': (_nifti('masks/p4.nii.gz', _P4 + np.nan), 'voxel-values', 'NaN'),
  'a colored mask': (
    _png('masks/p2.png', lambda m: np.stack([m, m, 0 * m], -1)),
    'mask-unreadable',
    'color',
  ),
  'nothing drawn': (_png('masks/p2.png', lambda m: 0 * m), 'mask-empty', 'p2.png'),
  'nothing drawn at ES': (_png(f'masks/{_ES}', lambda m: 0 * m), 'mask-empty', _ES),
  'no ventricle': (_png('masks/p2.png', lambda m: 3 * (m > 0)), 'mask-empty', 'p2.png'),
  # Frames.
  'ed beyond the clip': (_csv(',0,5,', ',0,6,'), 'frame-beyond', "es is '6'"),
  'ed below zero': (_csv(',0,5,', ',-1,5,'), 'frame-beyond', "'-1'"),
  'half a frame': (_csv(',0,5,', ',0.5,5,'), 'frame-beyond', "'0.5'"),
  'no digit': (_csv(',0,5,', ',0,\u00b2,'), 'frame-beyond', 'es is'),
  'an endless frame': (_csv(',0,5,', ',0,' + '9' * 5000 + ','), 'frame-beyond', 'es is'),
  'ed is es': (_csv(',0,5,', ',5,5,'), 'ed-equals-es', 'line 5'),
  'ed without es': (_csv(',0,5,', ',0,,'), 'csv-line', 'line 5'),
  'ed and es swapped': (_csv(',0,5,', ',5,0,'), 'ends-swapped', 'p3_A4C.avi'),
  'stills swapped': (
    _rename(
      *(
        (f'{d}/{old}', f'{d}/{new}')
        for d in ('images', 'masks')
        for old, new in ((_ED, 'x.png'), (_ES, _ED), ('x.png', _ES))
      )
    ),
    'ends-swapped',
    _ED,
  ),
  'one picture twice': (_copy(f'images/{_ED}', f'images/{_ES}'), 'ed-equals-es', 'same pixels'),
  'ed and es unknown': (
    _both(_csv(',0,5,', ',,,'), _remove(_FRAME5)),
    'ends-unknown',
    'p3_A4C.avi',
  ),
  'a mask of an unknown ED': (
    _both(_csv(',0,5,', ',,,'), _rename((_FRAME0, 'masks/p3_A4C_ED.png'))),
    'ends-unknown',
    'p3_A4C_ED.png',
  ),
  'a mask beyond the clip': (
    _rename((_FRAME5, 'masks/p3_A4C_frame06.png')),
    'frame-beyond',
    'frame 6',
  ),
  'frames in words': (
    _npz('masks/p5.npz', masks=_P5[:2], frames=['one', 'seven']),
    'mask-unreadable',
    'p5.npz',
  ),
  'three masks of six frames': (_nifti('masks/p4.nii.gz', _P4[:3]), 'mask-frames', '3 masks'),
  'masks of frames beyond': (
    _npz('masks/p5.npz', masks=_P5[:2], frames=[1, 8]),
    'frame-beyond',
    'frame 8',
  ),
  'two masks of a frame': (_npz('masks/p5.npz', masks=_P5[:2], frames=[1, 1]), 'mask-frames', 'p5'),
  'more masks than numbers': (
    _npz('masks/p5.npz', masks=_P5[:3], frames=[1, 7]),
    'mask-frames',
    '3 masks',
  ),
  'stills of three frames': (
    _both(_remove(f'images/{_ED}'), _nifti('images/p1_4CH_ED.nii', _FLIPPED)),
    'mask-frames',
    'p1_4CH_ES',
  ),
  # Files.
  'no picture': (_write('images/p2.png', 'hello'), 'image-unreadable', 'p2.png'),
  'an empty file': (_write('images/p2.png', ''), 'image-unreadable', '0 bytes'),
  'half a picture': (_file('images/p2.png', lambda b: b[: len(b) // 2]), 'image-unreadable', 'p2'),
  'half a volume': (_file('images/p4.nii.gz', lambda b: b[:-900]), 'truncated-file', 'p4.nii.gz'),
  'a damaged volume': (
    _file('masks/p4.nii.gz', lambda b: b[:-8] + bytes(4) + b[-4:]),
    'damaged-file',
    'p4.nii.gz',
  ),
  'a picture of 16 bits': (
    lambda root: Image.fromarray(np.arange(1440, dtype='u2').reshape(40, 36) * 40).save(
      root / 'images' / 'p2.png'
    ),
    'image-unreadable',
    'gray levels 0..255',
  ),
  'a line end in a name': (_copy('images/p2.png', 'images/a\nb.png'), 'image-unreadable', r'a\nb'),
  'bytes in a name': (
    lambda root: shutil.copy(root / 'masks/p2.png', os.fsencode(root) + b'/masks/\xe9.png'),
    'mask-unreadable',
    r'\udce9.png',
  ),
  'no arrays': (_write('images/p5.npz', b'PK\3\4 nothing'), 'image-unreadable', 'p5.npz'),
  'Python objects': (
    _npz('masks/p5.npz', masks=np.array([{}, []], object)),
    'mask-unreadable',
    'p5.npz',
  ),
  'arrays of other names': (_npz('masks/p5.npz', a=_P5, b=_P5), 'mask-unreadable', "'a', 'b'"),
  'no video': (_write('images/p3_A4C.avi', 'RIFF nothing'), 'image-unreadable', 'p3_A4C.avi'),
  'half a video': (
    _file('images/p3_A4C.avi', lambda b: b[: len(b) // 4]),
    'image-unreadable',
    'p3_A4C.avi',
  ),
  'no mask file': (_write('masks/p2.png', b'\x89PNG nothing'), 'mask-unreadable', 'p2.png'),
  'two images of a stem': (_copy('images/p2.png', 'images/p2.bmp'), 'stem-twice', 'p2.bmp'),
  'two masks of a stem': (_npz('masks/p2.npz', masks=_P4[:1]), 'stem-twice', 'p2.npz'),
  'a mask of all and of one': (
    _copy('masks/p2.png', 'masks/p4_frame00.png'),
    'stem-twice',
    'p4_frame00',
  ),
  'a clip and stills': (_copy('images/p2.png', 'images/p1_4CH.png'), 'stem-twice', 'p1_4CH'),
  'a blank picture': (_png('images/p2.png', lambda m: 0 * m + 90), 'image-blank', 'p2.png'),
  'a mask for a picture': (_copy('masks/p2.png', 'images/p2.png'), 'image-is-mask', 'p2.png'),
  'a copied case': (
    _both(
      _copy('images/p2.png', 'images/p6.png'),
      _copy('masks/p2.png', 'masks/p6.png'),
      _csv('p2,', 'p6,fred,,train,,,,,\np2,'),
    ),
    'duplicate-images',
    'p6',
  ),
  'a copy in another split': (
    _both(
      _copy('images/p2.png', 'images/p6.png'),
      _copy('masks/p2.png', 'masks/p6.png'),
      _csv('p2,', 'p6,fred,,test,,,,,\np2,'),
    ),
    'split-leak',
    'p6',
  ),
  # The table.
  'a patient in two splits': (_csv('A2C,train', 'A2C,test'), 'split-leak', 'anna'),
  'two folds': (lambda root: _splits(root, '01'), 'split-unknown', '[0, 1]'),
  'a fold left out': (lambda root: _splits(root, '023'), 'split-unknown', '[0, 2, 3]'),
  'an unknown split': (_csv('PLAX,train', 'PLAX,holdout'), 'split-unknown', "'holdout'"),
  'words and folds': (_csv('PLAX,train', 'PLAX,3'), 'split-unknown', ''),
  'a spacing of nan': (_csv('0.3,', 'nan,'), 'spacing-unit', "'nan'"),
  'a spacing of zero': (_csv('0.3,', '0,'), 'spacing-unit', "'0'"),
  'a spacing below zero': (_csv('0.3,', '-0.3,'), 'spacing-unit', "'-0.3'"),
  'a spacing in meters': (_csv('0.3,', '0.0003,'), 'spacing-unit', "'0.0003'"),
  'a spacing in words': (_csv('0.3,', 'unknown,'), 'spacing-unit', "'unknown'"),
  'three spacings': (_csv('0.3,', '1x1x1,'), 'spacing-unit', "'1x1x1'"),
  'a volume in meters': (
    _nifti('images/p4.nii.gz', folders.beat(seed=5)[0], 0.0004),
    'spacing-unit',
    'p4.nii.gz',
  ),
  'stills of two spacings': (
    _both(
      _csv('0.3,', ','),
      _remove(f'images/{_ED}', f'images/{_ES}'),
      _nifti('images/p1_4CH_ED.nii', folders.beat(seed=1)[0][0], 0.4),
      _nifti('images/p1_4CH_ES.nii', folders.beat(seed=1)[0][5], 0.5),
    ),
    'spacing-mismatch',
    'p1_4CH_ES.nii',
  ),
  'a mask of another spacing': (
    _nifti('masks/p4.nii.gz', _P4, 0.3),
    'spacing-mismatch',
    '0.3 x 0.3 mm',
  ),
  'a path for a case': (_csv('p2,', '../p2,'), 'csv-line', "'../p2'"),
  'a root for a case': (_csv('p2,', '/etc/passwd,'), 'csv-line', "'/etc/passwd'"),
  'a path of Windows': (_csv('p2,', r'..\p2,'), 'csv-line', 'line 4'),
  'a path for a patient': (_csv('ben', '../../ben'), 'csv-line', "'../../ben'"),
  'a bell in a patient': (_csv('ben', 'b\x07n'), 'csv-line', r"'b\x07n'"),
  'a path for a still': (_csv(',0,5,', ',../a,../b,'), 'csv-line', "'../a'"),
  'dots for a case': (_csv('p2,', '..,'), 'csv-line', "'..'"),
  'no case in a line': (_csv('p2,', ','), 'csv-line', 'line 4'),
  'a case twice': (_csv('p4,', 'p2,ben,PLAX,train,,,,,\np4,'), 'listed-twice', 'lines 4 and 6'),
  'a decimal comma': (_csv('61.5', '61,5'), 'csv-line', 'line 6'),
  'an EF of 130': (_csv('61.5', '130'), 'ef-range', "'130'"),
  'an EF of nan': (_csv('61.5', 'nan'), 'ef-range', "'nan'"),
  'an endless rate': (_csv('48', 'inf'), 'csv-line', "'inf'"),
  'a rate in words': (_csv('48', 'fast'), 'csv-line', "'fast'"),
  # dataset.json.
  'no JSON': (_write('dataset.json', '{"labels": '), 'labels-unreadable', 'dataset.json'),
  'a list': (_write('dataset.json', '[1, 2]'), 'labels-unreadable', 'a list'),
  'a value twice': (_json(labels={'lv': 1, 'myo': 1}), 'labels-unreadable', 'the value 1 twice'),
  'a name for a value': (_json(labels={'lv': 'one'}), 'labels-unreadable', "'one'"),
  'a value of 300': (_json(labels={'lv': 300}), 'labels-unreadable', '300'),
  'other structures only': (_json(labels={'liver': 1}), 'labels-unreadable', 'liver'),
  'a list of labels': (_json(labels=['lv', 'myo']), 'labels-unreadable', 'labels'),
}
# What stops the folder as a whole: one line, exit status 2.
REFUSED = {
  'no images folder': (_remove('images'), 'masks'),
  'no masks folder': (_remove('masks'), 'masks: no such folder'),
  'no images': (_both(_remove('images'), _write('images/.hidden', '')), 'no image'),
  'no layout': (_remove('images', 'masks'), 'imagesTr/'),
  'nothing': (_remove('images', 'masks', 'cases.csv'), 'found nothing'),
  'no column case': (_csv('case,', 'name,'), "'name'"),
  'a column twice': (_csv('ed,es', 'ed,ed'), 'columns'),
  'an empty table': (_write('cases.csv', ''), 'columns []'),
  'a table of Excel': (_write('cases.csv', b'PK\3\4\xff\xfe'), 'cases.csv'),
  'a table in UTF-16': (_write('cases.csv', folders.CSV.encode('utf-16')), 'UTF-8'),
  'a folder for a table': (
    lambda root: ((root / 'cases.csv').unlink(), (root / 'cases.csv').mkdir()),
    'cases.csv',
  ),
  'a table that is elsewhere': (
    lambda root: ((root / 'cases.csv').unlink(), (root / 'cases.csv').symlink_to('gone.csv')),
    'cases.csv',
  ),
  'a folder for a description': (lambda root: (root / 'dataset.json').mkdir(), 'dataset.json'),
  'brackets': (_write('dataset.json', '[' * 100_000), 'dataset.json: found no JSON'),
  'an open quote': (_csv('ben', '"ben'), 'cases.csv'),
}
WARNED = {
  'an image without a line': (
    _both(_copy('images/p2.png', 'images/p6.png'), _copy('masks/p2.png', 'masks/p6.png')),
    'case-unlisted',
    'p6',
  ),
  'a column of another name': (_csv('spacing_mm', 'spacing'), 'column-unknown', "'spacing'"),
  'a case in no split': (_csv('PLAX,train', 'PLAX,'), 'split-unlisted', 'ben'),
  'a letter': (_write('images/letter.doc', 'hello'), 'stray-file', 'letter.doc'),
  'a folder': (lambda root: (root / 'masks' / 'old').mkdir(), 'stray-file', 'old'),
  'a volume without a spacing': (_file('images/p4.nii.gz', _nan_spacing), 'spacing-unknown', 'p4'),
  'another label': (_json(labels={'lv': 1, 'myo': 2, 'rv': 9}), 'label-unused', 'rv'),
}
NNUNET = {
  'no dataset.json': (_remove('dataset.json'), 'labels-unreadable', 'dataset.json'),
  'no labels': (_json(file_ending='.nii.gz'), 'labels-unreadable', '"labels"'),
  'no label file': (
    _remove('labelsTr/patient0000_4CH_ES.nii.gz'),
    'mask-missing',
    'patient0000_4CH',
  ),
  'a frame in training, one in test': (
    _rename(
      *(
        (f'{kind}Tr/patient0000_4CH_ES{end}', f'{kind}Ts/patient0000_4CH_ES{end}')
        for kind, end in (('images', '_0000.nii.gz'), ('labels', '.nii.gz'))
      )
    ),
    ('split-leak', 'still-missing', 'still-missing'),
    'patient0000',
  ),
  'labels of another case': (
    _rename(('labelsTs/patient0001_4CH_ES.nii.gz', 'labelsTs/patient0009_4CH_ES.nii.gz')),
    ('image-missing', 'mask-missing'),
    'patient0009_4CH_ES',
  ),
  'a half file': (
    _file('imagesTr/patient0000_4CH_ED_0000.nii.gz', lambda b: b[:-100]),
    'truncated-file',
    'patient0000_4CH_ED_0000',
  ),
  'an ignored region': (
    _json(file_ending='.nii.gz', labels={'background': 0, 'lv': 1, 'ignore': 2}),
    ('mask-values',) * 4,
    '[2]',
  ),
}


_A, _B = ('patient0000_4CH_ED', 'patient0000_4CH_ES')
for _name, (_content, _text) in {
  'half a JSON': ('[{"train": ', 'no folds (JSONDecodeError'),
  'no list of folds': ('{"train": [], "val": []}', 'no folds (TypeError'),
  'no fold': ('[]', 'an empty list'),
  'a fold without val': ('[{"train": []}]', "KeyError: 'val'"),
  'a fold of an unknown case': ([{'train': ['anna'], 'val': [_A]}], 'anna in fold 1 of 1'),
  'a case in both halves': (
    [{'train': [_A], 'val': [_B]}, {'train': [_A, _B], 'val': [_A]}],
    f'{_A} in train and val of fold 2 of 2',
  ),
}.items():
  _content = _content if isinstance(_content, str) else json.dumps(_content)
  NNUNET[_name] = (_write('splits_final.json', _content), 'folds-unreadable', _text)


def _table(view, name, change_line):
  """Returns a change of the lines of a clip in a table of EchoNet-Pediatric."""

  def change(root):
    path = next((root / view).glob(f'{name}.csv'))
    lines = path.read_text().splitlines()
    mine = [line for line in lines if line.startswith(f'{view}-1.avi')]
    kept = [line for line in lines if line not in mine]
    path.write_text('\n'.join([*kept, *change_line(mine)]) + '\n')

  return change


def _cell(column, value):
  def change(lines):
    cells = lines[0].split(',')
    return [','.join([*cells[:column], value, *cells[column + 1 :]])]

  return _table('A4C', 'FileList', change)


def _points(change):
  return _table('PSAX', 'VolumeTracings', change)


PEDIATRIC = {
  'a split in words': (_cell(6, 'TRAIN'), 'split-unknown', "'TRAIN'"),
  'an EF of 140': (_cell(1, '140'), 'ef-range', '140'),
  'an EF in words': (_cell(1, 'low'), 'csv-line', "'low'"),
  'a path for a clip': (_cell(0, '../A4C-1.avi'), 'csv-line', "'../A4C-1'"),
  'a clip twice': (_table('A4C', 'FileList', lambda mine: mine * 2), 'listed-twice', 'A4C-1'),
  'no video': (_remove('A4C/Videos/A4C-1.avi'), 'missing-file', 'A4C-1.avi'),
  'a half video': (
    _file('A4C/Videos/A4C-1.avi', lambda b: b[: int(0.95 * len(b))]),
    'video-damaged',
    'A4C-1.avi',
  ),
  'one outline': (_points(lambda mine: mine[:20]), 'tracing-frames', 'PSAX-1'),
  'an outline of two points': (_points(lambda mine: mine[:22]), 'tracing-short', 'PSAX-1'),
  'an outline beyond': (
    _points(
      lambda mine: [line.replace(',10', ',99') if line.endswith(',10') else line for line in mine]
    ),
    'tracing-beyond',
    'frame 99',
  ),
  'a point in words': (
    _points(lambda mine: [mine[0].replace(mine[0].split(',')[1], 'x', 1), *mine[1:]]),
    'csv-line',
    "'x'",
  ),
}
_ALL = {'plain': PLAIN, 'nnunet': NNUNET, 'pediatric': PEDIATRIC}
CASES = [(layout, name) for layout, cases in _ALL.items() for name in cases]
# For the test that every code is planted somewhere.
PLANTED = {code for cases in (*_ALL.values(), WARNED) for _, code, _ in cases.values()}
PLANTED = {code for code in PLANTED if isinstance(code, str)}
PLANTED |= {'labels-absent', 'channel-unused', 'folds-unused'}


def _verify(root, tmp_path, capsys):
  """Returns the exit status, the lines printed and the findings of a folder."""
  report = tmp_path / 'report.json'
  status = main(['verify', '--dataset=folder', f'--raw={root}', f'--json={report}'])
  printed = capsys.readouterr()
  found = json.loads(report.read_text())['findings'] if report.exists() else []
  return status, printed, found


@pytest.fixture
def broken(clean, tmp_path):
  def copy(layout, change):
    root = tmp_path / 'raw'
    shutil.copytree(clean / layout, root)
    change(root)
    return root

  return copy


@pytest.mark.parametrize('layout', _ALL)
def test_nothing_is_wrong_with_whole_folders(clean, layout, tmp_path, capsys):
  status, _, found = _verify(clean / layout, tmp_path, capsys)
  assert (status, found) == (0, [])


@pytest.mark.parametrize('layout, name', CASES, ids=[name for _, name in CASES])
def test_one_error_of_the_right_kind(broken, layout, name, tmp_path, capsys):
  change, code, text = _ALL[layout][name]
  root = broken(layout, change)
  status, printed, found = _verify(root, tmp_path, capsys)
  if status == 2:  # Refused as a whole: one line.
    (line,) = printed.err.strip().splitlines()
    assert 'found' in line and 'wanted' in line and text in line
  else:
    errors = [finding for finding in found if finding['severity'] == 'error']
    codes = (code,) if isinstance(code, str) else code
    assert status == 1 and [finding['code'] for finding in errors] == list(codes)
    error = errors[0]
    assert text in error['file'] + ' ' + error['found'] + ' ' + error['wanted']
    assert error['wanted'] and error['remedy'] and '\n' not in error['found']
    assert Path(error['file']).resolve().is_relative_to(root)
  where = [f'--raw={root}', f'--data_dir={tmp_path / "data"}', '--image_size=32']
  assert main(['prepare', '--dataset=folder', *where]) in (0, 1, 2)
  assert 'Traceback' not in capsys.readouterr().err


@pytest.mark.parametrize('name', REFUSED)
def test_a_folder_is_refused_in_one_line(broken, name, tmp_path, capsys):
  change, text = REFUSED[name]
  status, printed, _ = _verify(broken('plain', change), tmp_path, capsys)
  assert status == 2
  (line,) = printed.err.strip().splitlines()
  assert text in line and 'wanted' in line


@pytest.mark.parametrize('name', WARNED)
def test_what_can_be_left_alone_is_a_warning(broken, name, tmp_path, capsys):
  change, code, text = WARNED[name]
  status, _, (finding,) = _verify(broken('plain', change), tmp_path, capsys)
  assert (status, finding['severity'], finding['code']) == (0, 'warning', code)
  assert text in finding['file'] + finding['found']


def test_prepare_says_what_it_leaves_out(broken, tmp_path, capsys):
  root = broken('plain', _csv('p2,', 'P2,'))
  flags = [f'--raw={root}', f'--data_dir={tmp_path / "data"}', '--image_size=32']
  assert main(['prepare', '--dataset=folder', *flags]) == 0
  (line,) = [x for x in capsys.readouterr().out.splitlines() if 'left out' in x]
  assert line.startswith('1 files or lines are left out; `verify` lists them.') and 'P2' in line


def test_further_channels_are_named(broken, tmp_path, capsys):
  name = 'imagesTr/patient0000_4CH_ED_000{}.nii.gz'
  root = broken('nnunet', _copy(name.format(0), name.format(1)))
  status, _, (finding,) = _verify(root, tmp_path, capsys)
  assert (status, finding['code']) == (0, 'channel-unused') and '1 files' in finding['found']


@pytest.mark.parametrize(
  'folds, said',
  [
    (
      [{'train': [], 'val': [_A]}, {'train': [_A], 'val': [_B]}],
      f'{_B} is in neither list of fold 1',
    ),
    (
      [{'train': [_B], 'val': [_A]}, {'train': [_A], 'val': [_B]}],
      'patient0000 is held out by 2 of 2',
    ),
    ([{'train': [_A, _B], 'val': []}], 'patient0000 is held out by 0 of 1'),
  ],
)
def test_folds_that_do_not_divide_patients(broken, folds, said, tmp_path, capsys):
  root = broken('nnunet', _write('splits_final.json', json.dumps(folds)))
  status, _, (finding,) = _verify(root, tmp_path, capsys)
  assert (status, finding['code']) == (0, 'folds-unused') and said in finding['found']


def test_more_than_sixty_folders_are_tried():
  assert len(CASES) + len(REFUSED) > 60
