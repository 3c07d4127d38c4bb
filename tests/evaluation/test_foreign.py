"""Masks of another tool: every naming and format scores alike, every misfit is one line."""

import json
import math
import pathlib
import re
import shutil

import numpy as np
from PIL import Image
import pytest
import SimpleITK as sitk

from echoforge_jax.__main__ import main
from echoforge_jax.data.prepare import prepare
from echoforge_jax.data.prepared import read_index
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.aggregate import score_predictions
from echoforge_jax.evaluation.comparison.two_runs import compare_runs
from echoforge_jax.evaluation.evaluate import evaluate, write_result
from echoforge_jax.evaluation.foreign import open_foreign
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.formats import camus
from echoforge_jax.formats.resize import squeeze_masks
from echoforge_jax.phantom.camus_writer import write_camus
from tests import folders
from tests.configs import load_config
from tests.inference.clips import make_workdir
from tests.phantom import ellipses

SIZE = (40, 48)


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  """CAMUS's layout, two patients to test on; one clip's file runs from ES to ED."""
  root = tmp_path_factory.mktemp('foreign') / 'raw'
  write_camus(
    root,
    num_patients=5,
    seed=3,
    num_test=2,
    config=ellipses.Config(),
    generate=ellipses.generate,
    progress=False,
  )
  patient = camus.read_split(root, 'test')[0]
  folder = root / 'database_nifti' / patient
  for name in ('half_sequence', 'half_sequence_gt'):
    path = folder / f'{patient}_4CH_{name}.nii.gz'
    image = sitk.ReadImage(str(path))
    turned = sitk.GetImageFromArray(sitk.GetArrayFromImage(image)[::-1])
    turned.SetSpacing(image.GetSpacing())
    sitk.WriteImage(turned, str(path))
  cfg = folder / 'Info_4CH.cfg'
  text = cfg.read_text()
  ends = {key: re.search(rf'^{key}: (\d+)', text, re.M)[1] for key in ('ED', 'ES')}
  text = re.sub(r'^ED: .*', f'ED: {ends["ES"]}', text, flags=re.M)
  cfg.write_text(re.sub(r'^ES: .*', f'ES: {ends["ED"]}', text, flags=re.M))
  assert camus.read_clip(root, patient, '4CH').reversed_in_time
  return root


def clips_of(raw):
  return [(p, v) for p in camus.read_split(raw, 'test') for v in ('2CH', '4CH')]


def predict(raw, patient, view):
  """Wrong masks in the order of the raw file, and ED and ES in it."""
  clip = camus.read_clip(raw, patient, view)
  wrong = [
    np.roll(mask, (t % 3, 1 + len(patient) % 2), (0, 1)) for t, mask in enumerate(clip.masks)
  ]
  wrong = np.stack(wrong)
  if clip.reversed_in_time:
    last = len(wrong) - 1
    return wrong[::-1], last - clip.ed, last - clip.es
  return wrong, clip.ed, clip.es


def write(path, masks):
  if path.name.endswith('.nii.gz'):
    sitk.WriteImage(sitk.GetImageFromArray(masks), str(path))
  elif path.suffix == '.png':
    Image.fromarray(masks).save(path)
  else:
    np.savez_compressed(path, masks=masks)


def write_all(folder, raw, suffix='.npz', naming='whole', change=lambda masks: masks):
  """Writes the masks of every test clip; returns the folder."""
  folder.mkdir(exist_ok=True)
  for patient, view in clips_of(raw):
    masks, ed, es = predict(raw, patient, view)
    masks, stem = change(masks), f'{patient}_{view}'
    if naming == 'whole':
      write(folder / f'{stem}{suffix}', masks)
    elif naming == 'ends':
      write(folder / f'{stem}_ED{suffix}', masks[ed])
      write(folder / f'{stem}_ES{suffix}', masks[es])
    else:
      for t, mask in enumerate(masks):
        write(folder / f'{stem}_frame{t:02d}{suffix}', mask)
  return folder


def opened(folder, raw, protocol='camus_semi', split='test', **options):
  return open_foreign(folder, 'camus', raw, split, get_protocol(protocol), **options)


def scored(found, protocol='camus_semi', **options):
  options |= {'classes': found.classes, 'receipt': found.receipt, 'resamples': 50}
  return score_predictions(found.cases, get_protocol(protocol), **options)


def dice_by_hand(raw, label, whole):
  """Mean over frames, views and patients, at native size."""

  def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())

  by_patient = {}
  for patient, view in clips_of(raw):
    clip, (masks, *_) = camus.read_clip(raw, patient, view), predict(raw, patient, view)
    masks = masks[::-1] if clip.reversed_in_time else masks
    rows = np.rint(np.linspace(clip.ed, clip.es, 10)).astype(int)
    rows = rows if whole else [clip.ed, clip.es]
    scores = [dice(clip.masks[t] == label, masks[t] == label) for t in rows]
    by_patient.setdefault(patient, []).append(np.mean(scores))
  return np.mean([np.mean(v) for v in by_patient.values()])


def check_cases(found, raw, table=(0, 1, 2, 3)):
  """Compares every case, frame by frame, with what was written and with the reader's truth."""
  table = np.asarray(table, np.uint8)
  for case, (patient, view) in zip(found.cases, clips_of(raw), strict=True):
    clip, (masks, *_) = camus.read_clip(raw, patient, view), predict(raw, patient, view)
    masks = masks[::-1] if clip.reversed_in_time else masks
    rows = np.rint(np.linspace(clip.ed, clip.es, 10)).astype(int)
    rows = rows if len(case.truth) == 10 else [clip.ed, clip.es]
    assert (case.patient, case.view) == (patient, view)
    np.testing.assert_array_equal(case.truth, table[clip.masks[rows]])
    np.testing.assert_array_equal(case.prediction, table[masks[rows]])
    np.testing.assert_array_equal(case.frames, clip.frames[rows])
    np.testing.assert_allclose(case.spacing_mm, 3.08, rtol=1e-6)
    assert case.native_size == SIZE and case.ef_percent == clip.ef_percent
    assert case.ef_source == clip.ef_source


@pytest.mark.parametrize(
  'suffix,naming', [('.nii.gz', 'whole'), ('.npz', 'frames'), ('.png', 'ends'), ('.nii.gz', 'ends')]
)
def test_every_naming_and_format_gives_the_same_masks(raw, tmp_path, suffix, naming):
  found = opened(write_all(tmp_path / 'masks', raw, suffix, naming), raw)
  assert found.classes == ('lv', 'myo', 'la')
  check_cases(found, raw)
  assert bool(found.whole) == (naming == 'whole')
  frames = 2 if naming == 'ends' else 10
  assert {len(case.truth) for case in found.cases} == {frames}


@pytest.mark.slow
def test_scores_against_dice_by_hand(raw, tmp_path):
  found = opened(write_all(tmp_path / 'masks', raw), raw, 'camus_full')
  result = scored(found, 'camus_full', whole=found.whole).metrics
  assert result['n_patients'] == 2 and result['n_frames'] == 40 and result['unit'] == 'mm'
  for label, name in enumerate(found.classes, start=1):
    wanted = dice_by_hand(raw, label, whole=True)
    assert result['classes'][name]['dice']['mean'] == pytest.approx(wanted, abs=1e-9)
  assert 0.5 < result['classes']['lv']['dice']['mean'] < 0.99
  assert result['whole_clip']['n_clips'] == 4
  assert result['temporal']['area_roughness']['n'] == 2
  assert result['ef']['reference'] == ['dataset'] and result['ef']['n'] == 2
  found = opened(write_all(tmp_path / 'ends', raw, naming='ends'), raw)
  result = scored(found).metrics
  wanted = dice_by_hand(raw, 1, whole=False)
  assert result['classes']['lv']['dice']['mean'] == pytest.approx(wanted, abs=1e-9)
  assert result['n_frames'] == 8


def test_labels_by_flag_and_by_dataset_json(raw, tmp_path):
  def change(masks):
    return np.array([0, 9, 4, 0], np.uint8)[masks]

  folder = write_all(tmp_path / 'masks', raw, change=change)
  with pytest.raises(
    InputError, match=r'label values \[4, 9\], wanted 0, 1, 2, 3; .*--labels=lv=1'
  ):
    opened(folder, raw)
  found = opened(folder, raw, labels='lv=9,myo=4')
  assert found.classes == ('lv', 'myo') and found.receipt['labels'] == 'lv=9,myo=4'
  check_cases(found, raw, (0, 1, 2, 0))
  # As nnU-Net leaves it beside its masks, with its other files.
  (folder / 'dataset.json').write_text('{"labels": {"background": 0, "LV": 9, "Myocardium": 4}}')
  (folder / 'plans.json').write_text('{}')
  again = opened(folder, raw)
  assert again.classes == found.classes and again.receipt['labels'] == 'masks/dataset.json'
  check_cases(opened(folder, raw, classes='myo'), raw, (0, 0, 1, 0))


def test_squeezed_masks_are_enlarged(raw, tmp_path):
  folder = tmp_path / 'masks'
  write_all(folder, raw, change=lambda masks: squeeze_masks(masks, 32))
  with pytest.raises(
    InputError, match='masks of 32x32, wanted 40x48 as the raw clip.*--image_size'
  ):
    list(opened(folder, raw).cases)
  native = opened(write_all(tmp_path / 'native', raw), raw).cases
  for case, wanted in zip(opened(folder, raw, image_size=32).cases, native, strict=True):
    assert case.prediction.shape == wanted.prediction.shape
    for label in (1, 2, 3):
      a, b = (masks == label for masks in (case.prediction, wanted.prediction))
      assert 0.9 < 2 * (a & b).sum() / (a.sum() + b.sum()) < 1


def test_files_of_other_splits_are_left_alone(raw, tmp_path):
  folder = write_all(tmp_path / 'masks', raw)
  before = opened(folder, raw).receipt['predictions_sha256']
  other = camus.read_split(raw, 'train')[0]
  write(folder / f'{other}_2CH.npz', np.zeros((9, *SIZE), np.uint8))
  found = opened(folder, raw)
  assert len(found.cases) == 4 and found.receipt['predictions_sha256'] == before


def spoil(folder, raw, kind):
  """Makes one mistake; returns the text that must name it."""
  patient, view = clips_of(raw)[0]
  path, masks = folder / f'{patient}_{view}.npz', predict(raw, patient, view)[0]
  if kind == 'missing':
    path.unlink()
    return f'no masks for ED and ES of 1 of 4 clips .{path.stem}.*--allow_missing'
  if kind == 'stranger':
    write(folder / 'somebody_2CH.npz', masks)
    return 'somebody_2CH.npz: belongs to no clip.*patient'
  if kind == 'lossy':
    Image.fromarray(masks[0]).save(folder / f'{path.stem}.jpg')
    return 'jpg: belongs to no clip'
  if kind == 'twice':
    write(path.with_suffix('.nii.gz'), masks)
    return f'found {path.stem}.* too, of the same clip'
  if kind == 'both':
    write(folder / f'{path.stem}_ED.npz', masks[0])
    return 'too, of the same clip'
  if kind == 'size':
    write(path, masks[:, :30])
    return 'masks of 30x48, wanted 40x48'
  if kind == 'turned':
    write(path, masks.transpose(0, 2, 1).copy())
    return '48x40 .rows and columns are swapped., wanted 40x48'
  if kind == 'count':
    write(path, masks[:-1])
    return f'found {len(masks) - 1} masks, wanted {len(masks)}'
  if kind == 'value':
    write(path, masks + 5)
    return f'{path.name}: found the label values .5'
  if kind == 'probabilities':
    write(path, masks / 7)
    return 'whole numbers'
  if kind == 'empty':
    path.write_bytes(b'')
    return 'cannot be read'
  path.unlink()
  write(folder / f'{path.stem}_frame{99 if kind == "beyond" else 1}.npz', masks[0])
  if kind == 'beyond':
    return f'found a mask of frame 99, wanted 0 to {len(masks) - 1}'
  return 'no masks for ED and ES of 1 of 4'  # 'middle': neither ED nor ES.


@pytest.mark.parametrize(
  'kind',
  (
    'missing stranger lossy twice both size turned count value probabilities empty beyond middle'
  ).split(),
)
def test_a_misfit_is_one_clear_line(raw, tmp_path, kind):
  folder = write_all(tmp_path / 'masks', raw)
  said = spoil(folder, raw, kind)
  with pytest.raises(InputError, match=said) as error:
    list(opened(folder, raw).cases)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'options,said',
  [
    ({'protocol': 'echonet'}, "is of the dataset 'echonet'.*choose own"),
    ({'split': 'tests'}, "split: found 'tests'"),
    ({'split_scheme': 'memsam'}, 'choose another protocol'),
    ({'protocol': 'own', 'split_scheme': 'third'}, "found 'third', wanted one of"),
    ({'labels': 'lv=1,myo=2'}, r'label values \[3\], wanted 0, 1, 2'),
    ({'labels': 'lv'}, 'wanted names and values'),
    ({'classes': 'lv,aorta'}, "found .*'aorta'"),
    ({'labels': 'lv=1+2+3', 'classes': 'lv,la'}, 'the labels name no la'),
  ],
)
def test_options_that_do_not_fit(raw, tmp_path, options, said):
  folder = write_all(tmp_path / 'masks', raw)
  with pytest.raises(InputError, match=said):
    opened(folder, raw, **options)


def test_a_class_that_the_dataset_does_not_have(raw, tmp_path):
  for path in raw.rglob('*_gt.nii.gz'):
    target = tmp_path / 'raw' / path.relative_to(raw)
    target.parent.mkdir(parents=True, exist_ok=True)
    masks = sitk.ReadImage(str(path))
    changed = sitk.GetImageFromArray(
      np.where(sitk.GetArrayFromImage(masks) == 1, 1, 0).astype('u1')
    )
    changed.SetSpacing(masks.GetSpacing())
    sitk.WriteImage(changed, str(target))
  for path in (p for p in raw.rglob('*') if p.is_file() and '_gt' not in p.name):
    target = tmp_path / 'raw' / path.relative_to(raw)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
  folder = write_all(tmp_path / 'masks', raw)
  with pytest.raises(InputError, match='hold no myo, la in the first 4 clips.*--classes'):
    opened(folder, tmp_path / 'raw')
  assert opened(folder, tmp_path / 'raw', classes='lv').classes == ('lv',)


@pytest.mark.slow
def test_the_command_counts_what_is_missing_and_compares(raw, tmp_path, capsys):
  flags = ['evaluate', '--dataset=camus', f'--raw={raw}', '--skip_whole_clip']
  first, second = tmp_path / 'tool', tmp_path / 'other_tool'
  write_all(first, raw, naming='ends', suffix='.png')
  write_all(second, raw, change=lambda masks: np.roll(masks, 2, axis=2))
  gone = clips_of(raw)[-1]
  (second / '_'.join(gone)).with_suffix('.npz').unlink()
  found = opened(first, raw)
  write_result(scored(found), tmp_path / 'a')
  assert main([*flags, f'--predictions={second}', f'--out={tmp_path / "b"}']) == 2
  assert 'pass --allow_missing' in capsys.readouterr().err
  more = ['--allow_missing', f'--compare={tmp_path / "a"}']
  assert main([*flags, f'--predictions={second}', f'--out={tmp_path / "b"}', *more]) == 0
  printed = capsys.readouterr().out
  receipt = json.loads((tmp_path / 'b' / 'metrics.json').read_text())['receipt']
  assert receipt['n_missing'] == 1 and receipt['missing'] == [' '.join(gone)]
  assert receipt['model'] == 'foreign' and receipt['image_size'] == 'native'
  # A model that was evaluated on the prepared data can be compared.
  prepared = read_index(prepare('camus', raw, tmp_path / 'data', 32).path)
  shared = {'raw_fingerprint': 'fingerprint', 'dataset': 'dataset', 'split_scheme': 'split_scheme'}
  assert {a: receipt[a] for a in shared} == {a: prepared[b] for a, b in shared.items()}
  short = receipt['predictions_sha256'][:12]
  assert f'other_tool (sha256 {short}, 1 clips without masks left out), on camus test' in printed
  page = (tmp_path / 'b' / 'report' / 'index.html').read_text()
  assert f'1 clips have no masks and are left out ({" ".join(gone)})' in page
  comparison = json.loads((tmp_path / 'b' / 'comparison.json').read_text())
  row = next(r for r in comparison['rows'] if r['name'] == 'lv_dice')
  assert comparison['n_patients'] == 2 and row['better'] == 'second'
  assert math.isfinite(row['p_value'])


@pytest.mark.slow
def test_masks_of_another_tool_against_a_run(raw, tmp_path, capsys):
  """A network that knows nothing, on the prepared data."""
  prepare('camus', raw, tmp_path / 'data', 32)
  data = {'data_dir': str(tmp_path / 'data')}
  run = make_workdir(tmp_path / 'run', load_config('tiny', 'baseline', data=data))
  ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
  options = dict(whole_clip=False, report=False, resamples=50)
  evaluate(run, 'test', 'camus_semi', ours, **options)
  masks = write_all(tmp_path / 'masks', raw, naming='ends')
  flags = ['evaluate', f'--predictions={masks}', '--dataset=camus', f'--raw={raw}', '--classes=lv']
  assert main([*flags, f'--out={theirs}', f'--compare={ours}']) == 0
  assert 'training seeds n/a, 0' in capsys.readouterr().out
  comparison = json.loads((theirs / 'comparison.json').read_text())
  dice = comparison['rows'][0]
  assert dice['name'] == 'lv_dice' and dice['n'] == comparison['n_patients'] == 2
  assert dice['difference'] > 0.2
  # The other way round, from the same files.
  again = compare_runs(ours, theirs, resamples=50)['rows'][0]
  assert again['difference'] == -dice['difference'] and again['better'] == 'second'
  # Misfits are one line, with the remedy.
  with pytest.raises(InputError, match=r"\['lv', 'myo', 'la'\] and \['lv'\]; .*the same --classes"):
    write_result(scored(opened(masks, raw)), tmp_path / 'x')
    compare_runs(tmp_path / 'x', ours)
  assert main([*flags, f'--out={tmp_path / "y"}', f'--compare={run}']) == 2
  assert 'no metrics.json, wanted the folder of an evaluation' in capsys.readouterr().err
  assert not (tmp_path / 'y').exists()


def open_own(masks, raw):
  return open_foreign(masks, 'folder', raw, 'test', get_protocol('own'))


def test_nnunets_output_works_as_it_is(tmp_path):
  raw = folders.write_nnunet(tmp_path / 'Dataset501')
  output = tmp_path / 'output'
  shutil.copytree(raw / 'labelsTs', output)
  shutil.copy(raw / 'dataset.json', output)
  (output / 'predict_from_raw_data_args.json').write_text('{}')
  name = 'patient0003_4CH_ED'
  for ending in ('.npz', '.pkl'):  # Of --save_probabilities.
    (output / f'{name}{ending}').write_bytes(b'no masks')
  found = open_own(output, raw)
  assert found.classes == ('lv', 'myo') and found.receipt['labels'] == 'output/dataset.json'
  (case,) = found.cases
  assert (case.patient, case.view, len(case.truth)) == ('patient0003', '4CH', 2)
  np.testing.assert_array_equal(case.prediction, case.truth)
  assert set(np.unique(case.truth)) == {0, 1, 2}


def test_a_case_of_a_folder_goes_by_its_own_name(tmp_path):
  raw = folders.write_plain(tmp_path / 'raw')
  (raw / 'cases.csv').write_text(folders.CSV)
  frames, truth = folders.beat(8, seed=6)
  for name in ('p5', 'emil_PSAX', 'emil'):
    masks = tmp_path / name
    masks.mkdir()
    np.savez(masks / f'{name}.npz', masks=np.roll(truth, 1, axis=2))
    (case,) = open_own(masks, raw).cases
    rows = np.rint(np.linspace(1, 7, 10)).astype(int)
    np.testing.assert_array_equal(case.frames, frames[rows])
    np.testing.assert_array_equal(case.prediction, np.roll(truth, 1, axis=2)[rows])
    assert case.known.sum() == 2  # ED and ES alone carry a label.


@pytest.mark.parametrize(
  'flags,said',
  [
    (['--out=o'], 'either --workdir or --predictions'),
    (['--predictions=p', '--out=o'], 'wanted --dataset and --raw'),
    (['--workdir=w', '--protocol=own', '--out=o', '--raw=r'], '--raw and --dataset: wanted both'),
    (['--workdir=w', '--protocol=own', '--out=o', '--labels=lv=1'], '--labels: wanted with --pred'),
    (['--workdir=w', '--out=o'], 'required: --protocol'),
    (
      ['--predictions=p', '--dataset=d', '--raw=r', '--out=o', '--step=best'],
      '--step: wanted with --workdir',
    ),
  ],
)
def test_flags_that_do_not_go_together(flags, said, capsys):
  with pytest.raises(SystemExit):
    main(['evaluate', *flags])
  assert said in capsys.readouterr().err


def test_a_folder_that_is_not_there(raw, tmp_path):
  with pytest.raises(InputError, match='no such folder; wanted one that holds masks'):
    opened(pathlib.Path(tmp_path / 'none'), raw)
