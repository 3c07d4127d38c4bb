"""What one segmented clip leaves on disk: masks, overlay, curve, numbers."""

from collections.abc import Mapping
import dataclasses
import fractions
import math
import pathlib

import av
import cv2
import numpy as np
from PIL import Image

from echoforge_jax.clip import LABELS
from echoforge_jax.formats import volumes
from echoforge_jax.inference.measurement import FLAGS, Measurement
from echoforge_jax.inference.receipt import DISCLAIMER
from echoforge_jax.textio import to_json

# Red is the prediction's color in this project's figures.
COLORS = {'lv': (235, 60, 50), 'myo': (240, 190, 60), 'la': (70, 140, 240)}
# What a clip leaves; `masks.dcm` only if it was DICOM.
_PICTURES = ('overlay.mp4', 'overlay.gif', 'overlay.png', 'area_curve.png')
NAMES = ('result.json', 'masks.nii.gz', 'masks.dcm', 'probability.nii.gz', *_PICTURES)
_SHORTEST_SIDE = 384
# The GIF is for mails and pages: the clip's first seconds, small.
_GIF_SIDE, _GIF_SECONDS, _GIF_STEP, _GIF_COLORS = 280, 3.0, 0.08, 64
_FOOTER = 22
_PLAYBACK_FPS = 25
_COLUMNS = 4  # Of the sheet.


def clear(out_dir) -> None:
  """Removes what an earlier clip left in its folder, `result.json` first."""
  for name in NAMES:
    (pathlib.Path(out_dir) / name).unlink(missing_ok=True)


def write_masks(path, masks: np.ndarray, spacing_mm) -> None:
  """Writes masks uint8 [T, H, W] as NIfTI, frames third; unknown (NaN) spacing as 1."""
  row, column = (s if math.isfinite(s) else 1.0 for s in spacing_mm)
  volumes.write_volume(path, masks, (column, row, 1.0))


def draw(frame: np.ndarray, mask: np.ndarray, scale: int = 1) -> np.ndarray:
  """Draws a frame with its labels, RGB uint8 [H * scale, W * scale, 3]."""
  size = (frame.shape[1] * scale, frame.shape[0] * scale)
  gray = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
  image = np.repeat(gray[..., None], 3, axis=2)
  for name, label in LABELS.items():
    region = (mask == label).astype(np.uint8)
    if not region.any():
      continue
    inside = cv2.resize(region * 255, size, interpolation=cv2.INTER_LINEAR) > 127
    color = np.asarray(COLORS[name], np.float32)
    image[inside] = (0.78 * image[inside] + 0.22 * color).astype(np.uint8)
    region = inside.astype(np.uint8)
    contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, COLORS[name], 1, cv2.LINE_AA)
  return image


def write_overlay(path, measured: Measurement) -> None:
  """Writes the clip with its masks as an H.264 video, frame by frame."""
  masks = measured.masks
  scale = max(1, math.ceil(_SHORTEST_SIDE / min(masks.shape[1:])))
  rate = fractions.Fraction(_playback(measured)).limit_denominator(1001)
  with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
    stream = container.add_stream('libx264', rate=rate)
    stream.pix_fmt = 'yuv420p'
    # Without its look-ahead over blocks x264 gives the same bytes every time.
    stream.options = {'crf': '20', 'preset': 'fast', 'x264-params': 'mbtree=0'}
    for index in range(len(masks)):
      image = _tile(measured, index, scale)
      pad = [(0, side % 2) for side in image.shape[:2]]  # 4:2:0 color wants even sides.
      image = np.pad(image, [*pad, (0, 0)])
      if index == 0:
        stream.height, stream.width = image.shape[:2]
      picture = av.VideoFrame.from_ndarray(image, format='rgb24')
      picture.pts = index
      container.mux(stream.encode(picture))
    container.mux(stream.encode())


def write_gif(path, measured: Measurement) -> None:
  """Writes three seconds with masks as a small GIF, at most 12.5 frames per second."""
  masks, frames = measured.masks, measured.clip.frames
  rate = _playback(measured)
  count = min(len(masks), max(2, math.ceil(_GIF_SECONDS * rate)))
  step = max(1, math.ceil(_GIF_STEP * rate - 1e-9))
  share = min(1.0, _GIF_SIDE / max(masks.shape[1:]))
  size = [max(1, round(side * share)) for side in masks.shape[:0:-1]]
  pictures = []
  for index in range(0, count, step):
    frame = cv2.resize(frames[index], size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(masks[index], size, interpolation=cv2.INTER_NEAREST)
    image = Image.fromarray(_with_footer(draw(frame, mask), _caption(measured, index)))
    pictures.append(image.quantize(_GIF_COLORS, dither=Image.Dither.NONE))
  pause = max(20, round(1000 * step / rate))
  pictures[0].save(path, save_all=True, append_images=pictures[1:], loop=0, duration=pause)


def write_sheet(path, measured: Measurement) -> None:
  """Writes a PNG of eight frames over the clip, ED and ES among them."""
  count = len(measured.masks)
  ends = {measured.ed, measured.es}
  chosen = {int(i) for i in np.linspace(0, count - 1, min(count, 8)).round()}
  for key in (measured.ed, measured.es):  # Each replaces its nearest neighbor.
    if key is not None and key not in chosen:
      nearest = min(chosen - ends, key=lambda i: abs(i - key), default=None)
      chosen.discard(nearest)
      chosen.add(key)
  scale = 2 if min(measured.masks.shape[1:]) < 300 else 1
  tiles = [_tile(measured, index, scale) for index in sorted(chosen)]
  tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _COLUMNS)
  rows = [np.concatenate(tiles[i : i + _COLUMNS], axis=1) for i in range(0, len(tiles), _COLUMNS)]
  _write_png(path, np.concatenate(rows))


def write_comparison(path, measured: Mapping[str, Measurement]) -> None:
  """Writes a PNG of the same frames of one clip, a row for each model, named in the captions."""
  count = min(len(one.masks) for one in measured.values())
  chosen = np.linspace(0, count - 1, min(count, _COLUMNS)).round().astype(int)
  rows = []
  for name, one in measured.items():
    scale = 2 if min(one.masks.shape[1:]) < 300 else 1
    tiles = [_tile(one, index, scale, f'{name}  ') for index in chosen]
    rows.append(np.concatenate(tiles, axis=1))
  _write_png(path, np.concatenate(rows))


def _write_png(path, image: np.ndarray) -> None:
  encoded = cv2.imencode('.png', image[..., ::-1])[1]
  pathlib.Path(path).write_bytes(encoded.tobytes())


def write_probability(path, measured: Measurement) -> None:
  """Writes the calibrated probability of the first class: NIfTI, native size, 255 being one."""
  sector = measured.found.sector
  top, left, bottom, right = sector.box
  size, shape = (right - left, bottom - top), measured.masks.shape[1:]
  native = [sector.paste(cv2.resize(p, size), shape) for p in measured.found.probability]
  write_masks(path, np.stack(native), measured.clip.spacing_mm)


def write_curve(path, measured: Measurement) -> None:
  """Plots the ventricle's area over time with ED, ES and doubt marked."""
  from matplotlib.figure import Figure  # No pyplot: no global state.

  area, smooth = measured.area, measured.smooth
  unit, unit_name = (100.0, 'cm²') if measured.spacing_known else (1.0, 'px²')
  timed = math.isfinite(measured.clip.fps)
  frame = 1 / measured.clip.fps if timed else 1.0  # A frame is that wide.
  time = np.arange(len(area)) * frame
  figure = Figure(figsize=(7, 3.2), dpi=120, layout='constrained')
  axes = figure.subplots()
  axes.plot(time, area / unit, color='0.6', lw=1, label='area')
  axes.plot(time, smooth / unit, color='#c0392b', lw=2, label='smoothed')
  for count, index in enumerate(np.flatnonzero(measured.doubtful)):
    span = time[index] - frame / 2, time[index] + frame / 2
    label = None if count else 'low confidence'
    axes.axvspan(*span, color='#f1c40f', alpha=0.35, lw=0, label=label)
  for beat in measured.beats:
    for name, index in (('ED', beat.ed), ('ES', beat.es)):
      chosen = index in (measured.ed, measured.es)
      axes.axvline(time[index], color='0.4' if chosen else '0.75', lw=1, ls=':')
      color = 'black' if chosen else '0.55'
      point = (time[index], smooth[index] / unit)
      axes.annotate(name, point, xytext=(4, 6), textcoords='offset points', color=color)
  axes.set_xlabel('time (s)' if timed else 'frame')
  axes.set_ylabel(f'left ventricle ({unit_name})')
  axes.set_ylim(bottom=0)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
  if math.isfinite(measured.ef_percent):
    axes.set_title(_curve_title(measured), fontsize=10)
  figure.savefig(path)


def _curve_title(measured: Measurement) -> str:
  spread = ''
  if math.isfinite(measured.ef_sd):
    count = sum(b.whole and math.isfinite(b.ef_percent) for b in measured.beats)
    spread = f' ± {measured.ef_sd:.0f} (SD of {count} beats)'
  return f'single-plane EF {measured.ef_percent:.0f} %{spread}  (not for clinical use)'


def result_of(source: str, measured: Measurement) -> dict:
  """Returns the content of result.json; numbers are Python's, None where unknown."""
  clip, found = measured.clip, measured.found
  known, sector = measured.spacing_known, found.sector
  return to_json(
    {
      'source': source,
      'frames': len(found.masks),
      'size': list(found.masks.shape[1:]),
      'fps': clip.fps,
      'spacing_mm': list(clip.spacing_mm) if known else None,
      'ed_frame': measured.ed,
      'es_frame': measured.es,
      **{name: getattr(measured, name) for name in ('edv_ml', 'esv_ml', 'ef_percent', 'ef_sd')},
      'lag': found.lag,
      'ef_method': measured.ef_method or None,
      'flags': list(measured.flags),
      'flag_details': {code: FLAGS[code] for code in measured.flags},
      'beats': [dataclasses.asdict(beat) for beat in measured.beats],
      'area_mm2': measured.area.round(2) if known else None,
      'area_px': (found.masks == LABELS['lv']).sum(axis=(1, 2)),
      'structures': {name: _structure(measured, LABELS[name]) for name in found.classes},
      'confidence': {
        'mean': found.confidence.mean(),
        'low': found.scaling.low,
        'calibrated': bool(found.scaling.facts),
        'frames': found.confidence,
      },
      'sector': {'box': list(sector.box), 'found': sector.found, 'fit': sector.fit},
      'notes': list(clip.notes),
      'model': dict(found.receipt),
      'disclaimer': DISCLAIMER,
    },
    digits=6,
  )


def _structure(measured: Measurement, label: int) -> dict:
  """Returns a class's value in the masks, and its area in every frame."""
  pixels = (measured.masks == label).sum(axis=(1, 2))
  area = float(np.prod(measured.clip.spacing_mm)) * pixels
  known = measured.spacing_known
  return {'label': label, 'area_mm2': area.round(2) if known else None, 'area_px': pixels}


def _playback(measured: Measurement) -> float:
  """Returns the clip's frame rate, or a usual one where it cannot be."""
  fps = measured.clip.fps
  return fps if 1 <= fps <= 500 else _PLAYBACK_FPS


def _tile(measured: Measurement, index: int, scale: int, prefix: str = '') -> np.ndarray:
  image = draw(measured.clip.frames[index], measured.masks[index], scale)
  # A prefix takes the room of the classes' names.
  classes = () if prefix else measured.found.classes
  return _with_footer(image, prefix + _caption(measured, index), classes)


def _caption(measured: Measurement, index: int) -> str:
  name = {measured.ed: '  ED', measured.es: '  ES'}.get(index, '')
  return f'{index + 1}/{len(measured.masks)}{name}'


def _with_footer(image: np.ndarray, text: str, classes: tuple[str, ...] = ()) -> np.ndarray:
  """Adds a caption, and where there is room the names of several classes in their colors."""
  footer = np.zeros((_FOOTER, image.shape[1], 3), np.uint8)
  font, size, notice = cv2.FONT_HERSHEY_SIMPLEX, 0.42, 'not for clinical use'
  (width, _), _ = cv2.getTextSize(notice, font, size, 1)
  right = max(100, image.shape[1] - width - 4)
  words = [(4, text, (190,) * 3), (right, notice, (190,) * 3)]
  if len(classes) > 1 and right >= 112 + 32 * len(classes):
    words += [(108 + 32 * k, name, COLORS[name]) for k, name in enumerate(classes)]
  for left, word, color in words:
    cv2.putText(footer, word, (left, 15), font, size, color, 1, cv2.LINE_AA)
  return np.concatenate([image, footer], axis=0)
