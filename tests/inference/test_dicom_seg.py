"""masks.dcm, read back by highdicom: pixels, frames, codes, references."""

import math

import highdicom as hd
import numpy as np
import pydicom
from pydicom import examples
import pytest

from echoforge_jax.formats.raw_clip import RawClip
from echoforge_jax.formats.sector import whole_image
from echoforge_jax.inference import dicom_seg
from echoforge_jax.inference.measurement import Measurement
from echoforge_jax.inference.segmenter import Segmentation

REAL = examples.get_path('ybr_color')
MODEL = {'sha256': 'ab' * 32, 'git_revision': 'c0ffee'}


def masks_of(shape=(30, 240, 320)):
  masks = np.zeros(shape, np.uint8)
  for index in range(shape[0]):
    masks[index, 20:60, 30 : 50 + index] = 1
    masks[index, 65 : 70 + index, 30:60] = 3
  masks[4] = 0  # A frame without any.
  return masks


def measured(masks, classes=('lv',), spacing_mm=(1.02, 1.01)):
  found = Segmentation(
    masks, np.ones(len(masks)), masks, whole_image(masks.shape[1:]), classes=classes, receipt=MODEL
  )
  area = np.zeros(len(masks))
  return Measurement(RawClip(masks, spacing_mm), found, area, area, ())


def test_round_trip(tmp_path):
  masks, path = masks_of(), tmp_path / 'masks.dcm'
  assert dicom_seg.write_if_dicom(path, REAL, measured(masks, ('lv', 'la'))) == ''
  source, found = pydicom.dcmread(REAL), hd.seg.segread(path)
  pixels = found.get_pixels_by_source_frame(
    source.SOPInstanceUID, list(range(1, 31)), segment_numbers=[1, 2]
  )
  np.testing.assert_array_equal(pixels[..., 0], masks == 1)
  np.testing.assert_array_equal(pixels[..., 1], masks == 3)
  # The same through pydicom, which knows nothing of segments.
  np.testing.assert_array_equal(
    pydicom.dcmread(path).pixel_array, np.concatenate([masks == 1, masks == 3])
  )


def test_what_it_says_about_itself(tmp_path):
  path = tmp_path / 'masks.dcm'
  dicom_seg.write_if_dicom(path, REAL, measured(masks_of(), ('lv', 'myo', 'la')))
  source, found = pydicom.dcmread(REAL), pydicom.dcmread(path)
  codes = [
    (item.SegmentLabel, item.SegmentedPropertyTypeCodeSequence[0]) for item in found.SegmentSequence
  ]
  assert [(label, code.CodeValue, code.CodingSchemeDesignator) for label, code in codes] == [
    ('left ventricle', '87878005', 'SCT'),
    ('left ventricular myocardium', '49848007', 'SCT'),
    ('left atrium', '82471001', 'SCT'),
  ]
  assert found.Modality == 'SEG' and found.SegmentationType == 'BINARY'
  assert found.ContentLabel == 'HEART_SEGMENTS'
  dicom_seg.write_if_dicom(tmp_path / 'lv.dcm', REAL, measured(masks_of()))
  assert pydicom.dcmread(tmp_path / 'lv.dcm').ContentLabel == 'LV_SEGMENTATION'
  for name in ('StudyInstanceUID', 'PatientID', 'StudyDate'):
    assert found[name].value == source[name].value
  assert found.SeriesInstanceUID != source.SeriesInstanceUID
  measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
  assert measures.PixelSpacing == [1.02, 1.01]
  assert found.NumberOfFrames == 90
  item = found.PerFrameFunctionalGroupsSequence[31]  # Second of `myo`.
  image = item.DerivationImageSequence[0].SourceImageSequence[0]
  assert image.ReferencedFrameNumber == 2
  assert item.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2
  assert item.FrameContentSequence[0].DimensionIndexValues == [2, 2]
  references = []
  found.walk(
    lambda data, element: (
      references.append(data.ReferencedSOPClassUID)
      if element.keyword == 'ReferencedSOPInstanceUID'
      else None
    )
  )
  assert len(references) > 90 and set(references) == {source.SOPClassUID}


@pytest.mark.parametrize('shape', [(3, 33, 35), (1, 17, 19), (9, 40, 41)])
def test_bits_of_odd_sizes(shape):
  masks = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
  source = pydicom.dcmread(REAL)
  source.Rows, source.Columns = shape[1:]
  found = dicom_seg.segmentation(source, measured(masks, spacing_mm=(math.nan, math.nan)))
  assert 'PixelMeasuresSequence' not in found.SharedFunctionalGroupsSequence[0]
  bits = np.unpackbits(np.frombuffer(found.PixelData, np.uint8), bitorder='little')[: masks.size]
  np.testing.assert_array_equal(bits.reshape(shape), masks)
  assert len(found.PixelData) % 2 == 0


def test_what_cannot_have_one(tmp_path):
  np.save(tmp_path / 'clip.npy', masks_of())
  path = tmp_path / 'masks.dcm'
  assert dicom_seg.write_if_dicom(path, tmp_path / 'clip.npy', measured(masks_of())) == ''
  assert not path.exists()
  dataset = pydicom.dcmread(REAL)
  del dataset.StudyInstanceUID
  dataset.save_as(tmp_path / 'bare.dcm')
  said = dicom_seg.write_if_dicom(path, tmp_path / 'bare.dcm', measured(masks_of()))
  assert 'no DICOM segmentation' in said and 'StudyInstanceUID' in said
  assert not path.exists()
