"""Data of your own: each layout from its files to a batch, and what is refused."""

import json
import shutil

import numpy as np
from PIL import Image
import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.data.datasets import read_checked, reader_of
from echoforge_jax.data.folder import FolderReader
from echoforge_jax.data.patient_splits import fold_scheme, split_patients
from echoforge_jax.data.pipeline import make_train_iterator
from echoforge_jax.data.prepared import load_split
from echoforge_jax.data.spec import DataSpec
from echoforge_jax.errors import InputError
from echoforge_jax.formats.masks import read_masks
from tests import folders

LAYOUTS = {
  'plain': folders.write_plain,
  'nnunet': folders.write_nnunet,
  'pediatric': folders.write_pediatric,
}


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
  root = tmp_path_factory.mktemp('folders')
  return {name: write(root / name) for name, write in LAYOUTS.items()}


@pytest.fixture
def plain(clean, tmp_path):
  """A copy of the plain layout with its cases.csv, to break."""
  root = tmp_path / 'raw'
  shutil.copytree(clean['plain'], root)
  (root / 'cases.csv').write_text(folders.CSV)
  return root


def _clips(root, **options):
  reader = reader_of('folder')(root, **options)
  return {
    f'{patient} {view}': read_checked(reader, patient, view) for patient, view in _all(reader)
  }


def _all(reader, scheme='official'):
  return [
    clip for split in ('train', 'validation', 'test') for clip in reader.list_clips(split, scheme)
  ]


def _errors(root):
  return [f.code for f in reader_of('folder')(root).verify() if f.severity == 'error']


# -- what is read -------------------------------------------------------------


@pytest.mark.parametrize('layout', LAYOUTS)
def test_verify_prepare_and_a_batch(clean, layout, tmp_path, capsys):
  where = ['--dataset=folder', f'--raw={clean[layout]}']
  assert main(['verify', *where]) == 0
  assert ' 0 errors' in capsys.readouterr().out
  assert main(['prepare', *where, f'--data_dir={tmp_path}', '--image_size=32']) == 0
  spec = DataSpec(tmp_path, 'folder', 32, 4, ('lv',), batch_size=2)
  batch = next(make_train_iterator(spec))
  assert batch['video'].shape == (2, 4, 32, 32, 1)
  assert batch['labeled'].tolist() == [[True, False, False, True]] * 2
  assert (batch['masks'] == 1).any(axis=(2, 3)).all()


def test_the_plain_layout_reads_every_format(clean):
  clips = _clips(clean['plain'])
  assert {name: clip.frames.shape for name, clip in clips.items()} == {
    'p1 2CH': (2, 50, 30),
    'p1 4CH': (2, 40, 36),
    'p2 unknown': (1, 40, 36),
    'p3 4CH': (6, 40, 36),
    'p4 unknown': (6, 40, 36),
    'p5 unknown': (8, 40, 36),
  }
  still = clips['p1 4CH']
  np.testing.assert_array_equal(still.masks, [folders.disk(10), folders.disk(7)])
  np.testing.assert_array_equal(still.frames[1], folders.picture(folders.disk(7), (1, 7)))
  assert (still.ed, still.es, still.labeled.tolist()) == (0, 1, [True, True])
  assert (clips['p2 unknown'].ed, clips['p2 unknown'].es) == (0, 0)
  video, (_, masks) = clips['p3 4CH'], folders.beat(seed=4)
  assert np.flatnonzero(video.labeled).tolist() == [0, 5] and video.fps == 30
  np.testing.assert_array_equal(video.masks[[0, 5]], masks[[0, 5]])
  assert not video.masks[1:5].any()
  volume, (frames, masks) = clips['p4 unknown'], folders.beat(seed=5)
  np.testing.assert_array_equal(volume.frames, frames)
  np.testing.assert_array_equal(volume.masks, masks)
  assert (volume.ed, volume.es) == (0, 5)
  np.testing.assert_allclose(volume.spacing_mm, [0.4, 0.4])
  arrays = clips['p5 unknown']
  assert (arrays.ed, arrays.es, arrays.fps) == (1, 7, 40)
  assert np.flatnonzero(arrays.labeled).tolist() == [1, 7]
  np.testing.assert_allclose(arrays.spacing_mm, [0.3, 0.2])


def test_the_table_names_patients_views_and_splits(plain):
  reader = FolderReader(plain)
  assert reader.list_clips('train', 'official') == [
    ('anna', '2CH'),
    ('anna', '4CH'),
    ('ben', 'PLAX'),
    ('carl', '4CH'),
  ]
  assert reader.list_clips('validation', 'official') == [('dora', '4CH')]
  assert reader.list_clips('test', 'official') == [('emil', 'PSAX')]
  anna = reader.read_clip('anna', '2CH')
  np.testing.assert_allclose(anna.spacing_mm, [0.3, 0.2])
  assert anna.ef_percent == 55 and reader.read_clip('carl', '4CH').fps == 48
  assert reader.read_clip('dora', '4CH').ef_percent == 61.5
  assert reader.count_patients() == 5


@pytest.mark.parametrize(
  'write',
  [
    lambda text: '\ufeff' + text,
    lambda text: text.replace('\n', '\r\n'),
    lambda text: text.replace('\n', '\r'),
    lambda text: text.replace(',', ';').replace('0.3', '0,3'),
    lambda text: text.replace(',', '\t'),
    lambda text: '\ufeff' + text.replace(',', ';').replace('\n', '\r\n'),
    lambda text: text.replace('train', 'Training').replace('validation', 'VAL'),
    lambda text: text.replace(',', ', ').replace('case', 'Case') + '\n\n',
    lambda text: text.replace('61.5', '61.5 %'),
  ],
  ids=['bom', 'crlf', 'cr', 'semicolons', 'tabs', 'excel', 'words', 'spaces', 'percent'],
)
def test_any_kind_of_csv_reads_the_same(plain, write):
  wanted = {name: (clip.spacing_mm.tolist(), clip.fps) for name, clip in _clips(plain).items()}
  (plain / 'cases.csv').write_bytes(write(folders.CSV).encode())
  found = {name: (clip.spacing_mm.tolist(), clip.fps) for name, clip in _clips(plain).items()}
  np.testing.assert_equal(found, wanted)
  assert not _errors(plain)


def test_stills_named_by_the_table(tmp_path):
  for name, radius in (('img7', 10), ('img9', 7)):
    mask = folders.disk(radius)
    folders.write_png(tmp_path / 'images' / f'{name}.png', folders.picture(mask, radius))
    folders.write_png(tmp_path / 'masks' / f'{name}.png', mask)
  (tmp_path / 'cases.csv').write_text('case,view,ed,es\nanna,A4C,img7,img9\n')
  (clip,) = _clips(tmp_path).values()
  assert (clip.patient, clip.view, clip.ed, clip.es) == ('anna', '4CH', 0, 1)
  np.testing.assert_array_equal(clip.masks, [folders.disk(10), folders.disk(7)])


def test_a_volume_of_two_masks_is_ed_and_es_of_the_table(tmp_path):
  frames, masks = folders.beat(seed=1)
  folders.write_avi(tmp_path / 'images' / 'p.avi', frames)
  folders.write_nifti(tmp_path / 'masks' / 'p.nii.gz', masks[[1, 4]])
  (tmp_path / 'cases.csv').write_text('case,ed,es\np,1,4\n')
  (clip,) = _clips(tmp_path).values()
  assert np.flatnonzero(clip.labeled).tolist() == [1, 4]
  np.testing.assert_array_equal(clip.masks[4], masks[4])


def test_blank_frames_of_a_volume_are_unlabeled(tmp_path):
  frames, masks = folders.beat(seed=1)
  masks[[1, 2, 4]] = 0
  folders.write_nifti(tmp_path / 'images' / 'p.mha', frames)
  folders.write_nifti(tmp_path / 'masks' / 'p.mha', masks)
  (clip,) = _clips(tmp_path).values()
  assert clip.labeled.tolist() == [True, False, False, True, False, True]
  assert [f.code for f in FolderReader(tmp_path).verify()] == ['frame-unlabeled']


def test_several_clips_of_a_view_stay_apart(tmp_path):
  for n in range(3):
    folders.write_stills(tmp_path, f'loop{n}', n)
  rows = [f'loop{n},anna,A4C' for n in range(3)]
  (tmp_path / 'cases.csv').write_text('\n'.join(['case,patient,view', *rows]))
  assert list(_clips(tmp_path)) == ['anna 4CH', 'anna 4CH-2', 'anna 4CH-3']


# -- labels -------------------------------------------------------------------


def _relabel(root, values):
  for path in (root / 'masks').glob('*.png'):
    mask = read_masks(path)[0]
    folders.write_png(path, np.select([mask == 1, mask == 2], values, 0).astype(np.uint8))


@pytest.mark.parametrize(
  'labels, values, wanted',
  [
    ({'lv': 7, 'myo': 5}, (7, 5), {1, 2}),
    ({'background': 0, 'LV cavity': 7, 'right ventricle': 5}, (7, 5), {1}),
    ({'0': 'background', '7': 'lv', '5': 'myocardium'}, (7, 5), {1, 2}),
    ({'left ventricle': [5, 7]}, (7, 5), {1}),
    ({'lv': 255, 'la': 5}, (255, 5), {1, 3}),
  ],
)
def test_values_are_mapped_by_name(tmp_path, labels, values, wanted):
  folders.write_stills(tmp_path, 'p', 1)
  _relabel(tmp_path, values)
  (tmp_path / 'dataset.json').write_text(json.dumps({'labels': labels}))
  (clip,) = _clips(tmp_path).values()
  assert set(np.unique(clip.masks)) == {0, *wanted}
  others = [f.found for f in FolderReader(tmp_path).verify() if f.code == 'label-unused']
  assert others == (['right ventricle'] if 'right ventricle' in labels else [])


def test_the_flag_names_values_and_prepares_apart(tmp_path, capsys):
  raw, out = tmp_path / 'raw', f'--data_dir={tmp_path / "data"}'
  for n in range(3):
    folders.write_stills(raw, f'p{n}', n)
  _relabel(raw, (255, 128))
  where = ['--dataset=folder', f'--raw={raw}']
  assert main(['verify', *where]) == 1
  assert 'mask-values (6)' in capsys.readouterr().out
  labels = '--labels=lv=255,myo=128'
  assert main(['verify', *where, labels]) == 0
  assert main(['prepare', *where, out, '--image_size=32', labels]) == 0
  source = load_split(tmp_path / 'data', 'folder', 'train', 32)
  assert set(np.unique(source[0]['masks'])) == {0, 1, 2}
  assert main(['prepare', *where, out, '--image_size=32', '--labels=lv=128+255']) == 2
  assert 'other raw files' in capsys.readouterr().err
  assert main(['verify', '--dataset=camus', f'--raw={raw}', labels]) == 2


def test_a_palette_is_label_values(tmp_path):
  folders.write_stills(tmp_path, 'p', 1)
  for path in (tmp_path / 'masks').glob('*.png'):
    image = Image.fromarray(read_masks(path)[0], 'P')
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0])
    image.save(path)
  (clip,) = _clips(tmp_path).values()
  np.testing.assert_array_equal(clip.masks[0], folders.disk(10))


# -- splits -------------------------------------------------------------------


def test_seeds_divide_patients_and_differ():
  stated = dict.fromkeys((f'p{n}' for n in range(40)), '')
  found = [split_patients(stated, scheme) for scheme in ('official', 'seed0', 'seed1')]
  assert found[0] == found[1] != found[2]
  for chosen in found:
    splits = list(chosen.values())
    assert [splits.count(s) for s in ('train', 'validation', 'test')] == [28, 4, 8]
  again = split_patients(dict(reversed(stated.items())), 'seed1')
  assert again == found[2]


def test_every_patient_tests_in_one_fold():
  stated = dict.fromkeys((f'p{n}' for n in range(23)), '')
  folds = [split_patients(stated, f'fold{k}of5') for k in range(1, 6)]
  for patient in stated:
    for split, times in (('test', 1), ('validation', 1), ('train', 3)):
      assert sum(fold[patient] == split for fold in folds) == times
  for chosen in folds:
    assert list(chosen.values()).count('test') in (4, 5)


def test_patients_stated_to_test_do_so_in_every_fold():
  stated = {f'p{n}': 'test' if n < 3 else 'train' for n in range(13)}
  folds = [split_patients(stated, f'fold{k}of5') for k in range(1, 6)]
  for chosen in (*folds, split_patients(stated, 'seed4'), split_patients(stated, 'official')):
    assert {p for p, split in chosen.items() if split == 'test'} == {'p0', 'p1', 'p2'}
    assert 'validation' in chosen.values()
  assert all(sum(f[f'p{n}'] == 'validation' for f in folds) == 1 for n in range(3, 13))


def test_stated_folds_are_kept():
  stated = {f'p{n}': str(n % 10) for n in range(30)}
  chosen = split_patients(stated, 'fold10of10')
  assert {p for p, s in chosen.items() if s == 'test'} == {'p9', 'p19', 'p29'}
  assert {p for p, s in chosen.items() if s == 'validation'} == {'p0', 'p10', 'p20'}
  assert split_patients(stated, 'official') == split_patients(stated, 'fold1of10')
  with pytest.raises(InputError, match='found 10 folds.*wanted 5'):
    split_patients(stated, 'fold1of5')
  with pytest.raises(InputError, match="'train'.*number of a fold"):
    split_patients(stated | {'q': 'train'}, 'official')


@pytest.mark.parametrize('flag', ['6/5', '0/5', '1/2', '2', 'a/b', '2/5/7', '-1/5', '1/1000'])
def test_folds_that_do_not_exist(plain, flag, tmp_path, capsys):
  where = ['--dataset=folder', f'--raw={plain}', f'--data_dir={tmp_path / "data"}']
  assert main(['prepare', *where, f'--fold={flag}']) == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert 'found' in line and 'wanted' in line


def test_a_fold_names_the_prepared_folder(clean, tmp_path):
  where = ['--dataset=folder', f'--raw={clean["plain"]}', f'--data_dir={tmp_path}']
  for fold in ('1/3', '2/3'):
    assert main(['prepare', *where, '--image_size=32', f'--fold={fold}']) == 0
  tests = [
    {c['patient'] for c in load_split(tmp_path, 'folder', 'test', 32, split_scheme=name).clips}
    for name in (fold_scheme('1/3'), 'fold2of3')
  ]
  assert tests[0] and tests[1] and not tests[0] & tests[1]


def test_camus_has_no_folds(tmp_path, capsys):
  (tmp_path / 'database_nifti' / 'patient0001').mkdir(parents=True)
  assert (
    main(
      ['prepare', '--dataset=camus', f'--raw={tmp_path}', f'--data_dir={tmp_path}', '--fold=1/5']
    )
    == 2
  )
  assert "'fold1of5', wanted one of ['official', 'memsam']" in capsys.readouterr().err


# -- the other layouts --------------------------------------------------------


def test_nnunet_pairs_frames_and_keeps_its_test_images(clean):
  reader = FolderReader(clean['nnunet'])
  assert reader.list_clips('test', 'official') == [('patient0003', '4CH')]
  assert len(reader.list_clips('train', 'official')) == 2
  clip = reader.read_clip('patient0000', '4CH')
  assert clip.masks[0].max() == 2 and (clip.ed, clip.es) == (0, 1)
  np.testing.assert_allclose(clip.spacing_mm, [0.4, 0.4])


@pytest.mark.parametrize('tested', [True, False])
def test_nnunets_own_folds(tmp_path, tested, capsys):
  """Fold K of the file is --fold=K/N; it validates where the dataset has test patients."""
  root, data = tmp_path / 'raw', tmp_path / 'data'
  folders.write_nnunet(root, patients=6)
  if not tested:
    shutil.rmtree(root / 'imagesTs')
    shutil.rmtree(root / 'labelsTs')
  folders.write_nnunet_folds(root, (3,), (1, 4), (0, 2))
  reader = FolderReader(root)
  assert not list(reader.verify())
  held = ['validation', 'test'] if tested else ['test', 'validation']
  assert reader.list_clips(held[0], 'fold2of3') == [('patient0001', '4CH'), ('patient0004', '4CH')]
  train = [p for p, _ in reader.list_clips('train', 'fold2of3')]
  assert train == (['patient0000', 'patient0002', 'patient0003'] if tested else ['patient0003'])
  flags = ['--dataset=folder', f'--raw={root}', f'--data_dir={data}', '--image_size=32']
  assert main(['prepare', *flags, '--fold=2/3']) == 0
  assert 'splits_final.json: its folds divide the patients' in capsys.readouterr().out
  chosen = {
    c['patient'] for c in load_split(data, 'folder', held[0], 32, split_scheme='fold2of3').clips
  }
  assert chosen == {'patient0001', 'patient0004'}
  # Another number of folds is drawn by patients, which is said.
  assert main(['prepare', *flags, '--fold=2/4']) == 0
  line = 'splits_final.json: ignored, because it has 3 folds, wanted those of fold2of4'
  assert line in capsys.readouterr().out
  # A table with folds of its own comes first.
  rows = [f'patient{n:04d}_4CH,{n % 3}' for n in range(6)]
  (root / 'cases.csv').write_text('\n'.join(['case,split', *rows[: 6 - tested]]))
  assert 'ignored, because cases.csv states folds' in FolderReader(root).notes('fold2of3')[0]


def test_nnunet_without_test_labels(clean, tmp_path):
  root = tmp_path / 'raw'
  shutil.copytree(clean['nnunet'], root)
  shutil.rmtree(root / 'labelsTs')
  reader = FolderReader(root)
  assert [f.code for f in reader.verify()] == ['labels-absent']
  assert sorted(patient for patient, _ in _all(reader)) == [f'patient000{n}' for n in range(3)]


def test_pediatric_reads_outlines_folds_and_ef(clean):
  reader = FolderReader(clean['pediatric'])
  assert reader.list_clips('test', 'fold3of3') == [('A4C-2', '4CH'), ('PSAX-2', 'PSAX')]
  assert reader.list_clips('validation', 'fold3of3') == [('A4C-0', '4CH'), ('PSAX-0', 'PSAX')]
  clip = reader.read_clip('PSAX-1', 'PSAX')
  assert (clip.ed, clip.es, clip.ef_percent, clip.fps) == (1, 10, 61.5, 30)
  assert np.flatnonzero(clip.labeled).tolist() == [1, 10]
  areas = [(clip.masks[t] == 1).sum() for t in (1, 10)]
  # A polygon of 20 points fills 98.4 % of its circle.
  np.testing.assert_allclose(areas, 0.984 * np.pi * np.array([24, 12]) ** 2, rtol=0.03)


def test_one_view_of_pediatric_alone(clean):
  reader = FolderReader(clean['pediatric'] / 'PSAX')
  assert {view for _, view in _all(reader)} == {'PSAX'}


def test_pediatric_clips_without_a_tracing_are_left_out(clean, tmp_path):
  root = tmp_path / 'raw'
  shutil.copytree(clean['pediatric'], root)
  table = root / 'A4C' / 'VolumeTracings.csv'
  lines = table.read_text().splitlines()
  kept = [line for line in lines if not (line.startswith('A4C-1.avi') and line.endswith(',10'))]
  table.write_text('\n'.join([*kept, 'A4C-1.avi,,,No Systolic']) + '\n')
  reader = FolderReader(root)
  assert ('A4C-1', '4CH') not in _all(reader)
  assert [(f.severity, f.code) for f in reader.verify()] == [('warning', 'tracing-known-missing')]
