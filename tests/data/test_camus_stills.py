"""CAMUS as it circulates: ED and ES frames, no sequences, no cfg files, one view as PNG."""

import gzip
import json
import math
import os
from pathlib import Path
import shutil

import numpy as np
from PIL import Image
import pytest
import SimpleITK as sitk

from echoforge_jax.__main__ import main
from echoforge_jax.clip import LABELS
from echoforge_jax.data import datasets
from echoforge_jax.data.pipeline import eval_clips
from echoforge_jax.data.prepared import load_split, read_index
from echoforge_jax.data.spec import DataSpec
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation import predict
from echoforge_jax.evaluation.aggregate import score_predictions
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.evaluation.report.notes import notes
from echoforge_jax.evaluation.report.summary import summary_text
from echoforge_jax.metrics import ejection
from echoforge_jax.phantom.camus_writer import write_camus
from tests.phantom import ellipses

# Codes of `findings.CODES` that the tests below plant.
PLANTED = {'no-sequences', 'frame-shared'}


def write_stills(root, layout='nifti', png=True, patients=4):
  """Writes a copy of ED and ES frames: 4CH as volumes, 2CH as PNG or as volumes."""
  options = dict(config=ellipses.Config(), generate=ellipses.generate, progress=False)
  write_camus(root, num_patients=patients, seed=3, layout=layout, **options)
  (root / 'phantom.json').unlink()
  for path in [*root.rglob('*sequence*'), *root.rglob('*.cfg')]:
    path.unlink()
  if layout == 'nifti':
    (root / 'database_split/subgroup_testing.txt').unlink()
  if png:
    (root / 'stills_2CH').mkdir()
    for path in sorted(root.glob('database_nifti/*/*_2CH_*')):
      image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
      Image.fromarray(image).save(root / 'stills_2CH' / path.name.replace('.nii.gz', '.png'))
      path.unlink()
  return root


@pytest.fixture(scope='module')
def stills(tmp_path_factory):
  return write_stills(tmp_path_factory.mktemp('stills') / 'raw')


@pytest.fixture
def broken(stills, tmp_path):
  return Path(shutil.copytree(stills, tmp_path / 'raw'))


def reader(root):
  return datasets.reader_of('camus')(root)


def image(path):
  return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def volume(path, array):
  out = sitk.GetImageFromArray(np.asarray(array, np.uint8))
  out.SetSpacing((3.08, 3.08, 1.0)[: out.GetDimension()])
  sitk.WriteImage(out, str(path))


def test_a_clip_is_ed_and_es(stills):
  folder = stills / 'database_nifti/patient0002'
  clip = reader(stills).read_clip('patient0002', '4CH')
  for t, name in enumerate(('ED', 'ES')):
    np.testing.assert_array_equal(clip.frames[t], image(folder / f'patient0002_4CH_{name}.nii.gz'))
    np.testing.assert_array_equal(
      clip.masks[t], image(folder / f'patient0002_4CH_{name}_gt.nii.gz')
    )
  assert clip.labeled.tolist() == [True, True] and (clip.ed, clip.es) == (0, 1)
  np.testing.assert_allclose(clip.spacing_mm, 3.08, rtol=1e-6)
  other = reader(stills).read_clip('patient0002', '2CH')
  assert np.isnan(other.spacing_mm).all() and other.frames.shape == (2, 40, 48)
  png = np.asarray(Image.open(stills / 'stills_2CH/patient0002_2CH_ES_gt.png'))
  np.testing.assert_array_equal(other.masks[1], png)
  # The EF is the patient's, from the view whose spacing is known.
  ed, es = (ejection.measure_cavity(m == LABELS['lv'], (3.08, 3.08)) for m in clip.masks)
  wanted = ejection.measure_ejection({'4CH': ed}, {'4CH': es})
  assert clip.ef_percent == other.ef_percent == pytest.approx(wanted.ef_percent, abs=1e-3)
  assert clip.edv_ml == pytest.approx(wanted.edv_ml, rel=1e-5)
  assert clip.ef_source == other.ef_source == 'masks, single plane 4CH'


@pytest.mark.parametrize('layout', ['nifti', 'mhd'])
def test_two_views_with_spacing_give_a_biplane_ef(tmp_path, layout):
  root = write_stills(tmp_path / 'raw', layout, png=False)
  found = reader(root)
  assert not [f for f in found.verify() if f.severity == 'error']
  clips = [found.read_clip('patient0001', view) for view in ('2CH', '4CH')]
  assert {clip.ef_source for clip in clips} == {'masks, biplane'}
  cavities = [
    {
      clip.view: ejection.measure_cavity(clip.masks[t] == 1, tuple(map(float, clip.spacing_mm)))
      for clip in clips
    }
    for t in (0, 1)
  ]
  assert clips[0].ef_percent == clips[1].ef_percent
  assert clips[0].ef_percent == pytest.approx(ejection.measure_ejection(*cavities).ef_percent)
  if layout == 'mhd':  # The last ninth of `training` validates; `testing` is there.
    assert found.list_clips('test', 'official')


def test_a_cfg_that_is_there_states_the_ef(broken):
  text = 'ED: 1\nES: 7\nNbFrame: 7\nImageQuality: Poor\nEF: 51\nFrameRate: 50\nSex: F\nAge: 60\n'
  (broken / 'database_nifti/patient0001/Info_4CH.cfg').write_text(text)
  clip = reader(broken).read_clip('patient0001', '4CH')
  assert (clip.ef_percent, clip.ef_source, clip.quality, clip.es) == (51, '', 'Poor', 1)
  assert 'no cfg file of 7,' in ''.join(f.found for f in reader(broken).verify())


def test_what_is_missing_is_said_once(stills, tmp_path, capsys):
  report = tmp_path / 'report.json'
  assert main(['verify', '--dataset=camus', f'--raw={stills}', f'--json={report}']) == 0
  assert '4 patients verified: 0 errors, 1 warnings' in capsys.readouterr().out
  (finding,) = json.loads(report.read_text())['findings']
  assert finding['code'] == 'no-sequences'
  assert finding['found'] == (
    'no sequence of 8 clips, no cfg file of 8, no pixel spacing of 4 clips (2CH, PNG), '
    'no subgroup_testing.txt'
  )


def test_views_that_are_missing_are_said_once_and_not_listed(broken):
  for path in broken.glob('stills_2CH/patient0003*'):
    path.unlink()
  (finding,) = reader(broken).verify()
  assert 'no 2CH of 1 of 4 patients (the first is patient0003)' in finding.found
  listed = [c for s in ('train', 'validation') for c in reader(broken).list_clips(s, 'official')]
  assert ('patient0003', '4CH') in listed and ('patient0003', '2CH') not in listed
  shutil.rmtree(broken / 'stills_2CH')
  (finding,) = reader(broken).verify()
  assert 'no 2CH of 4 of 4 patients, ' in finding.found


def test_absent_patient_is_an_error_as_before(broken):
  (broken / 'database_split/subgroup_validation.txt').write_text('patient0039\n')
  (found,) = [f for f in reader(broken).verify() if f.severity == 'error']
  assert found.code == 'split-absent' and 'patient0039' in found.found
  with pytest.raises(InputError, match="no patient 'patient0039'"):
    reader(broken).read_clip('patient0039', '4CH')


def test_a_frame_of_two_patients_is_named(broken):
  folder = broken / 'database_nifti'
  name = '{0}/{0}_4CH_{1}.nii.gz'
  one, two = (folder / name.format(p, 'ED') for p in ('patient0001', 'patient0002'))
  shutil.copy(one, two)
  found = [f for f in reader(broken).verify() if f.code != 'no-sequences']
  assert [(f.code, f.severity, Path(f.file)) for f in found] == [('frame-shared', 'warning', two)]
  shutil.copy(*(folder / name.format(p, 'ES') for p in ('patient0001', 'patient0002')))
  codes = [f.code for f in reader(broken).verify()]
  assert 'duplicate-images' in codes and codes.count('frame-shared') == 2


NIFTI = 'database_nifti/patient0001/patient0001_4CH_{}.nii.gz'
PNG = 'stills_2CH/patient0001_2CH_{}.png'


def _small(path):
  Image.fromarray(np.asarray(Image.open(path))[:20]).save(path)


@pytest.mark.parametrize(
  'file, change, code, words',
  [
    (NIFTI.format('ES'), Path.unlink, 'missing-file', 'found nothing'),
    (PNG.format('ED_gt'), Path.unlink, 'missing-file', 'found nothing'),
    (PNG.format('ED'), lambda p: p.write_bytes(b'png'), 'image-unreadable', 'a file that can'),
    (
      PNG.format('ED'),
      lambda p: Image.fromarray(np.arange(1920, dtype='u2').reshape(40, 48) * 30).save(p),
      'image-unreadable',
      'values from 0 to 57570, wanted gray levels 0..255',
    ),
    (PNG.format('ED'), lambda p: (p.unlink(), p.mkdir()), 'missing-file', 'found a folder'),
    (PNG.format('ED'), lambda p: (p.unlink(), p.symlink_to('no')), 'missing-file', 'a link that'),
    (PNG.format('ES'), _small, 'shape-mismatch', r'\(1, 20, 48\)'),
    (PNG.format('ED_gt'), lambda p: Image.new('L', (48, 40), 7).save(p), 'label-values', r'\[7\]'),
    (PNG.format('ED_gt'), lambda p: Image.new('L', (48, 40), 2).save(p), 'lv-empty', 'no label 1'),
    (
      PNG.format('ED_gt'),
      lambda p: Image.new('RGB', (48, 40), (1, 2, 3)).save(p),
      'mask-unreadable',
      'color',
    ),
    (
      NIFTI.format('ED'),
      lambda p: volume(p, np.ones((3, 40, 48))),
      'volume-shape',
      r'3, 40, 48\), wanted \[1,',
    ),
    (NIFTI.format('ED_gt'), lambda p: p.write_bytes(p.read_bytes()[:90]), 'truncated-file', 'gzip'),
  ],
)
def test_each_fault_is_named_by_both(broken, file, change, code, words):
  change(broken / file)
  found = [f for f in reader(broken).verify() if f.severity == 'error']
  assert {f.code for f in found} == {code} and all(Path(f.file) == broken / file for f in found)
  with pytest.raises(InputError, match=words) as caught:
    reader(broken).read_clip('patient0001', '2CH' if 'stills' in file else '4CH')
  assert str(broken / file) in str(caught.value) and '\n' not in str(caught.value)


@pytest.fixture(scope='module')
def prepared(stills, tmp_path_factory):
  data = tmp_path_factory.mktemp('data')
  flags = ['--dataset=camus', f'--raw={stills}', f'--data_dir={data}', '--image_size=32']
  assert main(['prepare', *flags]) == 0
  return data


def test_prepare_says_once_what_is_not_there(stills, prepared, capsys):
  flags = ['--dataset=camus', f'--raw={stills}', f'--data_dir={prepared}', '--image_size=32']
  assert main(['prepare', *flags]) == 0
  out = capsys.readouterr().out
  assert out.count('lists no clip of the split test') == 1
  assert "EF of 6 clips: measured on their patients' masks, single plane 4CH" in out
  source = load_split(prepared, 'camus', 'train', 32)
  assert {clip['num_frames'] for clip in source.clips} == {2}
  assert read_index(source.path)['clips']['train'][0]['ef_source'] == 'masks, single plane 4CH'
  with pytest.raises(InputError, match=r'another split \(train, validation\)'):
    load_split(prepared, 'camus', 'test', 32)
  (stills / 'stills_2CH/stray.png').write_bytes(b'a change')
  try:
    with pytest.raises(InputError, match='other raw files'):
      datasets_prepare(stills, prepared)
  finally:
    (stills / 'stills_2CH/stray.png').unlink()


def datasets_prepare(stills, data):
  from echoforge_jax.data.prepare import prepare

  return prepare('camus', stills, data, 32)


@pytest.mark.parametrize('protocol, frames', [('camus_semi', 2), ('camus_full', 2)])
def test_protocols_score_each_frame_once(prepared, protocol, frames):
  chosen = get_protocol(protocol)
  spec = DataSpec(prepared, 'camus', image_size=32, num_frames=chosen.num_frames)
  clips = eval_clips(spec, 'train', chosen.sampler)
  cases = []
  for clip in clips:
    assert clip['frames'].tolist() == [0, 1] and (clip['ed'], clip['es']) == (0, 1)
    # A pixel to the right of the truth.
    cases.append(predict.make_case(clip, np.roll(clip['masks'] == 1, 1, axis=2)))
  result = score_predictions(cases, chosen, resamples=50)
  metrics = result.metrics
  assert metrics['n_frames'] == frames * len(clips)
  assert {row['phase'] for row in result.per_frame} == {'ED', 'ES'}
  # Distances are those of the view with a spacing: a pixel of 32 is 48 * 3.08 / 32 mm wide.
  assert metrics['unit'] == 'mm'
  assert metrics['classes']['lv']['hd']['mean'] == pytest.approx(4.62, rel=1e-5)
  by_view = {row['view']: row for row in result.per_case}
  assert by_view['2CH']['unit'] == 'px' and math.isnan(by_view['2CH']['lv_hd'])
  assert 0 < by_view['2CH']['lv_dice'] < 1
  # The EF is compared within the view that allows one.
  assert metrics['ef']['reference'] == ['masks, single plane 4CH']
  assert metrics['ef']['single_plane'] == metrics['ef']['n'] == metrics['n_patients']
  assert metrics['temporal']['area_roughness']['n'] == 0
  said = ' '.join(notes(result))
  assert 'measures over time do not apply' in said and 'native size (single plane 4CH)' in said
  assert f'{len(cases) // 2} of {len(cases)} clips (2CH) have no pixel spacing' in said
  assert summary_text(result).count('do not apply') == 1


@pytest.mark.skipif(
  'ECHOFORGE_CAMUS_STILLS' not in os.environ,
  reason='ECHOFORGE_CAMUS_STILLS names no folder of real CAMUS frames',
)
def test_real_frames():
  found = reader(os.environ['ECHOFORGE_CAMUS_STILLS'])
  patient, view = found.list_clips('train', 'official')[0]
  clip = datasets.read_checked(found, patient, view)
  assert len(clip.frames) == 2 and clip.labeled.all() and 0 < clip.ef_percent < 90


def test_a_patient_without_files_is_named_and_not_skipped(broken, tmp_path, capsys):
  folder = broken / 'database_nifti/patient0009'
  folder.mkdir()
  with (broken / 'database_split/subgroup_training.txt').open('a') as file:
    file.write('patient0009\n')
  (finding,) = [f for f in reader(broken).verify() if f.severity == 'error']
  assert finding.code == 'missing-file' and finding.file == str(folder)
  assert 'patient0009_4CH_ED.nii.gz' in finding.wanted
  flags = [f'--raw={broken}', f'--data_dir={tmp_path / "data"}', '--image_size=32']
  assert main(['prepare', '--dataset=camus', *flags]) == 1
  assert 'train patient0009 4CH:' in capsys.readouterr().out


def test_pngs_of_nobody_are_strays(broken):
  names = ['patient0099_2CH_ED.png', 'patient0001_2CH_ED.PNG', 'line\nend.txt']
  for name in names:
    (broken / 'stills_2CH' / name).write_text('')
  found = [f for f in reader(broken).verify() if f.code == 'stray-file']
  assert sorted(f.found for f in found) == sorted(name.replace('\n', r'\n') for name in names)
  assert not any('\n' in f.file for f in found)


@pytest.mark.parametrize(
  'line', ['patient0001;patient0002', '../patient0001', 'patient0001_4CH_ED.nii.gz', 'Patient0001']
)
def test_a_list_of_something_else(broken, line):
  path = broken / 'database_split/subgroup_training.txt'
  path.write_text(line + '\n')
  errors = [f for f in reader(broken).verify() if f.severity == 'error']
  assert [f.code for f in errors] == ['split-unreadable'] and line in errors[0].found
  with pytest.raises(InputError, match='one patient id a line'):
    reader(broken).list_clips('train', 'official')


def test_notes_of_the_decoder_stay_away(broken, capfd):
  """ITK prints on its own where a header gives NaN millimetres."""
  path = broken / NIFTI.format('ED')
  header = bytearray(gzip.decompress(path.read_bytes()))
  header[80:88] = np.full(2, np.nan, '<f4').tobytes()
  path.write_bytes(gzip.compress(bytes(header)))
  (finding,) = [f for f in reader(broken).verify() if f.severity == 'error']
  assert (finding.code, finding.found) == ('spacing-missing', 'nan x nan mm')
  assert capfd.readouterr().err == ''
