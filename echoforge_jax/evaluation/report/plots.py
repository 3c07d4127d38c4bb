"""Interactive plots of the report page; a point leads to its clip."""

from collections.abc import Sequence
import html
import json
import math

import numpy as np
import plotly.graph_objects as go

from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.evaluation.report.case_files import case_id

_BLUE, _ORANGE, _GRAY = '#2f6db3', '#c8641e', '#8a94a0'
_BAND = 'rgba(47,109,179,.13)'
_MANY = 100  # More points than this are drawn smaller and fainter.
_SUREST = 0.05  # The risk of fewer patients says nothing.


def page_plots(result: Result) -> dict[str, dict]:
  """Every plot that the result has numbers for, as Plotly JSON.

  Args:
    result: the evaluation.

  Returns:
    Name -> {'data', 'layout'}: 'regression', 'bland_altman', 'whole_clip',
    'positions', 'quality', 'view', 'reliability', 'risk'.
  """
  m = result.metrics
  figures = {
    'regression': _regression(_pairs(result, 'ef_predicted'), m['ef']),
    'bland_altman': _bland_altman(_pairs(result, 'ef_predicted'), m['ef']),
    'positions': _positions(m['positions'].get(result.classes[0], [])),
    'quality': _groups(result, 'quality', ('Good', 'Medium', 'Poor')),
    'view': _groups(result, 'view', ('2CH', '4CH')),
  }
  if m['whole_clip']:
    figures['whole_clip'] = _regression(
      _pairs(result, 'ef_whole_clip'), m['whole_clip']['ef']
    )
  if m['calibration']:
    figures['reliability'] = _reliability(m['calibration']['bins'])
  if m['risk_coverage']:
    figures['risk'] = _risk(m['risk_coverage'])
  return {
    name: json.loads(figure.to_json())
    for name, figure in figures.items()
    if figure is not None
  }


def _figure(traces, x: str, y: str, **layout) -> go.Figure:
  grid = dict(
    gridcolor='rgba(128,140,150,.22)',
    zeroline=False,
    linecolor='rgba(128,140,150,.6)',
    ticks='outside',
    tickcolor='rgba(128,140,150,.6)',
    automargin=True,
    title_font_size=13,
    title_standoff=8,
  )
  figure = go.Figure(traces)
  figure.update_layout(
    template=None,
    height=340,
    margin=dict(l=58, r=14, t=14, b=48),
    paper_bgcolor='rgba(0,0,0,0)',
    plot_bgcolor='rgba(0,0,0,0)',
    font=dict(
      family='system-ui, Segoe UI, Helvetica, Arial, sans-serif',
      size=13,
      color='#77828d',
    ),
    showlegend=False,
    hovermode='closest',
    hoverlabel=dict(align='left'),
  )
  figure.update_xaxes(title=x, **grid)
  figure.update_yaxes(title=y, **grid)
  figure.update_layout(**layout)
  return figure


def _pairs(result: Result, column: str) -> list[tuple]:
  """(reference, predicted, text, case) of each patient that has both."""
  found = {}
  for row in result.per_case:
    values = row['ef_reference'], row[column]
    if row['patient'] not in found and all(map(math.isfinite, values)):
      found[row['patient']] = (
        *values,
        f'{html.escape(row["patient"])}'
        f'<br>reference {values[0]:.1f} %<br>predicted {values[1]:.1f} %',
        case_id(row['patient'], row['view']),
      )
  return list(found.values())


def _points(x, y, pairs, color=_BLUE) -> go.Scatter:
  return go.Scatter(
    x=list(x),
    y=list(y),
    mode='markers',
    text=[p[2] for p in pairs],
    customdata=[p[3] for p in pairs],
    hovertemplate='%{text}<extra></extra>',
    marker=dict(
      size=5 if len(pairs) > _MANY else 8,
      color=color,
      opacity=0.75,
      line=dict(width=0.5, color='white'),
    ),
  )


def _line(x, y, dash='solid', color=_GRAY, width=1.5) -> go.Scatter:
  return go.Scatter(
    x=list(x),
    y=list(y),
    mode='lines',
    hoverinfo='skip',
    line=dict(dash=dash, color=color, width=width),
  )


def _regression(pairs: Sequence[tuple], ef: dict) -> go.Figure | None:
  if len(pairs) < 2:
    return None
  x, y = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
  low = min(x.min(), y.min(), 10.0) - 3
  high = max(x.max(), y.max(), 75.0) + 3
  traces = [_line([low, high], [low, high], 'dot')]
  if math.isfinite(ef['slope']):
    ends = np.array([x.min(), x.max()])
    traces.append(
      _line(ends, ef['slope'] * ends + ef['intercept'], color=_ORANGE, width=2)
    )
  figure = _figure(
    [*traces, _points(x, y, pairs)], 'EF, reference (%)', 'EF, predicted (%)'
  )
  # The axes give way, not the ranges: no EF below zero is drawn.
  figure.update_xaxes(range=[low, high], constrain='domain')
  figure.update_yaxes(range=[low, high], scaleanchor='x', constrain='domain')
  text = f'r = {ef["pearson_r"]:.3f}<br>n = {ef["n"]}'
  if math.isfinite(ef['slope']):
    text += f'<br>y = {ef["slope"]:.2f} x {ef["intercept"]:+.1f}'
  figure.add_annotation(
    text=text.replace('-', '−'),
    x=0.03,
    y=0.98,
    xref='x domain',
    yref='y domain',
    showarrow=False,
    align='left',
    xanchor='left',
    yanchor='top',
  )
  return figure


def _bland_altman(pairs: Sequence[tuple], ef: dict) -> go.Figure | None:
  if len(pairs) < 2:
    return None
  x = np.array([(p[0] + p[1]) / 2 for p in pairs])
  y = np.array([p[1] - p[0] for p in pairs])
  figure = _figure(
    [_points(x, y, pairs)],
    'mean of reference and prediction (%)',
    'prediction − reference (points)',
  )
  low, high = ef['ci95']['bias']
  if math.isfinite(low):
    figure.add_hrect(
      y0=low, y1=high, fillcolor=_BAND, line_width=0, layer='below'
    )
  figure.update_layout(margin_r=76)
  figure.add_hline(y=0, line=dict(color=_GRAY, width=1, dash='dot'))
  for value, name, dash in (
    (ef['bias'], 'bias', 'solid'),
    (ef['loa'][0], '−1.96 SD', 'dash'),
    (ef['loa'][1], '+1.96 SD', 'dash'),
  ):
    if math.isfinite(value):
      figure.add_hline(y=value, line=dict(color=_ORANGE, width=1.5, dash=dash))
      # Beside the plot, where no point or line can lie under it.
      figure.add_annotation(
        text=f'{name}<br>{value:+.1f}'.replace('-', '−'),
        x=1.01,
        y=value,
        xref='paper',
        xanchor='left',
        align='left',
        showarrow=False,
      )
  return figure


def _positions(entries: Sequence[dict]) -> go.Figure | None:
  entries = [e for e in entries if math.isfinite(e['dice']['mean'])]
  if not entries:
    return None
  means = [100 * e['dice']['mean'] for e in entries]
  bounds = [
    [100 * b if math.isfinite(b) else m for b in e['dice']['ci95']]
    for e, m in zip(entries, means)
  ]
  x = [e['position'] for e in entries]
  figure = _figure(
    [
      go.Scatter(
        # A line between ED and ES alone would claim what nobody labeled.
        x=x,
        y=means,
        mode='lines+markers' if len(x) > 2 else 'markers',
        line=dict(color=_BLUE, width=2),
        marker=dict(size=7, color=_BLUE),
        error_y=dict(
          type='data',
          symmetric=False,
          color=_BLUE,
          thickness=1.2,
          array=[b[1] - m for b, m in zip(bounds, means)],
          arrayminus=[m - b[0] for b, m in zip(bounds, means)],
        ),
        hovertemplate='%{y:.2f} %<extra></extra>',
      )
    ],
    'position in the clip',
    'Dice (%)',
  )
  figure.update_xaxes(
    tickvals=[0, 0.25, 0.5, 0.75, 1],
    ticktext=['ED', '25 %', '50 %', '75 %', 'ES'],
    range=[-0.06, 1.06],
  )
  return figure


def _groups(
  result: Result, kind: str, order: Sequence[str]
) -> go.Figure | None:
  """Every clip's Dice, grouped; a box where there are enough."""
  name = f'{result.classes[0]}_dice'
  rows = [r for r in result.per_case if r[kind] and math.isfinite(r[name])]
  keys = sorted(
    {r[kind] for r in rows},
    key=lambda k: (order.index(k) if k in order else len(order), k),
  )
  if not keys:
    return None
  traces = []
  for key in keys:
    own = [r for r in rows if r[kind] == key]
    traces.append(
      go.Box(
        y=[100 * r[name] for r in own],
        name=f'{key}<br>n = {len(own)}',
        boxpoints='all',
        jitter=0.45,
        pointpos=0,
        fillcolor=_BAND,
        line=dict(color=_GRAY, width=1.2),
        marker=dict(
          color=_BLUE,
          size=3 if len(own) > _MANY else 6,
          opacity=0.4 if len(own) > _MANY else 0.7,
        ),
        text=[html.escape(f'{r["patient"]} {r["view"]}') for r in own],
        customdata=[case_id(r['patient'], r['view']) for r in own],
        hoveron='points',
        hovertemplate='%{text}: %{y:.2f} %<extra></extra>',
      )
    )
  return _figure(traces, '', 'Dice of a clip (%)')


def _reliability(bins: Sequence[dict]) -> go.Figure | None:
  used = [b for b in bins if b['count']]
  if not used:
    return None
  total = sum(b['count'] for b in used)
  return _figure(
    [
      go.Bar(
        x=[b['confidence'] for b in used],
        y=[b['count'] / total for b in used],
        width=0.05,
        marker=dict(color='rgba(138,148,160,.28)'),
        hovertemplate='%{y:.1%} of the pixels<extra></extra>',
      ),
      _line([0, 1], [0, 1], 'dot'),
      go.Scatter(
        x=[b['confidence'] for b in used],
        y=[b['accuracy'] for b in used],
        mode='lines+markers',
        line=dict(color=_BLUE, width=2),
        marker=dict(size=7),
        text=[f'{b["count"]:,} pixels' for b in used],
        hovertemplate='%{x:.2f} said, %{y:.2f} true<br>%{text}<extra></extra>',
      ),
    ],
    'predicted probability',
    'share that is ventricle',
    xaxis_range=[-0.02, 1.02],
    yaxis_range=[-0.02, 1.02],
  )


def _risk(block: dict) -> go.Figure:
  curve = [p for p in block['curve'] if p['coverage'] >= _SUREST]
  x = [p['coverage'] for p in curve]
  figure = _figure(
    [
      _line([min(x), 1], [block['aurc_random']] * 2, 'dot'),
      go.Scatter(
        x=x,
        y=[p['risk'] for p in curve],
        mode='lines' if len(x) > _MANY else 'lines+markers',
        line=dict(color=_BLUE, width=2),
        marker=dict(size=5),
        hovertemplate='the surest %{x:.0%}: %{y:.2f} points<extra></extra>',
      ),
    ],
    'share of the patients, surest first',
    'mean EF error (points)',
  )
  figure.update_xaxes(tickformat='.0%', range=[0, 1.03])
  figure.update_yaxes(rangemode='tozero')
  return figure
