"""Batches: deterministic, restorable, sharded, and blind to hidden truth."""

import itertools

import grain
import numpy as np
import pytest

from echoforge_jax.clip import IGNORE, Clip
from echoforge_jax.data import pipeline, selection
from echoforge_jax.data.augment import AugmentConfig
from echoforge_jax.data.prepare import prepare
from echoforge_jax.data.prepared import load_split
from echoforge_jax.data.spec import DataSpec
from echoforge_jax.errors import InputError
from tests.readers import MadeUp

SIZE = 24
NUM_FRAMES = 5
SPLITS = {'train': 12, 'validation': 2, 'test': 2}
SPACING = np.array([0.5, 0.7], np.float32)


def make_clip(number, view):
  """Gray level 2 * number + (view is 4CH) + 1, plus 60 in the even frames."""
  length = 3 if number == 1 else 9
  frames = np.full((length, SIZE, SIZE), 2 * number + (view == '4CH') + 1, np.uint8)
  frames[::2] += 60
  masks = np.zeros_like(frames)
  for t, mask in enumerate(masks):
    mask[4:20, 4:20] = 2
    mask[8:18, 8 : 18 - t // 2] = 1
    mask[20:, 6:12] = 3
  labeled = np.ones(length, bool)
  if number == 0:  # A patient without labels at all.
    labeled[:], masks[:] = False, 0
  return Clip(
    patient=f'p{number:02d}',
    view=view,
    frames=frames,
    masks=masks,
    labeled=labeled,
    ed=0,
    es=length - 1,
    spacing_mm=SPACING,
    fps=50.0,
    quality='Poor',
    ef_percent=44.0,
  )


def clip_numbers(batch):
  """Returns which patient and view every clip of a batch is."""
  grays = batch['video'][:, :, 0, 0, 0] % 60 - 1
  assert (grays == grays[:, :1]).all()
  return grays[:, 0].tolist()


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  root = tmp_path_factory.mktemp('prepared')
  bounds = np.cumsum([0, *SPLITS.values()])

  def clips_of(split):
    at = list(SPLITS).index(split)
    return [
      (f'p{i:02d}', view) for i in range(bounds[at], bounds[at + 1]) for view in ('2CH', '4CH')
    ]

  def read_clip(patient, view):
    return make_clip(int(patient[1:]), view)

  prepare('camus', root, root / 'data', SIZE, reader=MadeUp(root, clips_of, read_clip))
  return root / 'data'


@pytest.fixture
def defaults(data_dir):
  return dict(
    data_dir=data_dir, dataset='camus', image_size=SIZE, num_frames=NUM_FRAMES, batch_size=4, seed=7
  )


OPTIONS = ('process_index', 'process_count', 'first_batch', 'num_threads')


def split_off(kwargs):
  """Returns the fields of a `DataSpec` and the options of a dataset."""
  options = {name: kwargs[name] for name in OPTIONS if name in kwargs}
  fields = {k: v for k, v in kwargs.items() if k not in OPTIONS}
  return DataSpec(**fields), {'num_threads': 0} | options


@pytest.fixture
def make(defaults):
  def make(**kwargs):
    spec, options = split_off(defaults | kwargs)
    return pipeline.make_train_dataset(spec, **options)

  return make


@pytest.fixture
def start(defaults):
  def start(**kwargs):
    spec, options = split_off(defaults | kwargs)
    return pipeline.make_train_iterator(spec, **options)

  return start


def take(dataset, count):
  return list(itertools.islice(iter(dataset), count))


def assert_same(batches, others):
  assert len(batches) == len(others) > 0
  for batch, other in zip(batches, others):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])


FULL = dict(
  augmentation=AugmentConfig(temporal_jitter=0.4), unlabeled_batch_size=2, label_fraction=0.5
)


@pytest.mark.parametrize('supervision, masks', [('sparse', 2), ('full', 5)])
def test_batch_is_what_the_contract_says(make, supervision, masks):
  batch = take(make(supervision=supervision, **FULL), 1)[0]
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    'video': ((6, 5, SIZE, SIZE, 1), np.uint8),
    'masks': ((6, masks, SIZE, SIZE), np.uint8),
    'labeled': ((6, 5), np.bool_),
    'spacing_mm': ((6, 2), np.float32),
    'seed': ((6,), np.uint32),
  }
  assert (batch['spacing_mm'] == SPACING).all()
  if supervision == 'full':
    return
  pair = [[True, False, False, False, True]] * 2
  assert batch['labeled'].tolist() == 2 * [*pair, [False] * 5]


def test_same_seed_and_step_give_the_same_batch(make):
  reference = take(make(**FULL), 9)
  assert_same(reference, take(make(**FULL), 9))
  assert_same(reference, take(make(num_threads=3, **FULL), 9))
  other = take(make(seed=8, **FULL), 9)
  assert not np.array_equal(reference[0]['video'], other[0]['video'])
  # No clip is drawn twice alike.
  seeds = np.concatenate([batch['seed'] for batch in reference + other])
  assert len(set(seeds.tolist())) == len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize('num_threads', [0, 2])
@pytest.mark.parametrize('extra', [{}, FULL])
def test_restores_at_every_state(make, extra, num_threads):
  dataset = make(**dict(extra, num_threads=num_threads))
  limited = grain.experimental.LimitIterDataset(dataset, 7)
  grain.experimental.assert_equal_output_after_checkpoint(limited)


def test_iterator_is_the_dataset_started(start, make):
  iterator = start()
  assert_same(take(make(), 3), [next(iterator) for _ in range(3)])
  assert_same(take(make(first_batch=5), 2), take(make(), 7)[5:])


@pytest.mark.parametrize('state', [{}, {'batches': -1}, {'batches': '3'}, 3, {'next_index': 3}])
def test_a_position_of_something_else_is_refused(start, state):
  with pytest.raises(InputError, match='position in the data: found'):
    start().set_state(state)


@pytest.mark.parametrize('process_count', [1, 2, 3])
def test_goes_on_with_another_number_of_processes(start, process_count):
  """One process reads four batches, then several share the rest."""
  kwargs = FULL | dict(batch_size=6, unlabeled_batch_size=6)
  whole = start(**kwargs)
  for _ in range(4):
    next(whole)
  parts = [
    start(**kwargs, process_index=index, process_count=process_count)
    for index in range(process_count)
  ]
  for part in parts:
    part.set_state(whole.get_state())
  for _ in range(5):
    batches = [next(part) for part in parts]
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert_same([next(whole)], [joined])
  assert {part.get_state()['batches'] for part in parts} == {9}


def test_epoch_holds_every_labeled_clip_once(make):
  # 11 of the 12 patients are labeled, 22 clips: two epochs are 11 batches.
  seen = [clip_numbers(batch) for batch in take(make(), 11)]
  order = sum(seen, [])
  assert sorted(order[:22]) == sorted(order[22:]) == list(range(2, 24))
  assert order[:22] != order[22:] != sorted(order[:22])


@pytest.mark.parametrize('process_count', [2, 3])
def test_shards_are_disjoint_and_complete(make, process_count):
  shards = [
    take(make(batch_size=2 * process_count, process_index=index, process_count=process_count), 22)
    for index in range(process_count)
  ]
  # The shards one behind the other are the batch of a single process.
  stream = take(make(batch_size=2 * process_count), 22)
  epoch = []
  for step, whole in enumerate(stream):
    parts = [clip_numbers(shard[step]) for shard in shards]
    assert sum(parts, []) == clip_numbers(whole)
    epoch += sum(parts, [])
  assert sorted(epoch[:22]) == list(range(2, 24))


def test_step_does_not_depend_on_the_number_of_processes(make):
  whole = take(make(batch_size=6, **FULL), 3)
  parts = [take(make(batch_size=6, process_index=i, process_count=2, **FULL), 3) for i in (0, 1)]
  for step in range(3):
    for name in whole[0]:
      np.testing.assert_array_equal(
        whole[step][name], np.concatenate([p[step][name] for p in parts])
      )


def test_splits_share_no_patient(data_dir):
  splits = [load_split(data_dir, 'camus', split) for split in SPLITS]
  patients = [{clip['patient'] for clip in split.clips} for split in splits]
  for one, other in itertools.combinations(patients, 2):
    assert not one & other
  stored = [{split[i]['patient'] for i in range(len(split))} for split in splits]
  assert stored == patients


def test_label_fraction_is_nested_and_by_patient(data_dir):
  source = load_split(data_dir, 'camus', 'train')
  before = set()
  for fraction, patients in [(0.05, 1), (0.25, 3), (0.5, 6), (1.0, 11)]:
    labeled, unlabeled = selection.divide_clips(source, fraction)
    assert sorted(labeled + unlabeled) == list(range(24))
    names = {source.clips[i]['patient'] for i in labeled}
    assert len(names) == patients and len(labeled) == 2 * patients
    assert 'p00' not in names  # It has no labels to use.
    assert before <= names
    before = names
  one, two = (selection.divide_clips(source, 0.25, seed)[0] for seed in (0, 1))
  assert one != two
  ranked = selection.rank_patients(['c', 'a', 'd', 'b', 'a'])
  assert ranked == selection.rank_patients(['a', 'b', 'c', 'd']) and sorted(ranked) == [*'abcd']


def test_labels_of_a_number_of_patients(data_dir):
  source = load_split(data_dir, 'camus', 'train')
  before = set()
  for count in (1, 4, 11):
    labeled, unlabeled = selection.divide_clips(source, labeled_patients=count)
    clips = [(source.clips[i]['patient'], source.clips[i]['view']) for i in labeled]
    names = {patient for patient, _ in clips}
    assert len(names) == count and before <= names and 'p00' not in names
    assert sorted(clips) == sorted((p, v) for p in names for v in ('2CH', '4CH'))
    assert sorted(labeled + unlabeled) == list(range(24))
    before = names
  # A share and the number that it comes to choose the same patients.
  assert selection.divide_clips(source, 0.25, 3) == selection.divide_clips(source, 1.0, 3, 3)
  with pytest.raises(InputError, match='holds labels of 11 patients, labeled_patients is 12'):
    selection.divide_clips(source, labeled_patients=12)


@pytest.mark.parametrize('count, frames', [(2, 2), (3, 7), (9, 4)])
def test_a_blind_window_knows_no_phase(count, frames):
  rng = np.random.default_rng(0)
  windows = np.array([selection.random_window(count, frames, rng) for _ in range(400)])
  assert windows.shape == (400, frames) and set(windows.ravel()) == set(range(count))
  first, last = windows[:, 0], windows[:, -1]
  assert 160 < (first < last).sum() < 240  # Time runs either way.
  steps = np.diff(windows, axis=1)
  assert (np.ptp(steps, axis=1) <= 1).all() and (steps * (last - first)[:, None] >= 0).all()
  if count > frames:
    assert set(abs(last - first)) == set(range(frames - 1, count))
    ends = np.sort([first, last], axis=0)
    assert {0, 1, 2} <= set(ends[0]) and {count - 1, count - 2} <= set(ends[1])
  else:
    assert (abs(last - first) == count - 1).all()


def test_labeled_and_unlabeled_clips_come_from_different_patients(make):
  kwargs = dict(label_fraction=0.5, unlabeled_batch_size=3, batch_size=2)
  labeled, unlabeled = set(), set()
  for batch in take(make(**kwargs), 30):
    for number, known in zip(clip_numbers(batch), batch['labeled'].any(1)):
      (labeled if known else unlabeled).add(number // 2)
  assert not labeled & unlabeled
  assert labeled | unlabeled == set(range(12))
  assert len(labeled) == 6


@pytest.mark.parametrize('supervision', ['sparse', 'full'])
def test_hidden_truth_never_leaks(make, supervision):
  for batch in take(make(supervision=supervision, num_frames=5, **FULL), 12):
    masks, labeled = batch['masks'], batch['labeled']
    known = np.array(2 * [True, True, False])
    assert not labeled[~known].any() and not masks[~known].any()
    assert set(np.unique(masks[known])) == {0, 1}
    assert (labeled[known] == (supervision == 'full') | np.eye(5, dtype=bool)[[0, 4]].any(0)).all()


def test_classes_are_numbered_as_asked(make, data_dir):
  truth = make_clip(5, '2CH').masks
  for classes in (('lv',), ('la', 'lv'), ('lv', 'myo', 'la')):
    for batch in take(make(classes=classes, supervision='full'), 6):
      # p01 is shorter than the sampling and is looked at below.
      for mask, number in zip(batch['masks'], clip_numbers(batch)):
        if number // 2 == 1:
          continue
        for id_, name in enumerate(classes, start=1):
          expected = truth[::2] == {'lv': 1, 'myo': 2, 'la': 3}[name]
          np.testing.assert_array_equal(mask == id_, expected)
        assert mask.max() == len(classes)


def test_short_clip_repeats_frames(make):
  np.testing.assert_array_equal(selection.frame_indices(0, 2, 10), [0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
  found = False
  for batch in take(make(num_frames=7, supervision='sparse'), 6):
    for clip in np.flatnonzero(np.array(clip_numbers(batch)) // 2 == 1):
      found = True
      bright = batch['video'][clip, :, 0, 0, 0] > 60
      assert bright.tolist() == [t != 1 for t in [0, 0, 1, 1, 1, 2, 2]]
      assert batch['labeled'][clip].tolist() == [1, 0, 0, 0, 0, 0, 1]
  assert found


def test_frame_indices():
  np.testing.assert_array_equal(selection.frame_indices(3, 17, 10), np.rint(np.linspace(3, 17, 10)))
  np.testing.assert_array_equal(
    selection.frame_indices(0, 17, 10, truncate=True), np.linspace(0, 17, 10).astype(int)
  )
  rng = np.random.default_rng(0)
  drawn = [selection.frame_indices(2, 40, 10, jitter=0.5, rng=rng) for _ in range(50)]
  assert all(rows[0] == 2 and rows[-1] == 40 for rows in drawn)
  assert all((np.diff(rows) >= 0).all() for rows in drawn)
  assert len({tuple(rows) for rows in drawn}) > 40


def test_a_batch_of_one_clip(make):
  (batch,) = take(make(batch_size=1), 1)
  assert batch['video'].shape[0] == 1


@pytest.mark.parametrize('supervision', ['sparse', 'full'])
def test_reversal_turns_frames_and_masks_together(make, supervision):
  forward, backward = (
    take(make(supervision=supervision, seed=3, augmentation=AugmentConfig(reversal=probability)), 3)
    for probability in (0.0, 1.0)
  )
  for one, other in zip(forward, backward):
    for name in ('video', 'masks', 'labeled'):
      np.testing.assert_array_equal(one[name], other[name][:, ::-1])
    cavity = (one['masks'] == 1).sum((2, 3))
    assert (cavity[:, 0] > cavity[:, -1]).any()


@pytest.mark.parametrize(
  'kwargs, words',
  [
    (dict(batch_size=23), '22 labeled clips, wanted at least 23'),
    (dict(process_count=30, batch_size=30), '22 labeled clips.*30 processes'),
    (dict(process_count=3, batch_size=4), 'batch_size is 4, which 3 processes'),
    (dict(label_fraction=0.1, batch_size=4), '2 labeled clips'),
    (dict(unlabeled_batch_size=3), '2 unlabeled clips'),
    (dict(label_fraction=0), 'label_fraction'),
    (dict(label_fraction=0.5, labeled_patients=3), 'labeled_patients 3 and label_fraction 0.5'),
    (dict(labeled_patients=-1), 'labeled_patients is -1'),
    (dict(labeled_patients=1, batch_size=4), '2 labeled clips'),
    (dict(unlabeled_window='whole'), "unlabeled_window: found 'whole'"),
    (dict(num_frames=1), 'num_frames'),
    (dict(supervision='weak'), 'supervision'),
    (dict(batch_size=0), 'batch_size'),
    (dict(process_index=2, process_count=2), 'process_index'),
    (dict(classes=('lv', 'rv')), 'classes'),
    (dict(classes='lv'), 'classes'),
    (dict(classes=('lv', 'lv')), 'classes'),
    (dict(classes=()), 'classes'),
    (dict(cache_mb=-1), 'cache_mb is -1; wanted at least 0'),
    (dict(image_size=32), 'echoforge prepare'),
  ],
)
def test_misuse_is_named_with_its_numbers(make, kwargs, words):
  with pytest.raises(InputError, match=words):
    make(**kwargs)


def eval_split(data_dir, split='test', sampler='linspace', **fields):
  common = dict(dataset='camus', image_size=SIZE, num_frames=NUM_FRAMES)
  spec = DataSpec(data_dir=data_dir, **common | fields)
  return pipeline.eval_clips(spec, split, sampler)


def test_evaluation_sees_all_truth(data_dir):
  clips = eval_split(data_dir, classes=('lv', 'la'))
  assert [(c['patient'], c['view']) for c in clips] == [
    ('p14', '2CH'),
    ('p14', '4CH'),
    ('p15', '2CH'),
    ('p15', '4CH'),
  ]
  assert len(clips) == len(list(clips)) == 4
  clip, raw_clip = clips[1], make_clip(14, '4CH')
  np.testing.assert_array_equal(clip['frames'], [0, 2, 4, 6, 8])
  np.testing.assert_array_equal(clip['video'][..., 0], raw_clip.frames[::2])
  expected = np.array([0, 1, 0, 2], np.uint8)[raw_clip.masks[::2]]
  np.testing.assert_array_equal(clip['masks'], expected)
  assert clip['labeled'].all() and (clip['ed'], clip['es']) == (0, 4)
  np.testing.assert_array_equal(clip['spacing_mm'], SPACING)
  assert clip['quality'] == 'Poor' and clip['ef_percent'] == 44
  assert np.isnan(clip['edv_ml']) and clip['fps'] == 50
  assert tuple(clip['native_size']) == (SIZE, SIZE)


def test_evaluation_samplers_and_missing_labels(data_dir):
  every = eval_split(data_dir, sampler='all')[0]
  assert every['video'].shape == (9, SIZE, SIZE, 1)
  assert (every['ed'], every['es']) == (0, 8)
  cut = eval_split(data_dir, sampler='truncate', num_frames=4)[0]
  np.testing.assert_array_equal(cut['frames'], [0, 2, 5, 8])
  unlabeled = eval_split(data_dir, split='train')[0]
  assert not unlabeled['labeled'].any()
  assert (unlabeled['masks'] == IGNORE).all()
  with pytest.raises(InputError, match='sampler'):
    eval_split(data_dir, sampler='random')
  with pytest.raises(InputError, match='num_frames'):
    eval_split(data_dir, num_frames=1)
