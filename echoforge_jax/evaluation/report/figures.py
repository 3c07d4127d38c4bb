"""The paper's figures from a result: overlays, EF agreement, areas, training.

Matplotlib's object-oriented interface on the Agg canvas; no global state.
"""

from collections.abc import Sequence
import json
import math
import pathlib

from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.evaluation.scoring import Case

# Ground truth, prediction, both: the colours of the paper's Fig. 4.
GREEN, RED, YELLOW = (0.15, 0.80, 0.25), (0.93, 0.16, 0.16), (1.0, 0.86, 0.1)
_INK, _BLUE, _GRAY = '#1c2530', '#1f5fa8', '#8a94a0'
_DPI = 150


def new_figure(width: float, height: float) -> Figure:
  """An empty figure on the Agg canvas.

  Args:
    width: inches.
    height: inches.

  Returns:
    The figure, laid out by constraints.
  """
  figure = Figure(figsize=(width, height), layout='constrained', dpi=_DPI)
  FigureCanvasAgg(figure)
  return figure


def save(figure: Figure, path) -> pathlib.Path:
  """Writes a figure as PNG, without a date in it.

  Args:
    figure: what to write.
    path: file to write; its folder is made.

  Returns:
    The path.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=_DPI, metadata={'Software': None})
  return path


def overlay(
  frame: np.ndarray,
  truth: np.ndarray,
  prediction: np.ndarray,
  alpha: float = 0.5,
) -> np.ndarray:
  """Green truth only, red prediction only, yellow both, over the frame.

  Args:
    frame: uint8 [H, W].
    truth: bool [H, W].
    prediction: bool [H, W].
    alpha: opacity of the colours.

  Returns:
    float [H, W, 3] in [0, 1].
  """
  picture = np.repeat(frame[..., None].astype(np.float64) / 255, 3, axis=-1)
  for where, color in (
    (truth & ~prediction, GREEN),
    (prediction & ~truth, RED),
    (truth & prediction, YELLOW),
  ):
    picture[where] = (1 - alpha) * picture[where] + alpha * np.asarray(color)
  return picture


def pick_examples(result: Result, metric: str = 'dice') -> list[int]:
  """Clips of best, median and worst score of the first class.

  Args:
    result: the evaluation.
    metric: higher is better.

  Returns:
    Up to three distinct clip indices, best first; clips without a score are
    left out.
  """
  scores = np.array([c.means[result.classes[0]][metric] for c in result.clips])
  order = [int(k) for k in np.argsort(-scores) if math.isfinite(scores[k])]
  if not order:
    return []
  return list(dict.fromkeys((order[0], order[len(order) // 2], order[-1])))


def overlay_figure(
  cases: Sequence[Case], result: Result, indices: Sequence[int]
) -> Figure:
  """Frames and overlays at ED, midway and ES of a few clips (Fig. 4).

  Frames are drawn in their true proportions, from the pixel spacing or the
  native size.

  Args:
    cases: the evaluated clips, with frames, in the result's order.
    result: their evaluation.
    indices: the clips to draw, best first.

  Returns:
    A figure with one row a clip.
  """
  labels = _example_labels(len(indices))
  heights = [_extent(cases[k]) for k in indices]
  ratio = np.mean([h / w for w, h in heights]) if heights else 1.0
  figure = new_figure(12, 1.87 * ratio * max(len(indices), 1) + 0.75)
  grid = figure.subplots(
    max(len(indices), 1),
    6,
    squeeze=False,
    gridspec_kw={'wspace': 0.02, 'hspace': 0.02},
  )
  for row, (k, label) in enumerate(zip(indices, labels)):
    case, last = cases[k], len(cases[k].truth) - 1
    width, height = _extent(case)
    for column, (t, name) in enumerate(
      ((0, 'ED'), (last // 2, 'midway'), (last, 'ES'))
    ):
      pair = (
        np.repeat(case.frames[t][..., None], 3, axis=-1),
        overlay(case.frames[t], case.truth[t] == 1, case.prediction[t] == 1),
      )
      for side, picture in enumerate(pair):
        axes = grid[row, 2 * column + side]
        axes.imshow(
          picture,
          extent=(0, width, height, 0),
          aspect='equal',
          interpolation='bilinear',
        )
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
          spine.set_visible(False)
        if row == 0:
          axes.set_title(
            f'{name}, frame {t + 1}' if side == 0 else 'overlay',
            fontsize=9,
            color=_INK,
          )
        if side:
          _annotate_dice(axes, result, k, t)
    grid[row, 0].set_ylabel(
      f'{label}\n{case.patient} {case.view}\nDice '
      f'{100 * result.clips[k].means[result.classes[0]]["dice"]:.1f} %',
      fontsize=9,
      color=_INK,
    )
  figure.legend(
    handles=[
      Patch(color=GREEN, label='ground truth only'),
      Patch(color=RED, label='prediction only'),
      Patch(color=YELLOW, label='overlap'),
    ],
    loc='outside lower center',
    ncols=3,
    frameon=False,
    fontsize=9,
  )
  return figure


def ef_figure(result: Result) -> Figure:
  """EF by linear regression and Bland-Altman (the paper's Fig. 3).

  Args:
    result: the evaluation.

  Returns:
    The figure; it says so where no patient can be compared.
  """
  figure = new_figure(10.4, 4.7)
  left, right = figure.subplots(1, 2)
  pairs = {
    r['patient']: (r['ef_reference'], r['ef_predicted'])
    for r in result.per_case
  }
  points = np.array([p for p in pairs.values() if np.isfinite(p).all()])
  if not len(points):
    for axes in (left, right):
      axes.text(0.5, 0.5, 'no measurable EF', ha='center', va='center')
      axes.set_axis_off()
    return figure
  _regression(left, points, result.metrics['ef'])
  _bland_altman(right, points, result.metrics['ef'])
  return figure


def area_figure(result: Result, indices: Sequence[int]) -> Figure:
  """Cavity area over time, predicted and true, of a few clips.

  Args:
    result: the evaluation.
    indices: the clips to draw, best first.

  Returns:
    A figure with one panel a clip.
  """
  count = max(len(indices), 1)
  figure = new_figure(max(3.5 * count, 4), 3.1)
  panels = figure.subplots(1, count, squeeze=False)[0]
  labels = _example_labels(len(indices))
  for axes, k, label in zip(panels, indices, labels):
    clip = result.clips[k]
    scale, unit = (100, 'cm²') if clip.unit == 'mm' else (1, 'px²')
    frames = np.arange(1, len(clip.areas) + 1)
    axes.plot(
      frames,
      clip.truth_areas / scale,
      'o-',
      color='#1f9d3a',
      lw=1.6,
      ms=4,
      label='ground truth',
    )
    axes.plot(
      frames,
      clip.areas / scale,
      's--',
      color='#d42a2a',
      lw=1.6,
      ms=4,
      label='prediction',
    )
    axes.set_title(
      f'{label}: {clip.case.patient} {clip.case.view}', fontsize=10, color=_INK
    )
    axes.set_xlabel('frame, ED to ES')
    axes.set_ylabel(f'cavity area ({unit})')
    axes.set_ylim(0, axes.get_ylim()[1] * 1.03)
    _tidy(axes)
  if len(indices):
    panels[0].legend(frameon=False, fontsize=9, loc='lower left')
  return figure


def training_figure(log_path) -> Figure | None:
  """Curves of a run's metrics.jsonl, one panel a quantity.

  Args:
    log_path: file of JSON objects with 'step', 'kind' and numbers.

  Returns:
    The figure, or None where there is nothing to draw.
  """
  curves = _read_curves(epath.Path(log_path))
  if not curves:
    return None
  columns = min(len(curves), 3)
  rows = math.ceil(len(curves) / columns)
  figure = new_figure(3.5 * columns, 2.5 * rows)
  panels = figure.subplots(rows, columns, squeeze=False).ravel()
  colors = {'train': _BLUE, 'eval': '#c46a00', 'validation': '#c46a00'}
  for axes, (name, kinds) in zip(panels, curves.items()):
    for kind, points in kinds.items():
      steps, values = np.array(points).T
      axes.plot(
        steps,
        values,
        lw=1.4,
        color=colors.get(kind, _GRAY),
        label=kind,
        marker='o' if len(steps) < 8 else None,
        ms=3,
      )
    axes.set_title(name.replace('_', ' '), fontsize=10, color=_INK)
    axes.set_xlabel('step', fontsize=9)
    if len(kinds) > 1:
      axes.legend(frameon=False, fontsize=8)
    _tidy(axes)
  for axes in panels[len(curves) :]:
    axes.set_axis_off()
  return figure


def _regression(axes, points: np.ndarray, ef: dict) -> None:
  low, high = _limits(points)
  line = np.array([low, high])
  axes.plot(line, line, '--', color=_GRAY, lw=1.2, label='identity')
  axes.scatter(
    *points.T,
    s=22,
    color=_BLUE,
    alpha=0.75,
    edgecolors='white',
    linewidths=0.5,
    zorder=3,
  )
  text = [f'n = {ef["n"]}']
  if math.isfinite(ef['pearson_r']):
    axes.plot(
      line,
      ef['slope'] * line + ef['intercept'],
      color=RED,
      lw=1.6,
      label='least squares',
    )
    sign = '+' if ef['intercept'] >= 0 else '−'
    text = [
      f'y = {ef["slope"]:.2f} x {sign} {abs(ef["intercept"]):.1f}',
      f'r = {ef["pearson_r"]:.3f}' + _within(ef['ci95']['pearson_r'], 3),
      *text,
    ]
  axes.text(
    0.04,
    0.96,
    '\n'.join(text),
    transform=axes.transAxes,
    va='top',
    fontsize=9,
    color=_INK,
  )
  axes.set_xlim(low, high)
  axes.set_ylim(low, high)
  axes.set_aspect('equal')
  axes.set_xlabel('reference EF (%)')
  axes.set_ylabel('predicted EF (%)')
  axes.set_title('Linear regression', fontsize=11, color=_INK)
  axes.legend(frameon=False, fontsize=9, loc='lower right')
  _tidy(axes)


def _bland_altman(axes, points: np.ndarray, ef: dict) -> None:
  mean, difference = points.mean(axis=1), points[:, 1] - points[:, 0]
  axes.scatter(
    mean,
    difference,
    s=22,
    color=_BLUE,
    alpha=0.75,
    edgecolors='white',
    linewidths=0.5,
    zorder=3,
  )
  axes.axhline(0, color=_GRAY, lw=0.8)
  lines = [(ef['bias'], 'bias', '-', _INK)]
  if math.isfinite(ef['sd']):
    lines += [
      (ef['loa'][0], '−1.96 SD', '--', RED),
      (ef['loa'][1], '+1.96 SD', '--', RED),
    ]
  for y, name, style, color in lines:
    axes.axhline(y, color=color, lw=1.4, ls=style)
    axes.annotate(
      f'{name}\n{_signed(y)}',
      (1.01, y),
      va='center',
      fontsize=9,
      xycoords=('axes fraction', 'data'),
      color=color,
    )
  spread = 1.25 * max(
    np.abs(difference).max(), *(abs(line[0]) for line in lines), 1.0
  )
  axes.set_ylim(-spread, spread)
  axes.text(
    0.04,
    0.96,
    f'bias {_signed(ef["bias"])}'
    + _within(ef['ci95']['bias'], 2)
    + f'\nMAE {ef["mae"]:.2f}',
    transform=axes.transAxes,
    va='top',
    fontsize=9,
    color=_INK,
  )
  axes.set_xlabel('mean of reference and prediction (%)')
  axes.set_ylabel('prediction − reference (points)')
  axes.set_title('Bland-Altman', fontsize=11, color=_INK)
  _tidy(axes)


def _limits(points: np.ndarray) -> tuple[float, float]:
  margin = max(0.08 * np.ptp(points), 2.0)
  return float(points.min() - margin), float(points.max() + margin)


def _within(pair, digits: int) -> str:
  if not all(math.isfinite(v) for v in pair):
    return ''
  text = f'  [{pair[0]:.{digits}f}, {pair[1]:.{digits}f}]'
  return text.replace('-', '−')


def _signed(value: float) -> str:
  return f'{value:+.2f}'.replace('-', '−')


def _example_labels(count: int) -> list[str]:
  return {0: [], 1: ['only'], 2: ['best', 'worst']}.get(
    count, ['best', 'median', 'worst']
  )[:count]


def _extent(case: Case) -> tuple[float, float]:
  """Width and height of a frame in mm or native pixels."""
  row, column = case.spacing()
  height, width = case.truth.shape[1:]
  return width * column, height * row


def _annotate_dice(axes, result: Result, index: int, frame: int) -> None:
  text = 'no label'
  for row in result.clips[index].frames:
    if row['frame'] == frame and row['class'] == result.classes[0]:
      text = f'{100 * row["dice"]:.1f}'
  axes.text(
    0.97,
    0.03,
    text,
    ha='right',
    va='bottom',
    transform=axes.transAxes,
    fontsize=9,
    color='white',
  )


def _read_curves(path: epath.Path) -> dict[str, dict[str, list]]:
  """name -> kind -> [(step, value)], torn or foreign lines left out."""
  curves: dict[str, dict[str, list]] = {}
  if not path.is_file():
    return curves
  for line in path.read_text().splitlines():
    try:
      record = json.loads(line)
      step, kind = record.pop('step'), record.pop('kind', 'train')
    except (ValueError, KeyError, AttributeError):
      continue
    for name, value in record.items():
      if isinstance(value, (int, float)) and math.isfinite(value):
        curves.setdefault(name, {}).setdefault(kind, []).append((step, value))
  order = sorted(curves, key=_panel_rank)
  return {name: curves[name] for name in order[:12]}


def _panel_rank(name: str) -> int:
  """Losses first, then scores, then the rest, in the log's order."""
  if name == 'loss':
    return 0
  return next(
    (
      k
      for k, start in enumerate(('loss', 'dice'), start=1)
      if name.startswith(start)
    ),
    3,
  )


def _tidy(axes) -> None:
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)
  axes.grid(color='#e6e9ed', lw=0.6)
  axes.set_axisbelow(True)
  axes.tick_params(labelsize=9, colors=_INK)
