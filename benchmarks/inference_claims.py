"""What inference promises, measured: streams, determinism, export.

  python benchmarks/inference_claims.py [--checkpoint=default] [--json=FILE]

On pydicom's real clip (both forms) and a phantom beat:
  - stream: largest difference of `Stream.step` from the offline masks, pixels;
  - alone, together: whether the bytes of masks and numbers of a clip are the
    same when it is segmented again, and when other clips surround it;
  - export: largest difference of each exported program from the segmenter.
"""

import argparse
import hashlib
import json
import pathlib
import tempfile

import numpy as np
from pydicom.data import get_testdata_file

from echoforge_jax import inference, provenance
from echoforge_jax.formats import readers
from echoforge_jax.inference import batch, export
from echoforge_jax.phantom.patient import generate_patient

REAL = ('examples_ybr_color.dcm', 'color3d_jpeg_baseline.dcm')


def digest(folder: pathlib.Path) -> str:
  """SHA-256 of a clip's masks and numbers."""
  found = hashlib.sha256()
  for name in ('masks.nii.gz', 'result.json'):
    found.update((folder / name).read_bytes())
  return found.hexdigest()


def digests(segmenter, paths, out) -> dict[str, str]:
  """Segments clips in one call: name -> digest."""
  results, failures = batch.segment_files(segmenter, paths, out, report=lambda _: None)
  if failures:
    raise SystemExit(str(failures))
  return {name: digest(pathlib.Path(out) / name) for name in results}


def streamed(segmenter, path) -> int:
  """Pixels in which a stream's masks differ from the offline ones."""
  clip = readers.read_any(path)
  sector = segmenter.locate(clip.frames, clip.spacing_mm, clip.region)
  offline = segmenter.segment(clip.frames, clip.spacing_mm, fps=clip.fps, sector=sector)
  stream = segmenter.stream(fps=clip.fps, sector=sector)
  masks = [stream.step(frame) for frame in clip.frames][stream.delay :]
  masks += list(stream.flush())
  return int((np.stack(masks) != offline).sum())


def main() -> None:
  """Measures and prints one JSON line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--checkpoint', default='default')
  parser.add_argument('--json', type=pathlib.Path)
  args = parser.parse_args()
  segmenter = inference.load(args.checkpoint)
  with tempfile.TemporaryDirectory() as root:
    root = pathlib.Path(root)
    phantom = generate_patient(11, 1, beats=1, views=('4CH',)).clips['4CH']
    np.savez(
      root / 'phantom.npz', frames=phantom.frames, spacing_mm=phantom.spacing_mm, fps=phantom.fps
    )
    paths = [*map(get_testdata_file, REAL), str(root / 'phantom.npz')]
    together = digests(segmenter, paths, root / 'a')
    again = digests(segmenter, paths[::-1], root / 'b')
    alone = {}
    for path in paths:
      alone |= digests(segmenter, [path], root / 'c')
    manifest = export.export_run(args.checkpoint, root / 'model.echoforge', report=lambda _: None)
    found = {
      'checkpoint': args.checkpoint,
      'stream_pixels_that_differ': {
        readers.stem_of(path): streamed(segmenter, path) for path in paths
      },
      'same_bytes_again_in_another_order': together == again,
      'same_bytes_alone': together == alone,
      'export_largest_difference': manifest['parity']['largest_difference'],
      'device': provenance.device_kind(),
      'model': segmenter.receipt['sha256'],
      'git_revision': provenance.git_revision(),
      'versions': provenance.versions(),
    }
  line = json.dumps(found)
  print(json.dumps(found, indent=2))
  if args.json:
    with args.json.open('a') as file:
      file.write(line + '\n')


if __name__ == '__main__':
  main()
