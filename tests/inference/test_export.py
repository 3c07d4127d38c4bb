"""An exported file: complete, equal to the segmenter, and on its own."""

import hashlib
import itertools
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

from echoforge_jax import inference
from echoforge_jax.__main__ import main
from echoforge_jax.config import config_digest
from echoforge_jax.errors import InputError
from echoforge_jax.formats import sector as sectors
from echoforge_jax.inference import Segmenter, export, programs
from echoforge_jax.models import build_model
from tests.inference.clips import noise, random_segmenter

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / 'docs' / 'examples' / 'run_exported.py'
NAMES = [f'{kind}_{dtype}' for dtype in ('float32', 'bfloat16') for kind in ('clip', 'step')]
FRAMES, SIZE = 4, 32

# What a machine without this package has: its imports fail.
ALONE = """
import runpy, sys
sys.path[:] = [path for path in sys.path if path not in ('', {root!r})]
class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in {{
        'flax', 'echoforge_jax', 'ml_collections', 'optax', 'orbax', 'etils',
        'cv2', 'absl', 'grain', 'chex'}}:
      raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import numpy as np
sys.argv = ['run_exported.py', *sys.argv[1:4]]
found = runpy.run_path({example!r})
import json, zipfile, jax
with zipfile.ZipFile(sys.argv[1]) as bundle:
  program = bytearray(bundle.read('clip_float32.jaxexp'))
clip = jax.jit(jax.export.deserialize(program).call)(np.load(sys.argv[2]))
np.savez(sys.argv[3] + '.npz', step=found['logits'], clip=clip)
import importlib
try:
  importlib.import_module('echoforge_jax')
except ModuleNotFoundError:
  print('alone')
"""


def clip(frames=FRAMES, size=SIZE):
  return noise(frames, (size, size))


@pytest.fixture(scope='module')
def metrics(config):
  """Of an evaluation of the workdir's teacher."""
  entry = {'mean': 0.8765, 'ci95': [0.86, 0.89], 'median': 0.88, 'n': 3}
  return {
    'protocol': 'camus_full',
    'n_patients': 3,
    'n_frames': 30,
    'unit': 'mm',
    'classes': {'lv': {'dice': entry}},
    'ef': {'n': 0},
    'receipt': {
      'config_digest': config_digest(config),
      'which': 'teacher',
      'checkpoint_step': 3,
      'training_seed': config.seed,
      'synthetic': True,
      'dataset': 'camus',
      'split': 'test',
    },
  }


@pytest.fixture(scope='module')
def exported(workdir, metrics, tmp_path_factory):
  folder = tmp_path_factory.mktemp('exported')
  (folder / 'metrics.json').write_text(json.dumps(metrics))
  export.export_run(
    workdir,
    folder / 'tiny.echoforge',
    frames=FRAMES,
    metrics=folder / 'metrics.json',
    report=lambda _: None,
  )
  return folder / 'tiny.echoforge'


@pytest.fixture(scope='module')
def manifest(exported):
  with zipfile.ZipFile(exported) as bundle:
    return json.loads(bundle.read('manifest.json'))


@pytest.mark.slow
def test_the_file_is_complete(exported, manifest, config):
  with zipfile.ZipFile(exported) as bundle:
    assert {i.compress_type for i in bundle.infolist()} == {zipfile.ZIP_STORED}
    assert bundle.namelist() == [
      *(f'{name}.jaxexp' for name in NAMES),
      'manifest.json',
      'README.md',
    ]
    for name in NAMES:
      entry = manifest['programs'][name]
      content = bundle.read(entry['file'])
      assert hashlib.sha256(content).hexdigest() == entry['sha256']
      program = jax.export.deserialize(bytearray(content))
      assert program.platforms == ('cpu', 'cuda', 'tpu')
      assert program.nr_devices == 1
      text = program.mlir_module()
      assert 'custom_call' not in text
      # Convolutions in float32 use every bit, on accelerators too.
      assert ('#stablehlo<precision HIGHEST>' in text) == ('float32' in name)
      for fields, avals in (
        (entry['inputs'], program.in_avals),
        (entry['outputs'], program.out_avals),
      ):
        assert [(tuple(f['shape']), f['dtype']) for f in fields] == [
          (a.shape, a.dtype.name) for a in avals
        ]
    card = bundle.read('README.md').decode()
  assert card == exported.with_name('tiny.echoforge.md').read_text()
  assert manifest['image_size'] == SIZE and manifest['delay'] == 0
  assert manifest['classes'] == [{'name': 'lv', 'label': 1}]
  assert [m['name'] for m in manifest['memory']] == ['tokens', 'valid']
  assert manifest['model']['config_digest'] == config_digest(config)
  assert manifest['model']['step'] == 3


@pytest.mark.slow
def test_no_path_of_this_machine_is_inside(exported, workdir):
  content = exported.read_bytes()
  for path in (ROOT, workdir, sys.prefix):
    assert str(path).encode() not in content
  assert b'/echoforge_jax/' not in content


@pytest.mark.slow
def test_programs_equal_the_segmenter(manifest):
  found = manifest['parity']['largest_difference']
  assert list(found) == NAMES
  for name in NAMES[:2]:
    assert found[name]['probabilities'] <= 1e-5
    assert found[name]['logits'] <= 1e-5 * max(1, found[name]['logits_magnitude'])
  for name in NAMES[2:]:  # Eight bits of mantissa.
    assert 1e-5 < found[name]['probabilities'] and found[name]['pixels'] < 0.2


@pytest.mark.slow
def test_it_runs_with_jax_and_numpy_alone(exported, workdir, tmp_path):
  video = clip()
  np.save(tmp_path / 'clip.npy', video)
  script = ALONE.format(root=str(ROOT), example=str(EXAMPLE))
  done = subprocess.run(
    [sys.executable, '-I', '-c', script, str(exported), 'clip.npy', 'masks.npy'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == 'alone'
  segmenter = inference.load(workdir)
  wanted = programs.reference_logits(segmenter, video)
  with np.load(tmp_path / 'masks.npy.npz') as found:
    for kind in ('step', 'clip'):
      np.testing.assert_allclose(found[kind], wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
  masks = np.load(tmp_path / 'masks.npy')
  assert masks.dtype == np.uint8 and masks.any()
  whole = segmenter.segment(video, sector=sectors.whole_image((SIZE, SIZE)))
  assert (masks != whole).mean() < 1e-3


def test_the_example_is_short_and_needs_little():
  lines = EXAMPLE.read_text().splitlines()
  assert len(lines) <= 40
  imported = {
    line.split()[1].split('.')[0] for line in lines if line.startswith(('import', 'from'))
  }
  assert imported == {'json', 'sys', 'zipfile', 'jax', 'numpy'}


@pytest.mark.slow
def test_equal_checkpoints_give_equal_bytes(exported, workdir, tmp_path, capsys):
  again = tmp_path / 'again'
  assert (
    main(
      ['export', f'--checkpoint={workdir}', f'--frames={FRAMES}', f'--out={again}', '--no_check']
    )
    == 0
  )
  assert 'not for clinical use' in capsys.readouterr().out
  with zipfile.ZipFile(exported) as a, zipfile.ZipFile(again) as b:
    for name in NAMES:
      assert a.read(f'{name}.jaxexp') == b.read(f'{name}.jaxexp')
    assert 'Not measured' in b.read('README.md').decode()
    assert json.loads(b.read('manifest.json'))['parity'] is None


@pytest.mark.slow
def test_the_card_tells_scores_and_their_limits(exported, config):
  card = exported.with_name('tiny.echoforge.md').read_text()
  assert '| lv | Dice (%) | 87.65 | [86.00, 89.00] |' in card
  assert 'synthetic patients' in card.lower()
  assert 'not for clinical use' in card and 'six months' in card
  assert f'"num_steps": {config.num_steps}' in card


@pytest.mark.slow
def test_a_model_that_looks_ahead():
  # It takes windows, not clips.
  segmenter = random_segmenter(build_model('sscf', width=4, norm='group'))
  made = list(itertools.islice(programs.make_programs(segmenter, FRAMES), 2))
  assert [p.name for p in made] == NAMES[:2]
  for program in made:
    found = programs.parity(segmenter, program, clip(size=64))
    # Its logits reach 13: with all optimizations, probabilities differ by 1.1e-5.
    assert found['logits'] <= 1e-5 * found['logits_magnitude']
    assert found['probabilities'] <= 2e-5


@pytest.mark.slow
def test_approximate_neighbours_can_be_exported(segmenter):
  approximate = Segmenter(
    segmenter.model.clone(knn='approx'), segmenter.variables, classes=('lv',), image_size=SIZE
  )
  program = next(programs.make_programs(approximate, 2))
  assert programs.parity(approximate, program, clip(2))['probabilities'] <= 1e-5


def test_what_cannot_be_serialized_is_one_line():
  def calls_back(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

  x = ('x', np.zeros(3, np.float32))
  with pytest.raises(InputError, match='has no serializable form') as error:
    programs.export_program('odd', calls_back, [x], ['y'])
  assert '\n' not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags, text',
  [
    (['--checkpoint=none'], 'none: no such directory'),
    (['--checkpoint=empty'], 'config.json'),
    (['--checkpoint=damaged'], 'cannot be read'),
    (['--checkpoint=older'], 'does not fit the model as it is now'),
    (['--out=empty'], 'this is a folder'),
    (['--out=none/x'], 'no folder none'),
    (['--frames=0'], 'wanted at least 1'),
    (['--metrics=none.json'], 'No such file'),
    (['--metrics=odd.json'], 'not the metrics.json of an evaluation'),
    (['--metrics=other.json'], 'an evaluation of another model: checkpoint_'),
  ],
)
def test_misuse_is_one_line(flags, text, workdir, metrics, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'odd.json').write_text('[1]')
  other = metrics | {'receipt': metrics['receipt'] | {'checkpoint_step': 9}}
  (tmp_path / 'other.json').write_text(json.dumps(other))
  if 'damaged' in flags[0]:
    shutil.copytree(workdir, tmp_path / 'damaged')
    for file in (tmp_path / 'damaged/checkpoints/3/teacher').rglob('*'):
      if file.is_file():
        file.write_bytes(file.read_bytes()[:3])
  if 'older' in flags[0]:
    shutil.copytree(workdir, tmp_path / 'older')
    stored = tmp_path / 'older' / 'config.json'
    stored.write_text(stored.read_text().replace('"dim": 16', '"dim": 32'))
  given = {'--checkpoint': str(workdir), '--out': 'x.echoforge'}
  given |= dict(flag.split('=') for flag in flags)
  assert main(['export', *('='.join(item) for item in given.items())]) == 2
  error = capsys.readouterr().err
  assert text in error and error.count('\n') == 1
  assert not (tmp_path / 'x.echoforge').exists()
