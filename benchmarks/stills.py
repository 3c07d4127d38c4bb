"""A model on labeled stills: Dice, area and confidence by view and phase, as a table.

python benchmarks/stills.py --data_dir=DATA [--checkpoint=default] [--dataset=camus]
    [--split=validation] [--out=benchmarks/results/default_camus.md] [--sheet=FILE]

DATA is what `prepare` wrote, at the model's image size. Each frame is segmented alone; means are of
patients, with 95 % bootstrap intervals over patients. A frame is missed if its Dice is below .6 and
its confidence is not below the model's threshold; a false alarm is a frame of .6 or more that is
below it. --sheet draws the worst frames (truth green, prediction red); pictures of patients do not
belong into the repository.
"""

import argparse
import collections
import pathlib

import cv2
import numpy as np

from echoforge_jax import inference
from echoforge_jax.clip import LABELS
from echoforge_jax.data import prepared
from echoforge_jax.formats.sector import whole_image
from echoforge_jax.inference.confidence import USELESS
from echoforge_jax.metrics import calibration, statistics

_WORST = 24


def score(segmenter, source) -> list[dict]:
  """Returns one row a labeled frame."""
  rows = []
  for number in range(len(source)):
    clip = source[number]
    frames = clip['frames'][..., 0] if clip['frames'].ndim == 4 else clip['frames']
    masks = clip['masks'].reshape(frames.shape)
    whole = whole_image(frames.shape[1:])
    for phase in ('ed', 'es'):
      k = int(clip[phase])
      found = segmenter.segment_clip(frames[k : k + 1], sector=whole)
      both = masks[k], found.masks[0]
      row = {'patient': clip['patient'], 'view': clip['view'], 'phase': phase.upper()}
      row |= {'frame': frames[k], 'truth': masks[k], 'mask': found.masks[0]}
      row['confidence'] = found.confidence[0]
      for name in segmenter.classes:
        a, b = (m == LABELS[name] for m in both)
        row[name] = 2 * (a & b).sum() / max((a.sum() + b.sum()), 1) if a.any() else np.nan
      a, b = ((m == LABELS['lv']).sum() for m in both)
      row['area'] = b / a - 1
      rows.append(row)
  return rows


def _cell(rows, name) -> str:
  """Returns the mean over patients in percent, with its interval."""
  values = collections.defaultdict(list)
  for row in rows:
    values[row['patient']].append(row[name])
  found = statistics.estimate([np.nanmean(v) for v in values.values()])
  low, high = found.ci95
  return f'{100 * found.mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]'


def _shares(rows) -> list[str]:
  dice = np.array([row['lv'] for row in rows])
  return [str(int((dice < limit).sum())) for limit in (0.8, USELESS, 0.5)] + [f'{dice.min():.2f}']


def table(segmenter, rows) -> str:
  """Returns Markdown tables of Dice and area by view and phase, and of the confidence."""
  names = segmenter.classes
  head = ['frames', 'n', *(f'{name.upper()} Dice (%)' for name in names), 'LV area bias (%)']
  head += ['LV below .8', 'below .6', 'below .5', 'lowest']
  lines = [head, ['---', *['---:'] * (len(head) - 1)]]
  groups = [('all', rows)]
  for view in sorted({row['view'] for row in rows}):
    for phase in ('ED', 'ES'):
      chosen = [row for row in rows if (row['view'], row['phase']) == (view, phase)]
      groups.append((f'{view} {phase}', chosen))
  for name, chosen in groups:
    cells = [_cell(chosen, key) for key in (*names, 'area')]
    lines.append([name, str(len(chosen)), *cells, *_shares(chosen)])
  text = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  return f'{text}\n\n{_confidence(segmenter, rows)}'


def _confidence(segmenter, rows) -> str:
  sure, dice = (np.array([row[key] for row in rows]) for key in ('confidence', 'lv'))
  low, poor = segmenter.scaling.low, dice < USELESS
  flagged = sure < low
  lines = ['| expected Dice | frames | mean expected | mean Dice |', '|---|---:|---:|---:|']
  edges = [0, 0.8, 0.85, 0.9, 0.95, 1.0001]
  for a, b in zip(edges[:-1], edges[1:]):
    there = (sure >= a) & (sure < b)
    if there.any():
      means = f'{sure[there].mean():.3f} | {dice[there].mean():.3f}'
      lines.append(f'| {a:g} to {min(b, 1):g} | {there.sum()} | {means} |')
  found = calibration.risk_coverage(sure, 1 - dice)
  lines += [
    '',
    f'Confidence: mean expected Dice {sure.mean():.3f}, mean Dice {dice.mean():.3f}, correlation '
    f'{np.corrcoef(sure, dice)[0, 1]:.2f}. Threshold {low:.3f}: {flagged.sum()} of {len(rows)} '
    f'frames flagged, their mean Dice {_mean(dice[flagged])}, that of the others '
    f'{_mean(dice[~flagged])}. Below {USELESS:g}: {poor.sum()} frames, '
    f'{(poor & ~flagged).sum()} of them missed; false alarms '
    f'{100 * flagged[~poor].mean():.1f} %. Mean error over all shares kept '
    f'{100 * found["aurc"]:.1f} %, at random {100 * found["aurc_random"]:.1f} %, at best '
    f'{100 * found["aurc_oracle"]:.1f} %.',
  ]
  return '\n'.join(lines)


def _mean(values) -> str:
  return f'{values.mean():.3f}' if len(values) else 'none'


def sheet(path, rows) -> None:
  """Draws the frames of lowest Dice."""
  tiles = []
  for row in sorted(rows, key=lambda row: row['lv'])[:_WORST]:
    size = (256, 256)
    image = cv2.cvtColor(cv2.resize(row['frame'], size), cv2.COLOR_GRAY2BGR)
    plain = image.copy()
    for mask, color in ((row['truth'], (0, 200, 0)), (row['mask'], (0, 0, 255))):
      area = cv2.resize((mask == LABELS['lv']).astype(np.uint8) * 255, size) > 127
      outlines, _ = cv2.findContours(area.astype(np.uint8), cv2.RETR_EXTERNAL, 2)
      cv2.drawContours(image, outlines, -1, color, 1)
    text = f'{row["patient"]} {row["view"]} {row["phase"]} {row["lv"]:.2f} {row["confidence"]:.2f}'
    cv2.putText(image, text, (2, 252), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255,) * 3, 1, cv2.LINE_AA)
    tiles.append(np.hstack([plain, image]))
  tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 3)
  cv2.imwrite(str(path), np.vstack([np.hstack(tiles[k : k + 3]) for k in range(0, len(tiles), 3)]))


def main() -> None:
  """Scores, prints and writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--checkpoint', default='default')
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--dataset', default='camus')
  parser.add_argument('--split', default='validation')
  parser.add_argument('--out', type=pathlib.Path)
  parser.add_argument('--sheet', type=pathlib.Path)
  args = parser.parse_args()
  segmenter = inference.load(args.checkpoint)
  where = args.data_dir, args.dataset, args.split, segmenter.image_size
  rows = score(segmenter, prepared.load_split(*where))
  patients = len({row['patient'] for row in rows})
  head = f'{args.dataset}, {args.split}: {patients} patients, {len(rows)} frames. Model: step '
  head += f'{segmenter.receipt["step"]}, sha256 {segmenter.receipt["sha256"][:12]}.'
  text = f'{head}\n\n{table(segmenter, rows)}\n'
  print(text)
  if args.out:
    args.out.write_text(text)
  if args.sheet:
    sheet(args.sheet, rows)


if __name__ == '__main__':
  main()
