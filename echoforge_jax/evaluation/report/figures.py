"""Pictures of single clips and of the training: overlays, areas, curves."""

from collections.abc import Mapping, Sequence
import io
import json
import math

from etils import epath
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.evaluation.report import tables
from echoforge_jax.evaluation.report.charts import BLUE, GRAY, INK, ORANGE, Chart, new_figure, tidy
from echoforge_jax.evaluation.scoring import Case

# Ground truth, prediction, both: the colours of the paper's Fig. 4.
GREEN, RED, YELLOW = (0.15, 0.80, 0.25), (0.93, 0.16, 0.16), (1.0, 0.86, 0.1)
_PANELS = 12  # Training curves that are drawn.


def overlay(
  frame: np.ndarray, truth: np.ndarray, prediction: np.ndarray, alpha: float = 0.5
) -> np.ndarray:
  """Paints truth only green, prediction only red, both yellow: uint8 [H, W] -> float [H, W, 3]."""
  picture = np.repeat(frame[..., None].astype(np.float64) / 255, 3, axis=-1)
  parts = truth & ~prediction, prediction & ~truth, truth & prediction
  for where, color in zip(parts, (GREEN, RED, YELLOW)):
    picture[where] = (1 - alpha) * picture[where] + alpha * np.asarray(color)
  return picture


def outlines(labels: np.ndarray) -> np.ndarray:
  """Finds the pixels of any class, uint8 [H, W], that touch another class or the background."""
  padded = np.pad(labels, 1)
  around = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
  return (labels > 0) & np.any([labels != other for other in around], axis=0)


def pick_examples(result: Result) -> list[int]:
  """Finds up to three clips: best, median and worst Dice of the first class, among the scored."""
  scores = np.array([c.means[result.classes[0]]['dice'] for c in result.clips])
  order = [int(k) for k in np.argsort(-scores) if math.isfinite(scores[k])]
  if not order:
    return []
  return list(dict.fromkeys((order[0], order[len(order) // 2], order[-1])))


def overlay_figure(cases: Mapping[int, Case], result: Result, indices: Sequence[int]) -> Figure:
  """Draws frames and overlays at ED, midway (if any) and ES, a row per clip, best first (Fig. 4).

  One class is filled; several are outlined, since their neighbours touch. Frames have their true
  proportions, from the pixel spacing or native size. `cases` are by their index in the result.
  """
  extents = [_extent(cases[k]) for k in indices]
  ratio = np.mean([height / width for width, height in extents])
  # Clips of two frames have nothing midway.
  names = ['ED', 'midway', 'ES'] if any(len(cases[k].truth) > 2 for k in indices) else ['ED', 'ES']
  figure = new_figure(4 * len(names), 1.87 * ratio * len(indices) + 0.75)
  panels = len(indices), 2 * len(names)
  grid = figure.subplots(*panels, squeeze=False, gridspec_kw=dict(wspace=0.02, hspace=0.02))
  for row, (k, label) in enumerate(zip(indices, _labels(len(indices)))):
    case, last = cases[k], len(cases[k].truth) - 1
    for column, name in enumerate(names):
      t = {'ED': 0, 'midway': last // 2, 'ES': last}[name]
      if len(result.classes) == 1:
        painted = overlay(case.frames[t], case.truth[t] == 1, case.prediction[t] == 1)
      else:
        both = outlines(case.truth[t] * case.known[t]), outlines(case.prediction[t])
        painted = overlay(case.frames[t], *both, alpha=0.9)
      gray = np.repeat(case.frames[t][..., None], 3, axis=-1)
      left, right = grid[row, 2 * column : 2 * column + 2]
      _show(left, gray, extents[row])
      _show(right, painted, extents[row], _dice_text(result, k, t))
      if row == 0:
        left.set_title(f'{name}, frame {t + 1}', fontsize=9, color=INK)
        right.set_title('overlay', fontsize=9, color=INK)
    dice = result.clips[k].means[result.classes[0]]['dice']
    of = result.classes[0].upper() + ' ' if len(result.classes) > 1 else ''
    text = f'{label}\n{case.patient} {case.view}\n{of}Dice {100 * dice:.1f} %'
    grid[row, 0].set_ylabel(text, fontsize=9, color=INK)
  legend = {'ground truth only': GREEN, 'prediction only': RED, 'overlap': YELLOW}
  handles = [Patch(color=color, label=label) for label, color in legend.items()]
  figure.legend(handles=handles, loc='outside lower center', ncols=3, frameon=False, fontsize=9)
  return figure


def png(figure: Figure) -> bytes:
  """Returns a figure as a PNG file's content, without a date."""
  out = io.BytesIO()
  figure.savefig(out, metadata={'Software': None})
  return out.getvalue()


def area_chart(result: Result, indices: Sequence[int]) -> Chart:
  """Draws the cavity area over time, predicted and true, one panel per clip, best first."""
  figure = new_figure(max(3.6 * len(indices), 4), 3.1)
  panels = figure.subplots(1, len(indices), squeeze=False)[0]
  for axes, k, label in zip(panels, indices, _labels(len(indices))):
    clip = result.clips[k]
    scale, unit = (100, 'cm²') if clip.unit == 'mm' else (1, 'px²')
    frames = np.arange(1, len(clip.areas) + 1)
    look = dict(lw=1.6, ms=4)
    areas = clip.truth_areas / scale, clip.areas / scale
    axes.plot(frames, areas[0], 'o-', color='#1f9d3a', label='ground truth', **look)
    axes.plot(frames, areas[1], 's--', color='#d42a2a', label='prediction', **look)
    axes.set_title(f'{label}: {clip.case.patient} {clip.case.view}')
    axes.set(xlabel='frame, ED to ES', ylabel=f'cavity area ({unit})')
    axes.set_ylim(0, axes.get_ylim()[1] * 1.03)
    tidy(axes)
  panels[0].legend(frameon=False, fontsize=9, loc='lower left', labelcolor=INK)
  return Chart(figure)


def training_chart(log_path) -> Chart | None:
  """Draws the curves of a run's metrics.jsonl, one panel per quantity; None without any."""
  curves = _read_curves(epath.Path(log_path))
  if not curves:
    return None
  columns = min(len(curves), 3)
  rows = math.ceil(len(curves) / columns)
  figure = new_figure(3.6 * columns, 2.5 * rows)
  panels = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes, (name, kinds) in zip(panels, curves.items()):
    for kind, points in kinds.items():
      steps, values = np.array(points).T
      color = {'train': BLUE, 'eval': ORANGE, 'validation': ORANGE}.get(kind, GRAY)
      marker = 'o' if len(steps) < 8 else None
      axes.plot(steps, values, lw=1.4, color=color, label=kind, marker=marker, ms=3)
    axes.set(title=name.replace('_', ' '), xlabel='step')
    if len(kinds) > 1:
      axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    tidy(axes)
  for axes in panels[len(curves) :]:
    axes.set_axis_off()
  return Chart(figure)


def _labels(count: int) -> list[str]:
  names = {1: ['only'], 2: ['best', 'worst']}
  return names.get(count, ['best', 'median', 'worst'])[:count]


def _extent(case: Case) -> tuple[float, float]:
  """Returns width and height of a frame in mm or native pixels."""
  row, column = case.spacing()
  height, width = case.truth.shape[1:]
  return width * column, height * row


def _show(axes, picture, extent: tuple[float, float], text: str = '') -> None:
  width, height = extent
  axes.imshow(picture, extent=(0, width, height, 0), aspect='equal', interpolation='bilinear')
  axes.set(xticks=[], yticks=[])
  axes.spines[:].set_visible(False)
  # The Dice of one class, or of several.
  look = dict(ha='right', va='bottom', fontsize=9 if len(text) < 10 else 7, color='white')
  axes.text(0.97, 0.03, text, transform=axes.transAxes, **look)


def _dice_text(result: Result, index: int, frame: int) -> str:
  rows = {r['class']: r['dice'] for r in result.clips[index].frames if r['frame'] == frame}
  return tables.dice_of_classes(result, rows.get, 1) if rows else 'no label'


def _read_curves(path: epath.Path) -> dict[str, dict[str, list]]:
  """Returns name -> kind -> [(step, value)], torn or foreign lines left out."""
  curves: dict[str, dict[str, list]] = {}
  for line in path.read_text().splitlines() if path.is_file() else ():
    try:
      record = json.loads(line)
      step, kind = record.pop('step'), record.pop('kind', 'train')
    except (ValueError, KeyError, AttributeError):
      continue
    for name, value in record.items():
      if isinstance(value, (int, float)) and math.isfinite(value):
        curves.setdefault(name, {}).setdefault(kind, []).append((step, value))
  order = sorted(curves, key=_panel_rank)
  return {name: curves[name] for name in order[:_PANELS]}


def _panel_rank(name: str) -> int:
  """Ranks losses first, then scores, then the rest, in the log's order."""
  if name == 'loss':
    return 0
  return 1 if name.startswith('loss') else 2 if name.startswith('dice') else 3
