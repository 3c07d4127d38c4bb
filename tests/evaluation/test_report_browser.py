"""The report page in headless Chromium: open, sort, filter, click, scrub."""

import shutil

import numpy as np
import pytest

from echoforge_jax.evaluation.evaluate import write_evaluation
from echoforge_jax.evaluation.protocols import get_protocol
from tests.ventricles import make_cases

CHROMIUM = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine'),
]
ODD = 'p<script>alert(1)</script> & "é/..\\'


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  """Three patients, one of them with a hostile name, one segmented badly."""
  cases = make_cases(3)
  for k, case in enumerate(cases):
    case.prediction[:] = np.roll(case.truth, k, axis=2)
    if case.patient == 'patient0003':
      object.__setattr__(case, 'patient', ODD)
  out = tmp_path_factory.mktemp('report')
  done = write_evaluation(cases, get_protocol('camus_full'), out)
  return done.paths['report']


@pytest.fixture(scope='module')
def browser():
  api = pytest.importorskip('playwright.sync_api')
  with api.sync_playwright() as playwright:
    started = playwright.chromium.launch(
      executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu']
    )
    yield started
    started.close()


@pytest.fixture
def page(browser, report):
  """The opened page; fails on any console message or foreign request."""
  opened = browser.new_page()
  messages, requests = [], []
  opened.on('console', lambda m: messages.append(m.text))
  opened.on('pageerror', lambda e: messages.append(str(e)))
  opened.on('dialog', lambda d: messages.append(f'dialog: {d.message}'))
  opened.on('request', lambda r: requests.append(r.url))
  opened.goto(report.as_uri())
  opened.wait_for_selector('#chart-regression svg')
  yield opened
  assert messages == []
  assert all(url.startswith(('file:', 'data:', 'blob:')) for url in requests)
  opened.close()


def column(page, number):
  return page.eval_on_selector_all(
    '#cases tbody tr:not([hidden])', f'rows => rows.map(r => r.cells[{number}].textContent)'
  )


def picture(page):
  return page.eval_on_selector('#picture', 'c => c.toDataURL()')


def test_worst_first_and_sorting_by_any_column(page):
  dice = [float(v) for v in column(page, 3)]
  assert dice == sorted(dice) and dice[0] < dice[-1]
  page.click('#cases th:nth-child(4) button')
  assert [float(v) for v in column(page, 3)] == sorted(dice, reverse=True)
  page.click('#cases th:nth-child(2) button')
  assert column(page, 1) == sorted(column(page, 1))
  assert page.get_attribute('#cases th:nth-child(2)', 'aria-sort') == ('ascending')


def test_filter(page):
  page.fill('#filter', 'patient0001 4ch')
  assert column(page, 0) == ['patient0001']
  assert page.inner_text('#shown') == '1 of 6'


def test_click_scrub_and_overlays(page):
  page.click('#cases tbody tr:has-text("patient0002") >> nth=0')
  page.wait_for_function("document.querySelector('#frame').textContent")
  assert 'frame 1 of 4, ED' in page.inner_text('#frame')
  assert 'patient0002' in page.inner_text('#title')
  first = picture(page)
  page.keyboard.press('ArrowRight')
  assert 'frame 2 of 4' in page.inner_text('#frame')
  second = picture(page)
  assert second != first
  page.keyboard.press('ArrowLeft')
  page.keyboard.press('ArrowLeft')
  assert 'frame 4 of 4, ES' in page.inner_text('#frame')
  shown = picture(page)
  page.uncheck('#prediction')
  truth_only = picture(page)
  assert truth_only != shown
  page.select_option('#style', 'fill')
  assert picture(page) != truth_only
  # The curve stays within its pane.
  plot, pane = (
    page.eval_on_selector(s, 'e => e.getBoundingClientRect().width')
    for s in ('#areas', '.panes > div:nth-child(2)')
  )
  assert plot <= pane + 1
  page.keyboard.press('Escape')
  assert not page.eval_on_selector('#viewer', 'd => d.open')


def test_play_and_next_clip(page):
  page.click('#cases tbody tr >> nth=0')
  page.wait_for_function("document.querySelector('#frame').textContent")
  page.click('#play')
  page.wait_for_function("!document.querySelector('#frame').textContent.includes('frame 1 of')")
  page.click('#play')
  before = page.inner_text('#title')
  page.click('#next')
  page.wait_for_function(f"document.querySelector('#title').textContent !== {before!r}")


def test_a_hostile_name_is_only_a_name(page):
  page.click('#cases tbody tr:has-text("alert(1)") >> nth=0')
  page.wait_for_function("document.querySelector('#frame').textContent")
  assert ODD in page.inner_text('#title')


def test_a_point_of_a_chart_opens_its_clip(page):
  page.locator('#chart-view a[href="#patient0001_2CH"] use').click(force=True)
  page.wait_for_function("document.querySelector('#viewer').open")
  assert page.inner_text('#title') == 'patient0001 2CH'


def test_the_area_curve_holds_the_clip_and_moves_it(page):
  page.click('#cases tbody tr:has-text("patient0002") >> nth=0')
  page.wait_for_function("document.querySelector('#frame').textContent")
  titles = page.eval_on_selector_all('#areas title', 'all => all.map(t => t.textContent)')
  assert len(titles) == 8 and 'truth, frame 1: ' in titles[0]
  box = page.locator('#areas').bounding_box()
  page.locator('#areas').click(position={'x': box['width'] - 14, 'y': 60})
  assert 'frame 4 of 4, ES' in page.inner_text('#frame')


def test_an_address_with_a_clip_opens_it(browser, report):
  opened = browser.new_page()
  opened.goto(report.as_uri() + '#patient0001_4CH')
  opened.wait_for_function("document.querySelector('#viewer').open")
  assert opened.inner_text('#title') == 'patient0001 4CH'
  opened.close()


def test_the_viewer_shows_one_class_or_all(browser, tmp_path):
  (case, _), out = make_cases(1, frames=2), tmp_path / 'out'
  for masks, shift in ((case.truth, 9), (case.prediction, 7)):
    masks[(np.roll(masks, shift, axis=1) == 1) & (masks == 0)] = 2
  done = write_evaluation([case], get_protocol('camus_semi'), out, classes=('lv', 'myo'))
  opened = browser.new_page()
  opened.goto(done.paths['report'].as_uri() + '#patient0001_2CH')
  opened.wait_for_function("document.querySelector('#frame').textContent")
  assert opened.eval_on_selector_all('#class option', 'all => all.map(o => o.text)') == (
    ['all', 'lv', 'myo']
  )
  assert ', Dice LV 100.0 %, MYO ' in opened.inner_text('#frame')
  pictures = []
  for style in ('outline', 'fill'):
    opened.select_option('#style', style)
    for name in ('all', 'lv', 'myo'):
      opened.select_option('#class', label=name)
      pictures.append(picture(opened))
  assert 'MYO' not in opened.inner_text('#frame')  # One class needs no name.
  assert len(set(pictures)) == 6
  opened.close()
