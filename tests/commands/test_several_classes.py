"""Three structures in every file of an evaluation and of a segmentation, network untrained."""

import csv
import json

import cv2
import numpy as np
import pydicom
from pydicom import examples
import pytest
import SimpleITK as sitk

from echoforge_jax.__main__ import main
from tests.configs import load_config
from tests.inference.clips import make_workdir

CLASSES = ('lv', 'myo', 'la')
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def workdir(disc_data_dir, tmp_path_factory):
  data = {'data_dir': str(disc_data_dir), 'classes': CLASSES}
  return make_workdir(
    tmp_path_factory.mktemp('run') / 'work', load_config('tiny', 'baseline', data=data)
  )


def test_evaluation_holds_every_class(workdir, tmp_path, capsys):
  flags = ['--protocol=camus_full', '--split=validation', f'--out={tmp_path}']
  assert main(['evaluate', f'--workdir={workdir}', *flags]) == 0
  printed = capsys.readouterr().out
  metrics = json.loads((tmp_path / 'metrics.json').read_text())
  assert tuple(metrics['classes']) == CLASSES
  assert metrics['temporal']['valid_share']['truth']['mean'] == 1  # The discs fit together.
  row = next(csv.DictReader((tmp_path / 'per_case.csv').open()))
  page = (tmp_path / 'report' / 'index.html').read_text()
  for name in CLASSES:
    assert float(row[f'{name}_dice']) >= 0 and f'  {name.upper()} ' in printed
    assert f'{name.upper()} Dice (%)' in page and f'Dice, {name.upper()}<' in page
  assert '<option value="0">all</option>' in page
  frames = list(csv.DictReader((tmp_path / 'per_frame.csv').open()))
  assert {r['class'] for r in frames} == set(CLASSES)


def test_segmentation_holds_every_class(workdir, tmp_path):
  clip = examples.get_path('ybr_color')
  assert main(['segment', f'--checkpoint={workdir}', f'--out={tmp_path}', str(clip)]) == 0
  folder = next(path for path in tmp_path.iterdir() if path.is_dir())
  masks = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / 'masks.nii.gz')))
  result = json.loads((folder / 'result.json').read_text())
  segments = pydicom.dcmread(folder / 'masks.dcm')
  assert len(segments.SegmentSequence) == 3 and segments.NumberOfFrames == 3 * len(masks)
  bits = segments.pixel_array.reshape(3, *masks.shape)
  assert tuple(result['structures']) == CLASSES
  for k, found in enumerate(result['structures'].values()):
    assert found['label'] == k + 1
    assert found['area_px'] == (masks == k + 1).sum((1, 2)).tolist()
    np.testing.assert_array_equal(bits[k], masks == k + 1)
  assert result['structures']['lv']['area_px'] == result['area_px']
  assert cv2.imread(str(folder / 'overlay.png')) is not None
