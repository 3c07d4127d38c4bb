"""What one segmented clip leaves on disk: masks, overlay, curve, numbers."""

import dataclasses
import fractions
import math
import pathlib

import av
import cv2
import numpy as np
from PIL import Image
import SimpleITK as sitk

from echoforge_jax.clip import LABELS
from echoforge_jax.formats.raw_clip import RawClip
from echoforge_jax.inference.confidence import Calibration
from echoforge_jax.inference.cycle import FLAGS, Cycle
from echoforge_jax.inference.receipt import DISCLAIMER
from echoforge_jax.inference.segmenter import Segmentation
from echoforge_jax.textio import to_json

# Red is the prediction's color in this project's figures.
COLORS = {'lv': (235, 60, 50), 'myo': (240, 190, 60), 'la': (70, 140, 240)}
# What a clip leaves; `masks.dcm` only if it was DICOM.
NAMES = (
  'result.json',
  'masks.nii.gz',
  'masks.dcm',
  'probability.nii.gz',
  'overlay.mp4',
  'overlay.gif',
  'overlay.png',
  'area_curve.png',
)
_SHORTEST_SIDE = 384
# The GIF is for mails and pages: the clip's first seconds, small.
_GIF_SIDE, _GIF_SECONDS, _GIF_STEP, _GIF_COLORS = 280, 3.0, 0.08, 64
_FOOTER = 22
_PLAYBACK_FPS = 25


def clear(out_dir) -> None:
  """Removes what an earlier clip left in its folder, `result.json` first.

  Args:
    out_dir: the folder; need not exist. Other files in it stay.

  Raises:
    OSError: a file cannot be removed.
  """
  for name in NAMES:
    (pathlib.Path(out_dir) / name).unlink(missing_ok=True)


def write_masks(path, masks: np.ndarray, spacing_mm) -> None:
  """Writes masks as NIfTI in native geometry, frames along the third axis.

  Args:
    path: file to write.
    masks: uint8 [T, H, W].
    spacing_mm: mm per pixel (row, column); 1 is written where unknown.
  """
  image = sitk.GetImageFromArray(masks)
  row, column = (s if math.isfinite(s) else 1.0 for s in spacing_mm)
  image.SetSpacing((column, row, 1.0))
  sitk.WriteImage(image, str(path), useCompression=True)


def draw(frame: np.ndarray, mask: np.ndarray, scale: int = 1) -> np.ndarray:
  """A frame with translucent fill and contour for every label.

  Args:
    frame: uint8 [H, W].
    mask: uint8 [H, W] label values.
    scale: whole factor by which to enlarge.

  Returns:
    uint8 [H * scale, W * scale, 3] RGB.
  """
  size = (frame.shape[1] * scale, frame.shape[0] * scale)
  gray = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
  image = np.repeat(gray[..., None], 3, axis=2)
  for name, label in LABELS.items():
    region = (mask == label).astype(np.uint8)
    if not region.any():
      continue
    soft = cv2.resize(region * 255, size, interpolation=cv2.INTER_LINEAR)
    region = (soft > 127).astype(np.uint8)
    color = np.asarray(COLORS[name], np.float32)
    inside = region > 0
    image[inside] = (0.78 * image[inside] + 0.22 * color).astype(np.uint8)
    contours, _ = cv2.findContours(
      region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(image, contours, -1, COLORS[name], 1, cv2.LINE_AA)
  return image


def write_overlay(path, clip: RawClip, masks: np.ndarray, cycle: Cycle) -> None:
  """Writes the clip with its masks as an H.264 video, one frame a frame.

  Args:
    path: .mp4 to write.
    clip: the clip.
    masks: uint8 [T, H, W].
    cycle: names ED and ES in the footer.
  """
  scale = max(1, math.ceil(_SHORTEST_SIDE / min(masks.shape[1:])))
  rate = clip.fps if 1 <= clip.fps <= 500 else _PLAYBACK_FPS
  rate = fractions.Fraction(rate).limit_denominator(1001)
  with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
    stream = container.add_stream('libx264', rate=rate)
    stream.pix_fmt = 'yuv420p'
    # Without its look-ahead over blocks x264 gives the same bytes every time.
    stream.options = {'crf': '20', 'preset': 'fast', 'x264-params': 'mbtree=0'}
    for index, (frame, mask) in enumerate(zip(clip.frames, masks)):
      image = _even(
        _with_footer(
          draw(frame, mask, scale), _caption(index, len(masks), cycle)
        )
      )
      if index == 0:
        stream.height, stream.width = image.shape[:2]
      picture = av.VideoFrame.from_ndarray(image, format='rgb24')
      picture.pts = index
      container.mux(stream.encode(picture))
    container.mux(stream.encode())


def write_gif(path, clip: RawClip, masks: np.ndarray, cycle: Cycle) -> None:
  """Writes the first three seconds with their masks as a small looping GIF.

  Args:
    path: .gif to write.
    clip: the clip; of its frames at most 12.5 a second are shown, at their
      true pace.
    masks: uint8 [T, H, W].
    cycle: names ED and ES in the footer.
  """
  rate = clip.fps if 1 <= clip.fps <= 500 else _PLAYBACK_FPS
  count = min(len(masks), max(2, math.ceil(_GIF_SECONDS * rate)))
  step = max(1, math.ceil(_GIF_STEP * rate - 1e-9))
  share = min(1.0, _GIF_SIDE / max(masks.shape[1:]))
  size = [max(1, round(side * share)) for side in masks.shape[:0:-1]]
  pictures = []
  for index in range(0, count, step):
    frame = cv2.resize(clip.frames[index], size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(masks[index], size, interpolation=cv2.INTER_NEAREST)
    image = Image.fromarray(
      _with_footer(draw(frame, mask), _caption(index, len(masks), cycle))
    )
    pictures.append(image.quantize(_GIF_COLORS, dither=Image.Dither.NONE))
  pictures[0].save(
    path,
    save_all=True,
    append_images=pictures[1:],
    loop=0,
    duration=max(20, round(1000 * step / rate)),
  )


def write_sheet(
  path, clip: RawClip, masks: np.ndarray, cycle: Cycle, columns: int = 4
) -> None:
  """Writes a sheet of eight frames spread over the clip, ED and ES among them.

  Args:
    path: .png to write.
    clip: the clip.
    masks: uint8 [T, H, W].
    cycle: names ED and ES.
    columns: frames a row.
  """
  count = len(masks)
  chosen = {int(i) for i in np.linspace(0, count - 1, min(count, 8)).round()}
  for key in (cycle.ed, cycle.es):  # Each replaces its nearest neighbor.
    if key is not None and key not in chosen:
      others = chosen - {cycle.ed, cycle.es}
      chosen.discard(min(others, key=lambda i: abs(i - key), default=None))
      chosen.add(key)
  tiles = [
    _with_footer(
      draw(clip.frames[i], masks[i], 2 if min(masks.shape[1:]) < 300 else 1),
      _caption(i, count, cycle),
    )
    for i in sorted(chosen)
  ]
  tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
  rows = [
    np.concatenate(tiles[i : i + columns], axis=1)
    for i in range(0, len(tiles), columns)
  ]
  _write_png(path, np.concatenate(rows, axis=0))


def write_probability(path, found: Segmentation, box, spacing_mm) -> None:
  """Writes the calibrated probability of the first class at native size.

  Args:
    path: file to write: NIfTI, uint8, 255 being one.
    found: of the segmenter.
    box: (top, left, bottom, right) of what the network saw; it may reach out
      of the image.
    spacing_mm: mm per pixel (row, column); 1 is written where unknown.
  """
  top, left, bottom, right = box
  native = np.zeros(found.masks.shape, np.uint8)
  height, width = native.shape[1:]
  rows = slice(max(top, 0), min(bottom, height))
  columns = slice(max(left, 0), min(right, width))
  for frame, small in zip(native, found.probability):
    large = cv2.resize(
      small, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR
    )
    frame[rows, columns] = large[
      rows.start - top : rows.stop - top,
      columns.start - left : columns.stop - left,
    ]
  write_masks(path, native, spacing_mm)


def write_curve(
  path, clip: RawClip, cycle: Cycle, doubtful: np.ndarray | None = None
) -> None:
  """Plots the ventricle's area over time with ED and ES marked.

  Args:
    path: .png to write.
    clip: gives time and unit.
    cycle: the curve.
    doubtful: bool [T], frames to shade; None shades none.
  """
  from matplotlib.figure import Figure  # No pyplot: no global state.

  known = all(math.isfinite(s) for s in clip.spacing_mm)
  unit = 100.0 if known else 1.0
  timed = math.isfinite(clip.fps)
  time = np.arange(len(cycle.area)) / (clip.fps if timed else 1.0)
  figure = Figure(figsize=(7, 3.2), dpi=120, layout='constrained')
  axes = figure.subplots()
  axes.plot(time, cycle.area / unit, color='0.6', lw=1, label='area')
  axes.plot(time, cycle.smooth / unit, color='#c0392b', lw=2, label='smoothed')
  half = 0.5 / (clip.fps if timed else 1.0)  # A frame is that wide.
  for count, index in enumerate(
    np.flatnonzero([] if doubtful is None else doubtful)
  ):
    axes.axvspan(
      time[index] - half,
      time[index] + half,
      color='#f1c40f',
      alpha=0.35,
      lw=0,
      label=None if count else 'low confidence',
    )
  for beat in cycle.beats:
    for name, index in (('ED', beat.ed), ('ES', beat.es)):
      chosen = index in (cycle.ed, cycle.es)
      axes.axvline(time[index], color='0.4' if chosen else '0.75', lw=1, ls=':')
      axes.annotate(
        name,
        (time[index], cycle.smooth[index] / unit),
        xytext=(4, 6),
        textcoords='offset points',
        color='black' if chosen else '0.55',
      )
  axes.set_xlabel('time (s)' if timed else 'frame')
  axes.set_ylabel(f'left ventricle ({"cm²" if known else "px²"})')
  axes.set_ylim(bottom=0)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
  if math.isfinite(cycle.ef_percent):
    whole = sum(
      beat.whole and math.isfinite(beat.ef_percent) for beat in cycle.beats
    )
    spread = (
      f' ± {cycle.ef_sd:.0f} (SD of {whole} beats)'
      if math.isfinite(cycle.ef_sd)
      else ''
    )
    axes.set_title(
      f'single-plane EF {cycle.ef_percent:.0f} %{spread}  '
      '(not for clinical use)',
      fontsize=10,
    )
  figure.savefig(path)


def result_of(
  source: str,
  clip: RawClip,
  cycle: Cycle,
  sector,
  found: Segmentation,
  model: dict,
  calibration: Calibration,
  lag: int = 0,
) -> dict:
  """What `result.json` holds: plain numbers, None where unknown.

  Args:
    source: name of the input file.
    clip: as read.
    cycle: as measured.
    sector: where the ultrasound was found.
    found: masks and confidence.
    model: the model's receipt.
    calibration: of the confidence.
    lag: frames on either side that masks were averaged with.

  Returns:
    JSON-ready dict.
  """
  known = all(math.isfinite(s) for s in clip.spacing_mm)
  masks = found.masks
  flags = list(
    dict.fromkeys(
      [
        *clip.flags,
        *([] if sector.found else ['sector_not_found']),
        *cycle.flags,
      ]
    )
  )
  result = {
    'source': source,
    'frames': len(masks),
    'size': list(masks.shape[1:]),
    'fps': clip.fps,
    'spacing_mm': list(clip.spacing_mm) if known else None,
    'ed_frame': cycle.ed,
    'es_frame': cycle.es,
    'edv_ml': cycle.edv_ml,
    'esv_ml': cycle.esv_ml,
    'ef_percent': cycle.ef_percent,
    'ef_sd': cycle.ef_sd,
    'lag': lag,
    'ef_method': cycle.ef_method or None,
    'flags': flags,
    'flag_details': {code: FLAGS[code] for code in flags},
    'beats': [dataclasses.asdict(beat) for beat in cycle.beats],
    'area_mm2': [round(a, 2) for a in cycle.area] if known else None,
    'area_px': (masks == LABELS['lv']).sum(axis=(1, 2)).tolist(),
    'confidence': {
      'mean': float(found.confidence.mean()),
      'low': calibration.low,
      'calibrated': bool(calibration.facts),
      'frames': found.confidence.tolist(),
    },
    'sector': {
      'box': list(sector.box),
      'found': sector.found,
      'fit': sector.fit,
    },
    'notes': list(clip.notes),
    'model': model,
    'disclaimer': DISCLAIMER,
  }
  return to_json(result, digits=6)


def _caption(index: int, count: int, cycle: Cycle) -> str:
  name = {cycle.ed: '  ED', cycle.es: '  ES'}.get(index, '')
  return f'{index + 1}/{count}{name}'


def _with_footer(image: np.ndarray, text: str) -> np.ndarray:
  footer = np.zeros((_FOOTER, image.shape[1], 3), np.uint8)
  font, gray = cv2.FONT_HERSHEY_SIMPLEX, (190, 190, 190)
  cv2.putText(footer, text, (4, 15), font, 0.42, gray, 1, cv2.LINE_AA)
  notice = 'not for clinical use'
  (width, _), _ = cv2.getTextSize(notice, font, 0.42, 1)
  cv2.putText(
    footer,
    notice,
    (max(100, image.shape[1] - width - 4), 15),
    font,
    0.42,
    gray,
    1,
    cv2.LINE_AA,
  )
  return np.concatenate([image, footer], axis=0)


def _even(image: np.ndarray) -> np.ndarray:
  """Pads to even sides, as 4:2:0 color wants."""
  pad = [(0, side % 2) for side in image.shape[:2]]
  return np.pad(image, [*pad, (0, 0)])


def _write_png(path, image: np.ndarray) -> None:
  encoded = cv2.imencode('.png', image[..., ::-1])[1]
  pathlib.Path(path).write_bytes(encoded.tobytes())
