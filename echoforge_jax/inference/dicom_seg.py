"""Masks of a DICOM clip as a DICOM Segmentation object (masks.dcm).

highdicom takes several frames only from images that lie in a patient coordinate
system, which ultrasound clips do not. So it builds the object of one frame, and
the frames are filled in here: each is tied to the clip's frame of the same
number (Derivation Image), pixel to pixel (Spatial Locations Preserved).
"""

from collections.abc import Iterator
import io
import itertools
import pathlib
import warnings

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset

from echoforge_jax.clip import LABELS
from echoforge_jax.formats import dicom
from echoforge_jax.inference.measurement import Measurement
from echoforge_jax.inference.outputs import COLORS

# Names as people read them; SNOMED CT keywords of pydicom's dictionary.
_STRUCTURES = {
  'lv': ('left ventricle', 'LeftVentricle'),
  'myo': ('left ventricular myocardium', 'LeftVentricleMyocardium'),
  'la': ('left atrium', 'LeftAtrium'),
}
_DEFER = 2**20
_NOMINAL_THICKNESS_MM = 1.0
# What a single image without a coordinate system must not have.
_LEFT_OUT = (
  'PixelData FloatPixelData DoubleFloatPixelData NumberOfFrames FrameOfReferenceUID SOPClassUID'
).split()
# May be empty, and are often removed to anonymize.
_MAY_BE_EMPTY = (
  'PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime'
).split()


def write_if_dicom(path, source, measured: Measurement) -> str:
  """Writes the segmentation of a DICOM clip; returns why if its header does not allow one."""
  source = pathlib.Path(source)
  if source.is_dir() or not dicom.is_dicom(source):
    return ''
  try:
    header = pydicom.dcmread(source, defer_size=_DEFER)
    encoded = io.BytesIO()
    segmentation(header, measured).save_as(encoded)
  except Exception as error:  # A header may lack or break any of many fields.
    reason = ' '.join(str(error).split())[:160]
    return (
      f'no DICOM segmentation was written: the header of the clip does not allow one ({reason})'
    )
  pathlib.Path(path).write_bytes(encoded.getbuffer())
  return ''


def segmentation(source: Dataset, measured: Measurement) -> Dataset:
  """Builds the segmentation object of a clip from its header.

  Each class is a segment: one bit per pixel, frames of the first segment first.
  """
  masks, classes = measured.masks, measured.found.classes
  with warnings.catch_warnings():
    # highdicom doubts names of one word, which are the source's own.
    warnings.filterwarnings('ignore', 'The string ".*" is unlikely to represent', UserWarning)
    result = _of_one_frame(source, measured)
  shared = result.SharedFunctionalGroupsSequence[0]
  template = result.PerFrameFunctionalGroupsSequence[0]
  if 'SegmentIdentificationSequence' in shared:
    del shared.SegmentIdentificationSequence
  derivation = template.DerivationImageSequence[0]
  result.walk(lambda item, element: _restore_class(item, element, source))
  numbers = itertools.product(range(1, len(classes) + 1), range(1, len(masks) + 1))
  items = [_frame_item(derivation, source, segment, frame) for segment, frame in numbers]
  result.PerFrameFunctionalGroupsSequence = items
  organization = result.DimensionOrganizationSequence[0]
  segment = ('SegmentIdentificationSequence', 'ReferencedSegmentNumber')
  time = ('FrameContentSequence', 'TemporalPositionIndex')
  result.DimensionIndexSequence = [
    _dimension(organization, *segment, 'Segment Number'),
    _dimension(organization, *time, 'Temporal Position Index'),
  ]
  result.NumberOfFrames = len(items)
  labels = [LABELS[name] for name in classes]
  result.PixelData = b''.join(_packed(mask == label for label in labels for mask in masks))
  if len(result.PixelData) % 2:
    result.PixelData += b'\0'
  return result


def _of_one_frame(source: Dataset, measured: Measurement) -> Dataset:
  """Builds highdicom's object of the first frame, all segments described."""
  import highdicom as hd  # Slow to import.

  still = Dataset()
  still.update({e.tag: source[e.tag] for e in source if e.keyword not in _LEFT_OUT})
  still.file_meta = source.file_meta
  still.SOPClassUID = uid.UltrasoundImageStorage
  for name in _MAY_BE_EMPTY:
    if name not in still:
      setattr(still, name, '')
  measures = None
  if measured.spacing_known:
    # Readers insist on a thickness; that of an ultrasound plane is unknown.
    spacing = [float(s) for s in measured.clip.spacing_mm]
    measures = hd.PixelMeasuresSequence(spacing, slice_thickness=_NOMINAL_THICKNESS_MM)
  model, classes = measured.found.receipt, measured.found.classes
  version = str(model.get('git_revision') or model.get('step') or 'unknown')
  return hd.seg.Segmentation(
    source_images=[still],
    pixel_array=np.ones((1, *measured.masks.shape[1:]), np.uint8),
    segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
    segment_descriptions=[_description(hd, k, name, model) for k, name in enumerate(classes, 1)],
    series_instance_uid=hd.UID(),
    sop_instance_uid=hd.UID(),
    series_number=int(source.get('SeriesNumber') or 0) % 9000 + 900,
    instance_number=1,
    manufacturer='EchoForge',
    manufacturer_model_name='echoforge_jax',
    software_versions=version[:64],
    device_serial_number=str(model.get('sha256', 'unknown'))[:64],
    content_label='LV_SEGMENTATION' if tuple(classes) == ('lv',) else 'HEART_SEGMENTS',
    content_description='Research software, not for clinical use',
    series_description='EchoForge masks, not for clinical use',
    pixel_measures=measures,
    omit_empty_frames=False,
  )


def _description(hd, number: int, name: str, model):
  from pydicom.sr.codedict import codes

  label, keyword = _STRUCTURES[name]
  found = hd.seg.SegmentDescription(
    segment_number=number,
    segment_label=label,
    segmented_property_category=codes.SCT.AnatomicalStructure,
    segmented_property_type=getattr(codes.SCT, keyword),
    algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
    algorithm_identification=hd.AlgorithmIdentificationSequence(
      name='EchoForge',
      family=codes.DCM.ArtificialIntelligence,
      version=str(model.get('sha256', 'unknown'))[:64],
    ),
  )
  found.RecommendedDisplayCIELabValue = list(hd.color.CIELabColor.from_rgb(*COLORS[name]).value)
  return found


def _restore_class(item: Dataset, element, source: Dataset) -> None:
  """Makes references name the clip's own class, not that of one image."""
  if element.keyword == 'ReferencedSOPInstanceUID' and element.value == source.SOPInstanceUID:
    item.ReferencedSOPClassUID = source.SOPClassUID


def _item(**elements) -> Dataset:
  item = Dataset()
  for name, value in elements.items():
    setattr(item, name, value)
  return item


def _frame_item(derivation, source, segment: int, frame: int) -> Dataset:
  """Returns indices and source of one frame of one segment."""
  purpose = derivation.SourceImageSequence[0].PurposeOfReferenceCodeSequence
  image = _item(
    ReferencedSOPClassUID=source.SOPClassUID,
    ReferencedSOPInstanceUID=source.SOPInstanceUID,
    ReferencedFrameNumber=frame,
    SpatialLocationsPreserved='YES',
    PurposeOfReferenceCodeSequence=purpose,
  )
  content = _item(DimensionIndexValues=[segment, frame], TemporalPositionIndex=frame)
  codes = derivation.DerivationCodeSequence
  derived = _item(DerivationCodeSequence=codes, SourceImageSequence=[image])
  return _item(
    FrameContentSequence=[content],
    SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=segment)],
    DerivationImageSequence=[derived],
  )


def _dimension(organization, group: str, pointer: str, label: str) -> Dataset:
  return _item(
    DimensionOrganizationUID=organization.DimensionOrganizationUID,
    DimensionIndexPointer=pydicom.datadict.tag_for_keyword(pointer),
    FunctionalGroupPointer=pydicom.datadict.tag_for_keyword(group),
    DimensionDescriptionLabel=label,
  )


def _packed(frames) -> Iterator[bytes]:
  """Yields one bit per pixel, lowest first; eight frames fill whole bytes."""
  frames = iter(frames)
  while chunk := list(itertools.islice(frames, 8)):
    yield np.packbits(np.stack(chunk).ravel(), bitorder='little').tobytes()
