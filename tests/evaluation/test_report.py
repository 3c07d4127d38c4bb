import base64
import dataclasses
import json
import re

import numpy as np
import pytest

from echoforge_jax.evaluation.aggregate import score_predictions
from echoforge_jax.evaluation.evaluate import write_evaluation
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.evaluation.report import charts, figures, tables
from echoforge_jax.evaluation.report.summary import summary_text
from tests.ventricles import make_cases

PNG = b'\x89PNG\r\n\x1a\n'


def test_overlay_colours():
  frame = np.zeros((2, 2), np.uint8)
  truth = np.array([[1, 1], [0, 0]], bool)
  prediction = np.array([[1, 0], [1, 0]], bool)
  picture = figures.overlay(frame, truth, prediction, alpha=1.0)
  assert tuple(picture[0, 0]) == figures.YELLOW
  assert tuple(picture[0, 1]) == figures.GREEN
  assert tuple(picture[1, 0]) == figures.RED
  assert tuple(picture[1, 1]) == (0, 0, 0)


def test_outlines_part_touching_classes():
  labels = np.zeros((5, 8), np.uint8)
  labels[1:4, 1:4], labels[1:4, 4:7] = 1, 2
  found = figures.outlines(labels)
  wanted = labels > 0
  wanted[2, 2] = wanted[2, 5] = False  # All of their neighbours are of the same class.
  np.testing.assert_array_equal(found, wanted)
  assert figures.outlines(np.ones((3, 3), np.uint8)).sum() == 8  # The image's border is one.


def test_every_class_is_in_tables_and_overlays():
  cases = make_cases(2)
  for case in cases:
    for masks, shift in ((case.truth, 3), (case.prediction, 2)):
      ring = np.roll(masks, shift, axis=1) & ~masks & 1
      masks += 2 * ring
  result = score_predictions(cases, get_protocol('camus_full'), classes=('lv', 'myo'), resamples=10)
  labels = [label for label, *_ in tables.cards(result)]
  assert labels[:3] == ['Dice, LV', 'Dice, MYO', 'Hausdorff distance, LV']
  assert {(kind, name) for kind, _, name, *_ in tables.group_rows(result)} == {
    (kind, name) for kind in ('view', 'quality', 'phase') for name in ('LV', 'MYO')
  }
  heads, rows, _ = tables.case_table(result)
  names = [label for label, _ in heads]
  assert names[3:6] == ['LV Dice (%)', 'MYO Dice (%)', 'LV HD (mm)']
  myo = {(r['patient'], r['view']): f'{100 * r["myo_dice"]:.2f}' for r in result.per_case}
  assert all(cells[4][0] == myo[cells[0][0], cells[1][0]] for _, cells in rows)
  said = dict(tables.facts(result.per_case[0], result))['Dice']
  assert said.startswith('LV 100.00, MYO ') and said.endswith(' %')
  figure = figures.overlay_figure(dict(enumerate(cases)), result, [0])
  painted = np.asarray(figure.axes[1].images[0].get_array())
  both = figures.outlines(cases[0].truth[0]) & figures.outlines(cases[0].prediction[0])
  assert both.any() and np.allclose(painted[both].mean(0)[2], 0.9 * figures.YELLOW[2], atol=0.06)
  assert '\nLV Dice 100.0 %' in figure.axes[0].get_ylabel()
  assert any('MYO' in text for text in texts(figure.axes[1]))


def test_clips_of_two_frames_have_nothing_midway():
  cases = make_cases(1, frames=2)
  result = score_predictions(cases, get_protocol('camus_semi'), resamples=10)
  titles = [a.get_title() for a in figures.overlay_figure({0: cases[0]}, result, [0]).axes]
  assert titles == ['ED, frame 1', 'overlay', 'ES, frame 2', 'overlay']


@pytest.mark.slow
def test_report_is_self_contained_and_holds_the_numbers(tmp_path):
  log = tmp_path / 'metrics.jsonl'
  log.write_text(
    '\n'.join(
      [json.dumps({'step': s, 'kind': 'train', 'loss': 1 / s}) for s in (10, 20, 30)]
      + ['{"step": 40, "kind"']
    )
  )  # a torn last line
  done = write_evaluation(
    make_cases(predict=lambda m: np.roll(m, 2, axis=2)),
    get_protocol('camus_full'),
    tmp_path / 'out',
    log_path=log,
    receipt={'dataset': '<b>phantom</b>', 'git_revision': None},
  )
  page = done.paths['report'].read_text()
  assert done.paths['report'] == tmp_path / 'out' / 'report' / 'index.html'
  markup = re.sub(r'<script.*?</script>', '', page, flags=re.S)
  (image,) = re.findall(r'src="([^"]+)"', markup)  # Overlays; charts are SVG.
  assert base64.b64decode(image.split(',')[1]).startswith(PNG)
  assert markup.count('<svg viewBox') == 7
  dice = done.result.metrics['classes']['lv']['dice']
  assert f'{100 * dice["mean"]:.2f}' in page
  assert f'{100 * dice["ci95"][0]:.2f}' in page
  assert 'patient0003' in page and 'camus_full' in page
  assert '&lt;b&gt;phantom' in page and '<b>phantom' not in page
  assert 'Synthetic' in page  # the note on phantoms
  assert 'http' not in re.sub(r'data:image[^"]+', '', markup)
  assert not re.search(r'<(script|link|iframe)[^>]+(src|href)=', page)
  names = {p.name for p in (tmp_path / 'out/report/figures').iterdir()}
  assert names == {'overlays.png'} | {
    f'{chart}.svg'
    for chart in ('regression', 'bland_altman', 'positions', 'quality', 'view', 'areas', 'training')
  }


@pytest.mark.slow
@pytest.mark.parametrize('synthetic', [True, False, None])
def test_phantoms_under_a_real_name_are_called_synthetic(tmp_path, synthetic):
  done = write_evaluation(
    make_cases(1, frames=2),
    get_protocol('camus_semi'),
    tmp_path,
    receipt={'dataset': 'camus', 'synthetic': synthetic},
  )
  page = done.paths['report'].read_text()
  document = json.loads(done.paths['metrics'].read_text())
  assert document['receipt']['synthetic'] is synthetic
  for text in (page, summary_text(done.result)):
    assert ('ynthetic patients' in text) == bool(synthetic)


def test_report_without_anything_to_draw(tmp_path):
  cases = make_cases(1, frames=2, predict=lambda m: m * 0)
  for case in cases:
    case.truth[:] = 0
  done = write_evaluation(cases, get_protocol('camus_semi'), tmp_path)
  page = done.paths['report'].read_text()
  assert 'n/a' in page and '<img' not in page and 'class="chart"' not in page
  assert 'Where and when' not in page
  assert done.result.metrics['classes']['lv']['dice']['n'] == 0


def test_examples_are_best_median_worst():
  cases = make_cases(3)
  for shift, case in enumerate(cases):
    case.prediction[:] = np.roll(case.truth, shift, axis=2)
  result = score_predictions(cases, get_protocol('camus_full'), resamples=10)
  picked = figures.pick_examples(result)
  assert picked[0] == 0 and picked[-1] == 5 and len(picked) == 3


@pytest.mark.parametrize('count', [1, 2])
def test_figures_of_very_few_clips(count):
  cases = make_cases(1)[:count]
  result = score_predictions(cases, get_protocol('camus_full'), resamples=10)
  picked = figures.pick_examples(result)
  assert len(picked) == count
  overlays = figures.overlay_figure(dict(enumerate(cases)), result, picked)
  assert figures.png(overlays).startswith(PNG)
  areas = figures.area_chart(result, picked)
  assert len(areas.figure.axes) == count and '<svg' in areas.svg('areas')
  assert 'regression' not in charts.page_charts(result)  # One patient.


def test_frames_are_drawn_in_true_proportion():
  cases = make_cases(1)
  result = score_predictions(cases, get_protocol('camus_full'), resamples=10)
  figure = figures.overlay_figure(dict(enumerate(cases)), result, [0])
  left, right, bottom, top = figure.axes[0].images[0].get_extent()
  assert (right - left) / (bottom - top) == pytest.approx(150 / 140)


def texts(axes):
  return [text.get_text() for text in axes.texts]


def test_charts_of_the_page():
  cases = make_cases(3, predict=lambda m: np.roll(m, 1, axis=2))
  for case, grade in zip(cases, ('Poor', 'Good', 'Medium') * 2):
    object.__setattr__(case, 'quality', grade)
  result = score_predictions(cases, get_protocol('camus_full'), resamples=10)
  drawn = charts.page_charts(result)
  axes = {name: chart.figure.axes[0] for name, chart in drawn.items()}
  assert [t.get_text() for t in axes['quality'].get_xticklabels()] == [
    f'{grade}\nn = 2' for grade in ('Good', 'Medium', 'Poor')
  ]
  ef = result.metrics['ef']
  assert axes['regression'].get_xlim()[0] > 0
  assert f'r = {ef["pearson_r"]:.3f}' in texts(axes['regression'])[0]
  labels = dict(t.split('\n') for t in texts(axes['bland_altman']))
  assert list(labels) == ['bias', '−1.96 SD', '+1.96 SD']
  assert labels['bias'] == f'{ef["bias"]:+.2f}'.replace('-', '−')
  curve = axes['positions'].lines[0]
  assert curve.get_xdata() == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-5)
  heights = 100 * np.array([r['lv_dice'] for r in result.per_case])
  drawn_heights = [y for dots in axes['view'].collections for _, y in dots.get_offsets()]
  assert sorted(drawn_heights) == pytest.approx(sorted(heights))


def test_a_point_says_its_patient_and_links_to_its_clip():
  cases = make_cases(3, predict=lambda m: np.roll(m, 1, axis=2))
  object.__setattr__(cases[4], 'patient', 'a<b>&')
  result = score_predictions(cases, get_protocol('camus_full'), resamples=10)
  drawn = charts.page_charts(result)
  element = drawn['view'].element('view')
  assert re.search(r'<a href="#patient0001_2CH"><title>patient0001 2CH: Dice \d+\.\d\d %', element)
  assert element.count('<title>') == 6
  assert 'a&lt;b&gt;&amp; 2CH' in element and '<b>' not in element
  # Vector text in the page's colour, and nothing that names another address.
  assert '>Dice of a clip (%)</text>' in element and 'currentColor' in element
  assert 'http' not in element
  regression = drawn['regression'].element('regression')
  row = result.per_case[0]
  assert f'reference {row["ef_reference"]:.1f} %' in regression
  again = charts.page_charts(result)['view']
  assert drawn['view'].svg('a') == again.svg('a')


@pytest.mark.slow
def test_two_labeled_frames_are_no_curve_and_no_floor(tmp_path):
  cases = [
    dataclasses.replace(c, labeled=np.array([1, 0, 0, 1], bool), quality='') for c in make_cases(2)
  ]
  done = write_evaluation(cases, get_protocol('camus_semi'), tmp_path)
  drawn = charts.page_charts(done.result)
  line = drawn['positions'].figure.axes[0].lines[0]
  assert line.get_linestyle() == 'None' and len(line.get_xdata()) == 2
  assert 'quality' not in drawn
  page = done.paths['report'].read_text()
  assert 'the floor of that share' in page and '>quality</button>' not in page


def test_training_chart_needs_a_log(tmp_path):
  assert figures.training_chart(tmp_path / 'missing.jsonl') is None


def test_training_chart_puts_losses_first(tmp_path):
  log = tmp_path / 'metrics.jsonl'
  log.write_text(
    '\n'.join(
      json.dumps({'step': step, 'kind': kind} | values)
      for step in (1, 2, 3)
      for kind, values in (
        ('train', {'learning_rate': 0.1, 'loss_coarse': 1.0, 'loss': 2.0}),
        ('eval', {'dice_teacher': 0.5, 'loss': 2.5}),
      )
    )
  )
  panels = figures.training_chart(log).figure.axes
  titles = [axes.get_title() for axes in panels if axes.axison]
  assert titles == ['loss', 'loss coarse', 'dice teacher', 'learning rate']
  assert [line.get_label() for line in panels[0].lines] == ['train', 'eval']
  assert panels[0].lines[0].get_ydata().tolist() == [2.0, 2.0, 2.0]
