"""Redraws docs/images/report_*.png from the page of a finished evaluation.

  python -m benchmarks.report_pictures REPORT/report/index.html

Needs Chromium on PATH. docs/evaluation.md says which run was shown.
"""

import argparse
import pathlib

import cv2
import numpy as np
from playwright import sync_api

from benchmarks.report_page import chromium

OUT = pathlib.Path(__file__).parents[1] / 'docs' / 'images'


def save(name: str, png: bytes) -> None:
  """Writes a picture with fewer gray levels, to keep it small."""
  image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
  path = OUT / f'report_{name}.png'
  done, data = cv2.imencode('.png', image // 5 * 5, [cv2.IMWRITE_PNG_COMPRESSION, 9])
  if not done or data.nbytes > 300_000:
    raise SystemExit(f'{path}: {data.nbytes} bytes, wanted at most 300000')
  path.write_bytes(data.tobytes())
  print(f'{path} {data.nbytes // 1024} KB')


def main() -> None:
  """Takes the pictures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('page', type=pathlib.Path)
  flags = parser.parse_args()
  with sync_api.sync_playwright() as playwright:
    browser = chromium(playwright)
    page = browser.new_page(viewport={'width': 1180, 'height': 900}, color_scheme='light')
    page.goto(flags.page.absolute().as_uri())
    top = page.locator('section', has_text='Best, median and worst')
    height = top.bounding_box()['y'] - 9
    save('overview', page.screenshot(clip={'x': 0, 'y': 0, 'width': 1180, 'height': height}))
    for name, title in (
      ('ejection', 'Ejection fraction'),
      ('groups', 'Where and when'),
      ('cases', 'Every clip'),
    ):
      save(name, page.locator('section', has=page.locator(f'h2:text-is("{title}")')).screenshot())
    page.click('#cases tbody tr >> nth=0')
    page.wait_for_function("document.querySelector('#frame').textContent.includes('frame 1')")
    page.keyboard.press('ArrowLeft')  # The last frame, ES.
    page.wait_for_timeout(500)
    save('viewer', page.locator('#viewer').screenshot())
    browser.close()


if __name__ == '__main__':
  main()
