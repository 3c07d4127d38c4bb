"""The charts of the report page, as vector graphics; a point links to its clip.

Regression and Bland-Altman follow the paper's Fig. 3. Matplotlib's object-oriented interface is
used, without global state.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import html
import io
import math
import re

import matplotlib
from matplotlib.figure import Figure
import numpy as np

from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.evaluation.report.case_files import case_id
from echoforge_jax.formats.camus_view import QUALITIES, VIEWS

INK, BLUE, ORANGE, GRAY = '#1c2530', '#2f6db3', '#c8641e', '#8a94a0'
_SIZE = (5.4, 3.6)  # Inches: half of the page's width at 9-point text.
_MANY = 100  # More points than this are drawn smaller and fainter.
_SUREST = 0.05  # The risk of fewer patients says nothing.


@dataclasses.dataclass
class Chart:
  """A figure; `titles` has the text that hovering over the point of a case id shows."""

  figure: Figure
  titles: dict[str, str] = dataclasses.field(default_factory=dict)

  def points(self, axes, x, y, titles: Iterable[tuple[str, str]]) -> None:
    """Draws points; `titles` has a case id and a text for each."""
    titles = list(titles)
    size = dict(s=9, alpha=0.5) if len(titles) > _MANY else dict(s=24, alpha=0.75)
    look = dict(color=BLUE, edgecolors='white', linewidths=0.4, zorder=3, clip_on=False)
    axes.scatter(x, y, urls=[f'#{name}' for name, _ in titles], **size, **look)
    self.titles.update(titles)

  def svg(self, name: str) -> str:
    """Returns the drawing as a file's text: vectors, text as text, no date.

    Its ids begin with `name`: they differ between charts, not between calls.
    """
    out = io.StringIO()
    # Only this setting asks for text as text.
    with matplotlib.rc_context({'svg.fonttype': 'none'}):
      keys = ('Creator', 'Date', 'Format', 'Type')
      self.figure.savefig(out, format='svg', metadata=dict.fromkeys(keys))
    text = out.getvalue()
    ids = dict.fromkeys(re.findall(r'\bid="([^"]+)"', text))
    names = {old: f'{name}-{k}' for k, old in enumerate(ids)}
    used = r'(\bid="|href="#|url\(#)([\w.]+)'
    return re.sub(used, lambda found: found[1] + names.get(found[2], found[2]), text)

  def element(self, name: str) -> str:
    """Returns an <svg> element for a page with other charts on it.

    It takes the page's width and text colour; a point is a link to '#case id'.
    """
    text = self.svg(name)
    text = text[text.index('<svg') :].replace('xlink:href', 'href')
    head, _, body = text.partition('>')
    box = re.search(r'viewBox="[^"]+"', head)[0]
    # The file's style sheet would hold for the whole page.
    body = re.sub(r'<style.*?</style>', '', body).replace(INK, 'currentColor')

    def link(found):
      title = html.escape(self.titles[found[1]])
      return f'<a href="#{found[1]}"><title>{title}</title>'

    body = re.sub(r'<a href="#([\w-]+)"[^>]*>', link, body)
    return f'<svg {box} role="img">{body}'


def new_figure(width: float, height: float) -> Figure:
  """Returns an empty figure of this size in inches."""
  return Figure(figsize=(width, height), layout='constrained', dpi=150)


def tidy(axes) -> None:
  """Gives axes the look of all charts."""
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(GRAY)
  axes.grid(color=GRAY, alpha=0.25, lw=0.6)
  axes.set_axisbelow(True)
  axes.patch.set_visible(False)
  axes.figure.patch.set_visible(False)
  axes.tick_params(labelsize=9, color=GRAY, labelcolor=INK)
  axes.xaxis.label.set(size=9.5, color=INK)
  axes.yaxis.label.set(size=9.5, color=INK)
  axes.title.set(size=10, color=INK)


def page_charts(result: Result) -> dict[str, Chart]:
  """Draws every chart that the result has numbers for, by the names of the template."""
  m = result.metrics
  pairs = _pairs(result, 'ef_predicted')
  found = {
    'regression': _regression(pairs, m['ef']),
    'bland_altman': _bland_altman(pairs, m['ef']),
    'positions': _positions(m['positions'].get(result.classes[0], [])),
    'quality': _groups(result, 'quality', QUALITIES),
    'view': _groups(result, 'view', VIEWS),
  }
  if m['whole_clip']:
    found['whole_clip'] = _regression(_pairs(result, 'ef_whole_clip'), m['whole_clip']['ef'])
  if m['calibration']:
    found['reliability'] = _reliability(m['calibration']['bins'])
  if m['risk_coverage']:
    found['risk'] = _risk(m['risk_coverage'])
  return {name: chart for name, chart in found.items() if chart}


def _chart(x_label: str, y_label: str) -> tuple[Chart, matplotlib.axes.Axes]:
  chart = Chart(new_figure(*_SIZE))
  axes = chart.figure.subplots()
  axes.set(xlabel=x_label, ylabel=y_label)
  tidy(axes)
  return chart, axes


def _pairs(result: Result, column: str) -> list[tuple]:
  """Returns (reference, predicted, (case id, text)) of each patient with both."""
  found = {}
  for row in result.per_case:
    known, predicted = row['ef_reference'], row[column]
    if row['patient'] not in found and math.isfinite(known + predicted):
      text = f'reference {known:.1f} %, predicted {predicted:.1f} %'
      title = case_id(row['patient'], row['view']), f'{row["patient"]}: {text}'
      found[row['patient']] = known, predicted, title
  return list(found.values())


def _regression(pairs: Sequence[tuple], ef: dict) -> Chart | None:
  """Draws predicted against reference EF, identity and least-squares line."""
  if len(pairs) < 2:
    return None
  x, y, titles = zip(*pairs)
  low, high = min(*x, *y, 10.0) - 3, max(*x, *y, 75.0) + 3
  chart, axes = _chart('reference EF (%)', 'predicted EF (%)')
  axes.plot([low, high], [low, high], ':', color=GRAY, lw=1.4)
  text = [f'n = {ef["n"]}']
  if math.isfinite(ef['pearson_r']):
    ends = np.array([min(x), max(x)])
    axes.plot(ends, ef['slope'] * ends + ef['intercept'], color=ORANGE, lw=1.8)
    ci = ef['ci95']['pearson_r']
    known = all(map(math.isfinite, ci))
    r = f'r = {ef["pearson_r"]:.3f}' + (f' [{ci[0]:.3f}, {ci[1]:.3f}]' if known else '')
    text = [r, f'y = {ef["slope"]:.2f} x {ef["intercept"]:+.1f}', *text]
  chart.points(axes, x, y, titles)
  # The axes are square, which leaves room beside them.
  text, look = '\n'.join(text).replace('-', '−'), dict(va='top', fontsize=9, color=INK)
  axes.annotate(text, (1.04, 0.98), xycoords='axes fraction', **look)
  axes.set(xlim=(low, high), ylim=(low, high), aspect='equal')
  return chart


def _bland_altman(pairs: Sequence[tuple], ef: dict) -> Chart | None:
  """Draws difference against mean, with bias and labelled limits of agreement."""
  if len(pairs) < 2:
    return None
  x, y, titles = zip(*pairs)
  mean, difference = np.add(x, y) / 2, np.subtract(y, x)
  chart, axes = _chart('mean of reference and predicted EF (%)', 'predicted − reference (points)')
  lines = [(ef['bias'], 'bias', '-')]
  if math.isfinite(ef['sd']):
    lines += [(ef['loa'][0], '−1.96 SD', '--'), (ef['loa'][1], '+1.96 SD', '--')]
  spread = 1.15 * max(np.abs([*difference, *(line[0] for line in lines)]).max(), 1)
  axes.set_ylim(-spread, spread)
  axes.axhline(0, color=GRAY, lw=1, ls=':')
  low, high = ef['ci95']['bias']
  if math.isfinite(low):
    axes.axhspan(low, high, color=BLUE, alpha=0.13, lw=0)
  for k, (value, name, style) in enumerate(lines):
    axes.axhline(value, color=ORANGE, lw=1.4, ls=style)
    # Beside the axes, where no point lies; labels keep clear of the bias's.
    apart = (0, -1, 1)[k] * max(abs(value - ef['bias']), 0.24 * spread)
    text, where = f'{name}\n{value:+.2f}'.replace('-', '−'), (1.015, ef['bias'] + apart)
    look = dict(va='center', fontsize=9, color=INK, annotation_clip=False)
    axes.annotate(text, where, xycoords=('axes fraction', 'data'), **look)
  chart.points(axes, mean, difference, titles)
  return chart


def _positions(entries: Sequence[dict]) -> Chart | None:
  """Draws mean Dice with its interval by position from ED to ES."""
  entries = [e for e in entries if math.isfinite(e['dice']['mean'])]
  if not entries:
    return None
  x = [e['position'] for e in entries]
  mean = 100 * np.array([e['dice']['mean'] for e in entries])
  low, high = 100 * np.array([e['dice']['ci95'] for e in entries]).T
  chart, axes = _chart('position in the clip', 'Dice (%)')
  # A line between ED and ES alone would claim what nobody labeled.
  look = dict(fmt='o-' if len(x) > 2 else 'o', color=BLUE, ms=5, lw=1.6, elinewidth=1.1, capsize=3)
  axes.errorbar(x, mean, yerr=np.nan_to_num([mean - low, high - mean]).clip(0), **look)
  axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ['ED', '25 %', '50 %', '75 %', 'ES'])
  axes.set_xlim(-0.06, 1.06)
  return chart


def _groups(result: Result, kind: str, order: Sequence[str]) -> Chart | None:
  """Draws every clip's Dice by group, over the group's quartiles."""
  name = f'{result.classes[0]}_dice'
  rows = [r for r in result.per_case if r[kind] and math.isfinite(r[name])]
  known = {key: k for k, key in enumerate(order)}
  keys = sorted({r[kind] for r in rows}, key=lambda k: (known.get(k, len(order)), k))
  if not keys:
    return None
  chart, axes = _chart('', 'Dice of a clip (%)')
  groups = [[r for r in rows if r[kind] == key] for key in keys]
  scores = [[100 * r[name] for r in group] for group in groups]
  look = {f'{part}props': dict(color=GRAY) for part in ('whisker', 'cap')}
  look['boxprops'] = dict(facecolor='#2f6db320', edgecolor=GRAY)
  look |= dict(medianprops=dict(color=ORANGE, lw=1.6), patch_artist=True, showfliers=False)
  axes.boxplot(scores, positions=range(len(keys)), widths=0.5, **look)
  jitter = np.random.default_rng(0)
  for k, group in enumerate(groups):
    clips = [(r['patient'], r['view'], 100 * r[name]) for r in group]
    titles = [(case_id(p, view), f'{p} {view}: Dice {dice:.2f} %') for p, view, dice in clips]
    chart.points(axes, k + jitter.uniform(-0.17, 0.17, len(group)), scores[k], titles)
  axes.set_xticks(range(len(keys)), [f'{k}\nn = {len(g)}' for k, g in zip(keys, groups)])
  axes.set_xlim(-0.6, len(keys) - 0.4)
  axes.grid(visible=False, axis='x')
  return chart


def _reliability(bins: Sequence[dict]) -> Chart | None:
  """Draws the share of pixels that are ventricle against the predicted probability."""
  used = [b for b in bins if b['count']]
  if not used:
    return None
  x, total = [b['confidence'] for b in used], sum(b['count'] for b in used)
  chart, axes = _chart('predicted probability', 'share that is ventricle')
  axes.bar(x, [b['count'] / total for b in used], width=0.05, color=GRAY, alpha=0.3, lw=0)
  axes.plot([0, 1], [0, 1], ':', color=GRAY, lw=1.4)
  axes.plot(x, [b['accuracy'] for b in used], 'o-', color=BLUE, lw=1.6, ms=5)
  axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
  return chart


def _risk(block: dict) -> Chart:
  """Draws the mean EF error of the most confident share of the patients."""
  curve = [p for p in block['curve'] if p['coverage'] >= _SUREST]
  x, y = zip(*((100 * p['coverage'], p['risk']) for p in curve))
  chart, axes = _chart('share of the patients, most certain first (%)', 'mean EF error (points)')
  axes.plot([min(x), 100], [block['aurc_random']] * 2, ':', color=GRAY, lw=1.4)
  axes.plot(x, y, '-' if len(x) > _MANY else 'o-', color=BLUE, lw=1.6, ms=4)
  axes.set(xlim=(0, 103), ylim=(0, None))
  return chart
