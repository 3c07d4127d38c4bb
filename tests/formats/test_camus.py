"""The reader against files of the writer: what goes in comes out."""

from pathlib import Path
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from echoforge_jax.errors import InputError
from echoforge_jax.formats import camus
from echoforge_jax.formats.camus_view import info_number, read_info
from echoforge_jax.formats.findings import FindingError
from echoforge_jax.formats.volumes import as_uint8, read_volume
from echoforge_jax.phantom.camus_writer import write_camus
from tests.phantom import ellipses

SEED, PATIENTS = 3, 4


def _write(out, layout):
  return write_camus(
    out,
    num_patients=PATIENTS,
    seed=SEED,
    layout=layout,
    config=ellipses.Config(),
    generate=ellipses.generate,
    progress=False,
  )


@pytest.fixture(scope='module')
def nifti(tmp_path_factory):
  root = tmp_path_factory.mktemp('camus') / 'nifti'
  _write(root, 'nifti')
  return root


@pytest.fixture(scope='module')
def mhd(tmp_path_factory):
  root = tmp_path_factory.mktemp('camus') / 'mhd'
  _write(root, 'mhd')
  return root


@pytest.fixture
def broken(nifti, tmp_path):
  shutil.copytree(nifti, tmp_path / 'raw')
  return tmp_path / 'raw'


@pytest.fixture
def broken_mhd(mhd, tmp_path):
  shutil.copytree(mhd, tmp_path / 'raw')
  return tmp_path / 'raw'


@pytest.mark.parametrize('view', camus.VIEWS)
@pytest.mark.parametrize('index', range(PATIENTS))
def test_nifti_round_trip(nifti, index, view):
  patient = ellipses.generate(SEED, index, ellipses.Config())
  truth = patient.clips[view]
  clip = camus.read_clip(nifti, f'patient{index + 1:04d}', view)
  np.testing.assert_array_equal(clip.frames, truth.frames)
  np.testing.assert_array_equal(clip.masks, truth.masks)
  assert clip.frames.dtype == clip.masks.dtype == np.uint8
  assert clip.labeled.all() and clip.labeled.dtype == bool
  assert (clip.ed, clip.es) == (0, len(truth.frames) - 1)
  assert clip.spacing_mm.dtype == np.float32
  np.testing.assert_allclose(clip.spacing_mm, 3.08, rtol=1e-6)
  assert (clip.patient, clip.view) == (truth.patient, view)
  assert (clip.quality, clip.sex, clip.age) == (truth.quality, patient.sex, patient.age)
  assert clip.ef_percent == round(patient.ef_percent)
  assert clip.fps == 50


@pytest.mark.parametrize('index', range(PATIENTS))
def test_mhd_round_trip(mhd, index):
  patient = ellipses.generate(SEED, index, ellipses.Config())
  truth = patient.clips['4CH']
  clip = camus.read_clip(mhd, f'patient{index + 1:04d}', '4CH')
  assert clip.frames.shape == (len(truth.frames), 80, 48)
  np.testing.assert_allclose(clip.spacing_mm, [1.54, 3.08], rtol=1e-6)
  assert np.flatnonzero(clip.labeled).tolist() == [clip.ed, clip.es]
  assert (clip.ed, clip.es) == (0, len(truth.frames) - 1)
  for frame in (clip.ed, clip.es):
    np.testing.assert_array_equal(clip.masks[frame, ::2], truth.masks[frame])
  assert not clip.masks[1:-1].any()
  # Rows are interpolated, so each pair's mean stays near the row it came from.
  pairs = clip.frames.reshape(len(truth.frames), 40, 2, 48).mean(axis=2)
  assert np.corrcoef(pairs.ravel(), truth.frames.ravel())[0, 1] > 0.98
  assert clip.ef_percent == pytest.approx(patient.ef_percent, abs=0.05)
  assert clip.edv_ml == pytest.approx(patient.edv_ml, abs=0.05)
  assert clip.esv_ml == pytest.approx(patient.esv_ml, abs=0.05)


def test_sequences_stored_es_first_are_flipped(nifti, mhd):
  for root in (nifti, mhd):
    clip = camus.read_clip(root, 'patient0002', '4CH')
    assert clip.reversed_in_time
    areas = (clip.masks == 1).sum(axis=(1, 2))
    assert areas[clip.ed] > areas[clip.es]
  folder = nifti / 'database_nifti' / 'patient0002'
  stored = read_volume(folder / 'patient0002_4CH_half_sequence.nii.gz').array
  np.testing.assert_array_equal(stored[::-1], camus.read_clip(nifti, 'patient0002', '4CH').frames)
  assert not camus.read_clip(nifti, 'patient0003', '4CH').reversed_in_time


def test_ed_and_es_inside_a_longer_sequence(broken):
  cfg = broken / 'database_nifti' / 'patient0002' / 'Info_4CH.cfg'
  text = cfg.read_text()
  count = int(text.split('NbFrame: ')[1].split()[0])
  cfg.write_text(text.replace(f'ED: {count}', f'ED: {count - 1}').replace('ES: 1\n', 'ES: 2\n'))
  clip = camus.read_clip(broken, 'patient0002', '4CH')
  assert (clip.ed, clip.es) == (1, count - 2)
  assert len(clip.frames) == count


@pytest.mark.parametrize(
  'where', ['.', 'database_nifti', '../nifti', 'database_nifti/../database_nifti']
)
def test_root_may_be_the_download_or_its_patients(nifti, where):
  assert len(camus.list_patients(nifti / where)) == PATIENTS
  assert len(camus.read_split(nifti / where, 'training')) == 2


def test_root_may_be_the_working_directory(nifti, mhd, monkeypatch):
  for root in (nifti, mhd):
    monkeypatch.chdir(root)
    assert len(camus.list_patients('.')) == PATIENTS


@pytest.mark.parametrize('where', ['.', 'database_nifti'])
def test_phantoms_are_known_as_synthetic(broken, where):
  assert camus.is_synthetic(broken / where)
  (broken / camus.PHANTOM_FILE).unlink()
  assert not camus.is_synthetic(broken / where)


def test_root_may_be_the_parent_of_camus_public(nifti, tmp_path):
  shutil.copytree(nifti, tmp_path / 'CAMUS_public')
  assert len(camus.list_patients(tmp_path)) == PATIENTS
  assert camus.read_split(tmp_path, 'test') == camus.read_split(nifti, 'test')


def test_training_folder_of_the_older_form(mhd):
  assert camus.list_patients(mhd / 'training') == camus.list_patients(mhd)
  assert camus.find_layout(mhd).form == 'mhd'


def test_bare_folder_of_patients(nifti, tmp_path):
  shutil.copytree(nifti / 'database_nifti', tmp_path / 'mine')
  assert camus.find_layout(tmp_path / 'mine').form == 'nifti'
  assert len(camus.list_patients(tmp_path / 'mine')) == PATIENTS


def test_number_used_in_training_and_testing(broken_mhd):
  source = next((broken_mhd / 'training').iterdir())
  shutil.copytree(source, broken_mhd / 'testing' / source.name)
  patients = camus.list_patients(broken_mhd)
  assert len(patients) == len(set(patients)) == PATIENTS + 1
  assert f'testing-{source.name}' in patients
  clip = camus.read_clip(broken_mhd, f'testing-{source.name}', '2CH')
  assert clip.patient == f'testing-{source.name}'


def test_labels_withheld_in_testing(broken_mhd):
  patient = camus.read_split(broken_mhd, 'test')[0]
  for path in (broken_mhd / 'testing' / patient).glob('*_gt.*'):
    path.unlink()
  clip = camus.read_clip(broken_mhd, patient, '4CH')
  assert not clip.labeled.any() and not clip.masks.any()


def test_blank_mask_between_is_unlabeled(broken):
  path = broken / 'database_nifti' / 'patient0003' / 'patient0003_2CH_half_sequence_gt.nii.gz'
  image = sitk.ReadImage(str(path))
  masks = sitk.GetArrayFromImage(image)
  masks[1] = 0
  blank = sitk.GetImageFromArray(masks)
  blank.CopyInformation(image)
  sitk.WriteImage(blank, str(path))
  clip = camus.read_clip(broken, 'patient0003', '2CH')
  assert clip.labeled.tolist() == [True, False] + [True] * (len(masks) - 2)


def test_cfg_is_tolerant(tmp_path):
  path = tmp_path / 'Info_2CH.cfg'
  path.write_bytes(
    b'\xef\xbb\xbfed : 1\r\nES:12\r\nScanner: Vivid: E95\r\nno colon here\r\n\r\nEF: 53 %\r\n'
  )
  info = read_info(path)
  assert info['ed'] == '1' and info['scanner'] == 'Vivid: E95'
  assert info_number(info, 'EF') == 53
  assert np.isnan(info_number(info, 'FrameRate'))


def test_odd_spelling_of_sex_and_quality(broken):
  cfg = broken / 'database_nifti' / 'patient0001' / 'Info_2CH.cfg'
  lines = [
    line
    for line in cfg.read_text().splitlines()
    if not line.startswith(('Sex', 'ImageQuality', 'FrameRate'))
  ]
  cfg.write_text('\n'.join(lines + ['SEX: female', 'imagequality: GOOD']))
  clip = camus.read_clip(broken, 'patient0001', '2CH')
  assert (clip.sex, clip.quality) == ('F', 'Good')
  assert np.isnan(clip.fps)


def test_official_split(nifti):
  splits = [camus.read_split(nifti, name) for name in ('train', 'validation', 'test')]
  assert [len(split) for split in splits] == [2, 1, 1]
  assert sorted(sum(splits, [])) == camus.list_patients(nifti)
  assert camus.read_split(nifti, 'training') == splits[0]


def test_split_of_the_older_form_comes_from_its_folders(mhd):
  testing = sorted(path.name for path in (mhd / 'testing').iterdir())
  assert camus.read_split(mhd, 'testing') == testing
  rest = camus.read_split(mhd, 'train') + camus.read_split(mhd, 'validation')
  assert sorted(rest + testing) == camus.list_patients(mhd)


def _fake_layout(count, start=1):
  return camus.Layout(
    'nifti',
    Path('raw'),
    {
      f'patient{number:04d}': Path('raw') / f'patient{number:04d}'
      for number in range(start, start + count)
    },
  )


def test_memsam_split_of_the_whole_set():
  parts = camus._memsam(_fake_layout(500))
  assert [len(part) for part in parts.values()] == [350, 50, 100]
  assert parts['training'][-1] == 'patient0350'
  assert parts['validation'][0] == 'patient0351'
  assert parts['testing'][0] == 'patient0401'


def test_memsam_goes_by_number_when_patients_are_missing():
  parts = camus._memsam(_fake_layout(480, start=21))
  assert [len(part) for part in parts.values()] == [330, 50, 100]
  assert parts['validation'][0] == 'patient0351'


@pytest.mark.parametrize(
  'count, sizes', [(3, [1, 1, 1]), (10, [7, 1, 2]), (30, [21, 3, 6]), (600, [420, 60, 120])]
)
def test_memsam_shares_of_other_sets(count, sizes):
  parts = camus._memsam(_fake_layout(count))
  assert [len(part) for part in parts.values()] == sizes
  assert sum(parts.values(), []) == list(_fake_layout(count).folders)


@pytest.mark.parametrize('keep', [0.3, 0.9, 0.999])
def test_truncated_gzip_is_never_read(broken, keep):
  path = broken / 'database_nifti' / 'patient0001' / 'patient0001_2CH_half_sequence.nii.gz'
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * keep)])
  with pytest.raises(FindingError, match=path.name) as caught:
    camus.read_clip(broken, 'patient0001', '2CH')
  assert caught.value.finding.code == 'truncated-file'


def test_flipped_bit_is_never_read(broken):
  path = broken / 'database_nifti' / 'patient0001' / 'patient0001_2CH_half_sequence.nii.gz'
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)
  with pytest.raises(InputError, match=path.name):
    camus.read_clip(broken, 'patient0001', '2CH')


@pytest.mark.parametrize('change', [-1, -2000, 10])
def test_raw_of_the_wrong_length_is_never_read(broken_mhd, change):
  path = next((broken_mhd / 'training').glob('*/*_2CH_sequence.raw'))
  data = path.read_bytes()
  path.write_bytes(data[:change] if change < 0 else data + bytes(change))
  with pytest.raises(FindingError, match=path.name) as caught:
    camus.read_clip(broken_mhd, path.parent.name, '2CH')
  assert caught.value.finding.code == 'truncated-file'


def test_gt_is_never_taken_for_the_image(broken):
  folder = broken / 'database_nifti' / 'patient0001'
  (folder / 'patient0001_2CH_half_sequence.nii.gz').unlink()
  with pytest.raises(InputError, match='2CH_half_sequence.nii.gz'):
    camus.read_clip(broken, 'patient0001', '2CH')


def _drop_gt(folder):
  (folder / 'patient0001_2CH_half_sequence_gt.nii.gz').unlink()


def _swap_gt_of_other_size(folder):
  shutil.copy(
    folder / 'patient0001_2CH_ED_gt.nii.gz', folder / 'patient0001_2CH_half_sequence_gt.nii.gz'
  )


def _edit(line, new):
  def mutate(folder):
    cfg = folder / 'Info_2CH.cfg'
    cfg.write_text(
      '\n'.join(new if old.startswith(line) else old for old in cfg.read_text().splitlines())
    )

  return mutate


@pytest.mark.parametrize(
  'mutate, message',
  [
    (_drop_gt, '2CH_half_sequence_gt.nii.gz: found nothing'),
    (_swap_gt_of_other_size, '_gt.nii.gz: found the shape .* as .*half_sequence.nii.gz'),
    (_edit('ED', 'ED: 0'), 'Info_2CH.cfg: found ED: 0, wanted'),
    (_edit('ED', 'ED: 99'), 'Info_2CH.cfg: found ED: 99, wanted'),
    (_edit('ED', 'ED: first'), 'Info_2CH.cfg: found ED: first, wanted'),
    (_edit('ES', ''), 'Info_2CH.cfg: found ES: nothing, wanted'),
    (_edit('NbFrame', 'NbFrame: 2'), 'Info_2CH.cfg: found NbFrame: 2, wanted'),
    (
      lambda folder: (folder / 'Info_2CH.cfg').write_text('ED: 2\nES: 2\n'),
      'Info_2CH.cfg: found ED and ES both in frame 2',
    ),
    (lambda folder: (folder / 'Info_2CH.cfg').unlink(), 'Info_2CH.cfg: found nothing'),
    (
      lambda folder: (folder / 'Info_2CH.cfg').write_bytes(b'\xff\xfe\x00'),
      'Info_2CH.cfg: found no text file',
    ),
    (
      lambda folder: (folder / 'Info_2CH.cfg').write_text('nothing'),
      'Info_2CH.cfg: found no "Key: value" line',
    ),
  ],
)
def test_reader_names_the_file(broken, mutate, message):
  mutate(broken / 'database_nifti' / 'patient0001')
  with pytest.raises(InputError, match=message):
    camus.read_clip(broken, 'patient0001', '2CH')


def test_misuse(nifti, tmp_path):
  with pytest.raises(InputError, match='folder not found'):
    camus.list_patients(tmp_path / 'nowhere')
  with pytest.raises(InputError, match='no CAMUS patients here'):
    camus.list_patients(tmp_path)
  with pytest.raises(InputError, match='patient0099'):
    camus.read_clip(nifti, 'patient0099', '2CH')
  with pytest.raises(InputError, match='A4C'):
    camus.read_clip(nifti, 'patient0001', 'A4C')
  with pytest.raises(InputError, match='unknown split'):
    camus.read_split(nifti, 'dev')
  with pytest.raises(InputError, match='unknown split scheme'):
    camus.read_split(nifti, 'test', 'random')


def test_missing_and_wrong_split_files(broken):
  path = broken / 'database_split' / 'subgroup_testing.txt'
  path.write_text('patient0001\nsomebody\n')
  with pytest.raises(InputError, match='line 2'):
    camus.read_split(broken, 'test')
  path.write_text('\n')
  with pytest.raises(InputError, match='split is empty'):
    camus.read_split(broken, 'test')
  path.unlink()
  with pytest.raises(InputError, match='subgroup_testing.txt: found nothing'):
    camus.read_split(broken, 'test')


def test_header_without_spacing(tmp_path, broken_mhd):
  path = next((broken_mhd / 'training').glob('*/*_2CH_sequence.mhd'))
  path.write_text(
    ''.join(
      line
      for line in path.read_text().splitlines(keepends=True)
      if not line.startswith('ElementSpacing')
    )
  )
  assert np.isnan(read_volume(path).spacing_mm).all()


def test_lossless_conversion_and_refusal(tmp_path):
  path = tmp_path / 'volume.nii.gz'
  values = np.arange(512, dtype=np.float32).reshape(2, 16, 16) % 200
  sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
  array = as_uint8(read_volume(path).array, path)
  assert array.dtype == np.uint8
  np.testing.assert_array_equal(array, values)
  for bad in (values + 0.5, values - 1, values + 240, values * np.nan):
    with pytest.raises(InputError, match='volume.nii.gz'):
      as_uint8(bad, path)


def test_color_volume_is_refused(broken):
  path = next((broken / 'database_nifti/patient0001').glob('*2CH_half_seq*e.nii.gz'))
  color = sitk.GetImageFromArray(np.zeros((2, 16, 16, 3), np.uint8), isVector=True)
  sitk.WriteImage(color, str(path))
  with pytest.raises(InputError, match=f'{path.name}.*gray levels'):
    camus.read_clip(broken, 'patient0001', '2CH')
