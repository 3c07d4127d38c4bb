"""Pictures of docs/default_model.md and docs/dicom_to_ef.md.

python benchmarks/default_model_pictures.py [--out=docs/images]

default_real_clip.png    pydicom's real clip, every tenth frame (EF and roughness are printed)
default_area_curve.png   its area curve, as `segment` draws it
default_confidence.png   risk against coverage on the clips it was calibrated with
default_phantoms.png     what it was trained on: streamed clips, ED and ES
"""

import argparse
import pathlib
import tempfile

import cv2
import jax
from matplotlib.figure import Figure
import numpy as np
from pydicom.data import get_testdata_file

from echoforge_jax import inference
from echoforge_jax.clip import LABELS
from echoforge_jax.formats import readers
from echoforge_jax.inference import batch, outputs
from echoforge_jax.metrics import temporal
from echoforge_jax.models import network_file
from echoforge_jax.phantom import stream
from echoforge_jax.phantom.config import PhantomConfig

REAL = 'color3d_jpeg_baseline.dcm'


def real_clip(segmenter, out: pathlib.Path) -> None:
  """Segments the clip, keeps its curve, draws every tenth frame."""
  path = get_testdata_file(REAL)
  clip = readers.read_any(path)
  with tempfile.TemporaryDirectory() as folder:
    for lag in (0, 1):
      found = batch.segment_file(path, segmenter, lag=lag, out_dir=folder)
      rough = temporal.roughness((found.masks == LABELS['lv']).sum((1, 2)).astype(float))
      print(
        f'lag {lag}: EF {found.content["ef_percent"]:.1f} %, area roughness {100 * rough:.1f} %'
      )
    curve = pathlib.Path(folder) / 'area_curve.png'
    (out / 'default_area_curve.png').write_bytes(curve.read_bytes())
  sector = segmenter.locate(clip.frames, clip.spacing_mm, clip.region)
  masks = segmenter.segment(clip.frames, clip.spacing_mm, fps=clip.fps, sector=sector, lag=1)
  top, left, bottom, right = sector.box
  tiles = []
  for index in range(0, len(masks), 10):
    image = outputs.draw(clip.frames[index], masks[index])
    image = image[top:bottom, left:right]
    cv2.putText(
      image, str(index), (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (220, 220, 220), 1, cv2.LINE_AA
    )
    tiles.append(cv2.resize(image, (330, 236), interpolation=cv2.INTER_AREA))
  rows = [np.hstack(tiles[i : i + 4]) for i in range(0, len(tiles), 4)]
  cv2.imwrite(str(out / 'default_real_clip.png'), np.vstack(rows)[..., ::-1])


def confidence(out: pathlib.Path) -> None:
  """Risk (1 - Dice) of the most confident share of the clips of `export --calibrate`."""
  facts = network_file.read('default')[1]['confidence']
  found = facts['risk_coverage']
  figure = Figure(figsize=(5, 3.4), dpi=120, layout='constrained')
  axes = figure.subplots()
  axes.plot(
    [100 * point['coverage'] for point in found['curve']],
    [100 * point['risk'] for point in found['curve']],
    color='#c0392b',
    lw=2,
    label='by expected Dice',
  )
  axes.axhline(100 * found['aurc_random'], color='0.5', lw=1, ls='--', label='without a choice')
  axes.set_xlabel('most confident clips kept (%)')
  axes.set_ylabel('their mean error, 1 - Dice (%)')
  axes.set_xlim(5, 100)
  axes.set_ylim(bottom=0)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
  figure.savefig(out / 'default_confidence.png')


def _coarse(frame) -> np.ndarray:
  """Gray levels in steps of 10: a file a third as large."""
  return np.minimum(np.rint(25.5 * frame[..., 0]), 25).astype(np.uint8) * 10


def phantoms(out: pathlib.Path) -> None:
  """Two dozen streamed clips: first frame; last frame with the outline."""
  rows = []
  for seed, preset in enumerate(('camus', 'transfer', 'transfer')):
    draw = stream.jitted(8, 4, 128, PhantomConfig.named(preset))
    clips = jax.device_get(draw(jax.random.key(700 + seed)))
    for index in (0, -1):
      rows.append(
        np.hstack(
          [
            outputs.draw(_coarse(video[index]), (mask[index] == 1) * np.uint8(index != 0))
            for video, mask in zip(clips['video'], clips['masks'])
          ]
        )
      )
  cv2.imwrite(str(out / 'default_phantoms.png'), np.vstack(rows)[..., ::-1])


def main() -> None:
  """Draws all of them."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=pathlib.Path, default='docs/images')
  args = parser.parse_args()
  phantoms(args.out)
  confidence(args.out)
  real_clip(inference.load('default'), args.out)


if __name__ == '__main__':
  main()
