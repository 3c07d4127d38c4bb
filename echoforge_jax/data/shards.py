"""Writes clips of a raw dataset into ArrayRecord files, a shard at a time.

A shard that is complete has a note in a journal, and is not written again.
"""

import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import shutil

from array_record.python.array_record_module import ArrayRecordWriter
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from echoforge_jax.clip import Clip, cut_to_ends
from echoforge_jax.data import datasets as raw
from echoforge_jax.data.prepared import VERSION, folder_name
from echoforge_jax.errors import InputError
from echoforge_jax.formats import resize
from echoforge_jax.textio import replacing, write_json

# One record per group: clips are read at random. One thread: same bytes always.
_WRITER_OPTIONS = 'group_size:1,max_parallelism:1'


def example_features(image_size: int) -> tfds.features.FeaturesDict:
  """Returns the features of one example: one clip on the squeezed grid.

  Frames and masks are stored as bytes and compressed by ArrayRecord (zstd): 0.2 MB and 0.6 ms per
  clip of 20 frames at 128 x 128, where the features' own zlib takes 2.1 ms.
  """
  tensor = tfds.features.Tensor
  side = image_size
  video = functools.partial(tensor, shape=(None, side, side), dtype=np.uint8, encoding='bytes')
  number = functools.partial(tensor, shape=(), dtype=np.float32)
  return tfds.features.FeaturesDict(
    {
      'patient': tfds.features.Text(),
      'view': tfds.features.Text(),
      'frames': video(),
      'masks': video(),
      'labeled': tensor(shape=(None,), dtype=np.bool_),
      'ed': tensor(shape=(), dtype=np.int32),
      'es': tensor(shape=(), dtype=np.int32),
      'spacing_mm': tensor(shape=(2,), dtype=np.float32),
      'native_size': tensor(shape=(2,), dtype=np.int32),
      'native_spacing_mm': tensor(shape=(2,), dtype=np.float32),
      'fps': number(),
      'quality': tfds.features.Text(),
      **{name: number() for name in ('ef_percent', 'edv_ml', 'esv_ml')},
    }
  )


def _example(clip: Clip, image_size: int) -> dict:
  """Returns the features of one clip, squeezed."""
  native = clip.frames.shape[1:]
  plain = ('patient', 'view', 'ed', 'es', 'fps', 'quality', 'ef_percent', 'edv_ml', 'esv_ml')
  return {name: getattr(clip, name) for name in plain} | {
    'frames': resize.squeeze_frames(clip.frames, image_size),
    'masks': resize.squeeze_masks(clip.masks, image_size),
    'labeled': np.asarray(clip.labeled, np.bool_),
    'spacing_mm': resize.squeezed_spacing(clip.spacing_mm, native, image_size),
    'native_size': np.asarray(native, np.int32),
    'native_spacing_mm': np.asarray(clip.spacing_mm, np.float32),
  }


def _serialize(clip: Clip, image_size: int) -> bytes:
  """Serializes as the features do it, but with the same bytes in every process."""
  features = example_features(image_size)
  serializer = ExampleSerializer(features.get_serialized_info())
  proto = serializer.get_tf_example(features.encode_example(_example(clip, image_size)))
  return proto.SerializeToString(deterministic=True)


@dataclasses.dataclass(frozen=True)
class Shard:
  """Clips (patient, view) of one split that go into one file, in order."""

  split: str
  name: str
  clips: list[tuple[str, str]]


def cut_into_shards(
  dataset: str, splits: dict[str, list[tuple[str, str]]], excluded: frozenset[str], size: int
) -> list[Shard]:
  """Cuts splits into shards of `size` listed clips, less those of `excluded` patients."""
  shards = []
  for split, clips in splits.items():
    count = -(-len(clips) // size)
    for k in range(count):
      name = f'{folder_name(dataset)}-{split}.array_record-{k:05d}-of-{count:05d}'
      mine = [clip for clip in clips[k * size : (k + 1) * size] if clip[0] not in excluded]
      shards.append(Shard(split, name, mine))
  return shards


@dataclasses.dataclass(frozen=True)
class ShardWriter:
  """Writes shards of a raw dataset into `folder`, and notes into `journal`."""

  reader: raw.Reader
  image_size: int
  folder: pathlib.Path
  journal: pathlib.Path

  def read(self, patient: str, view: str, split: str) -> tuple[bytes, dict]:
    """Returns one clip's serialized example and its entry of the index."""
    clip = raw.read_checked(self.reader, patient, view)
    if self.reader.whole_clips and split == 'train':
      clip = cut_to_ends(clip)
    source = {'ef_source': clip.ef_source} if clip.ef_source else {}
    return _serialize(clip, self.image_size), source | {
      'patient': patient,
      'view': view,
      'num_frames': len(clip.frames),
      'labeled': bool(clip.labeled[clip.ed] and clip.labeled[clip.es]),
    }

  def noted(self, shard: Shard, allow_skips: bool) -> dict | None:
    """Returns the note of a shard that an earlier run completed."""
    file = self.journal / f'{shard.name}.json'
    if not file.is_file():
      return None
    note = json.loads(file.read_text())
    same = note['asked'] == [list(clip) for clip in shard.clips]
    return note if same and (allow_skips or not note['skipped']) else None

  def write(self, shard: Shard, pool, bar) -> dict:
    """Writes one shard and its note; a bad clip does not stop the others."""
    note = {'asked': shard.clips, 'clips': [], 'skipped': []}
    futures = [pool.submit(self.read, patient, view, shard.split) for patient, view in shard.clips]
    with replacing(self.folder / shard.name) as temporary:
      writer = ArrayRecordWriter(os.fspath(temporary), _WRITER_OPTIONS)
      for (patient, view), future in zip(shard.clips, futures):
        try:
          data, entry = future.result()
          writer.write(data)
          note['clips'].append(entry)
        except InputError as error:
          note['skipped'].append(
            {'patient': patient, 'view': view, 'split': shard.split, 'reason': str(error)}
          )
        bar.update()
      writer.close()
      with open(temporary, 'rb') as file:
        os.fsync(file.fileno())  # The note appears after the contents.
    write_json(self.journal / f'{shard.name}.json', note)
    return note

  def run(self, shards: list[Shard], allow_skips: bool, bar) -> list[dict]:
    """Writes what is missing; returns the notes of all shards."""
    notes = []
    # Decompression and resizing release the interpreter's lock.
    pool = concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
      for shard in shards:
        note = self.noted(shard, allow_skips)
        if note:
          bar.update(len(shard.clips))
        notes.append(note or self.write(shard, pool, bar))
    finally:
      pool.shutdown(cancel_futures=True)
    return notes

  def finish(self, shards, notes, index: dict, path: pathlib.Path) -> None:
    """Adds the metadata, and gives the folder its name."""
    template = tfds.core.ShardedFileTemplate(
      data_dir=self.folder,
      dataset_name=folder_name(index['dataset']),
      filetype_suffix='array_record',
    )
    wanted, infos = set(), []
    for split, clips in index['clips'].items():
      if not clips:
        continue
      names = [shard.name for shard in shards if shard.split == split]
      lengths = [len(note['clips']) for s, note in zip(shards, notes) if s.split == split]
      size = sum((self.folder / name).stat().st_size for name in names)
      wanted.update(names)
      infos.append(
        tfds.core.SplitInfo(
          name=split, shard_lengths=lengths, num_bytes=size, filename_template=template
        )
      )
    for file in self.folder.iterdir():
      if file.name not in wanted:
        file.unlink()
    tfds.folder_dataset.write_metadata(
      data_dir=self.folder,
      features=example_features(self.image_size),
      split_infos=infos,
      filename_template=template,
      version=VERSION,
      check_data=False,
    )
    write_json(self.folder / 'metadata.json', index)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
      replaced = self.journal / 'replaced'
      shutil.rmtree(replaced, ignore_errors=True)
      path.rename(replaced)
    self.folder.rename(path)
