"""Size and loading time of the report page, by the number of patients.

  python benchmarks/report_page.py [--patients 25 100 500] [--out DIR]

Phantom patients of seed 0, two views, 10 frames of 256 x 256 from ED to ES;
the first twelve are rendered, the others are these moved sideways. Predictions
are the true masks moved, turned and resized at random. The page is opened from
disk in headless Chromium. Lines go to benchmarks/results/report_page.jsonl.
"""

import argparse
import json
import pathlib
import shutil
import tempfile
import time

import cv2
import numpy as np
from playwright import sync_api

from echoforge_jax.evaluation.evaluate import write_evaluation
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.evaluation.scoring import Case
from echoforge_jax.formats import resize
from echoforge_jax.phantom import patient
from echoforge_jax.provenance import git_revision

RESULTS = pathlib.Path(__file__).parent / 'results' / 'report_page.jsonl'
RENDERED = 12
SIZE = 256


def chromium(playwright):
  """The system's Chromium, headless; 1280 pixels wide."""
  path = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
  )
  if path is None:
    raise SystemExit('no Chromium on PATH; apt-get install chromium')
  return playwright.chromium.launch(executable_path=path, args=['--no-sandbox', '--disable-gpu'])


class Cases:
  """Clips that are made when they are read, the same ones each time."""

  def __init__(self, count: int):
    self.count = count
    self.patients = [patient.generate_patient(0, k + 1) for k in range(min(count, RENDERED))]

  def __len__(self):
    return 2 * self.count

  def __getitem__(self, index):
    if not 0 <= index < len(self):
      raise IndexError(index)
    number, view = divmod(index, 2)
    found = self.patients[number % len(self.patients)]
    clip = found.clips[('2CH', '4CH')[view]]
    rng = np.random.default_rng((0, number, view))
    rounds, squeezed = number // len(self.patients), clip.masks.shape[1:]
    at = np.rint(np.linspace(clip.ed, clip.es, 10)).astype(int)
    frames, masks = (
      np.roll(f(a[at], SIZE), 3 * (rounds % 7 - 3), axis=2)
      for f, a in ((resize.squeeze_frames, clip.frames), (resize.squeeze_masks, clip.masks))
    )
    truth = (masks == 1).astype(np.uint8)
    middle = np.argwhere(truth[0])[:, ::-1].mean(axis=0)
    sizes = rng.normal(1.02, 0.02) + rng.normal(0, 0.01, len(truth))
    probability = []
    for mask, size in zip(truth, sizes):
      warp = cv2.getRotationMatrix2D(middle, rng.normal(0, 2), size)
      warp[:, 2] += rng.normal(0, 1.2, 2)
      probability.append(
        cv2.GaussianBlur(cv2.warpAffine(mask.astype(np.float32), warp, (SIZE, SIZE)), (0, 0), 2)
      )
    probability = np.stack(probability)
    return Case(
      f'patient{number + 1:04d}',
      clip.view,
      truth,
      (probability > 0.5).astype(np.uint8),
      resize.squeezed_spacing(clip.spacing_mm, squeezed, SIZE),
      frames=frames,
      native_size=squeezed,
      quality=clip.quality,
      ef_percent=found.ef_percent,
      fps=clip.fps,
      probability=probability.astype(np.float16),
    )


def measure(count: int, out: pathlib.Path) -> dict:
  """Writes a page of `count` patients and opens it."""
  start = time.perf_counter()
  page = write_evaluation(
    Cases(count), get_protocol('camus_full'), out, receipt={'synthetic': True}
  ).paths['report']
  written = time.perf_counter() - start
  files = list((page.parent / 'cases').glob('*.js'))
  return {
    'patients': count,
    'clips': len(files),
    'write_seconds': round(written, 1),
    'index_mb': round(page.stat().st_size / 1e6, 2),
    'cases_mb': round(sum(f.stat().st_size for f in files) / 1e6, 1),
    **open_page(page),
    'git_revision': git_revision(),
  }


def open_page(path: pathlib.Path) -> dict:
  """Seconds to open, sort, filter and look at a clip; clips fetched."""
  fetched = []
  with sync_api.sync_playwright() as playwright:
    browser = chromium(playwright)
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    page.on('request', lambda r: fetched.append('/cases/' in r.url))

    def timed(act, *ready):
      start = time.perf_counter()
      act()
      page.wait_for_function(*ready)
      return round(time.perf_counter() - start, 2)

    found = {
      'load_seconds': timed(
        lambda: page.goto(path.absolute().as_uri()),
        "document.querySelector('#chart-regression svg')",
      )
    }
    found['clips_fetched_by_opening'] = sum(fetched)
    found['heap_mb'] = round(page.evaluate('performance.memory.usedJSHeapSize') / 1e6)
    found['sort_seconds'] = timed(
      lambda: page.click('#cases th:nth-child(1) button'),
      "document.querySelector('#cases th[aria-sort=ascending]')",
    )
    found['clip_seconds'] = timed(
      lambda: page.click('#cases tbody tr >> nth=0'),
      "document.querySelector('#frame').textContent.includes('frame 1')",
    )
    found['clips_fetched_by_a_click'] = sum(fetched)
    browser.close()
  return found


def main() -> None:
  """Measures every size and keeps the lines."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--patients', type=int, nargs='+', default=[25, 100, 500])
  parser.add_argument('--out', help='keep the pages here')
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    for count in flags.patients:
      line = measure(count, pathlib.Path(flags.out or temporary) / str(count))
      print(line)
      with RESULTS.open('a') as file:
        file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
  main()
