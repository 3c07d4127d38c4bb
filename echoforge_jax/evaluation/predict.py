"""Predicts clips with a trained model: static shapes, one compilation."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from echoforge_jax import cpu
from echoforge_jax.evaluation.scoring import Case
from echoforge_jax.models.memory import stride_of

# Frames of a whole clip that are predicted at a time.
CHUNK = 8


def _decide(logits: Array, cut: float) -> tuple[Array, Array]:
  """Masks uint8 [...] and the first class's probability, float16 [...]."""
  best = jnp.argmax(logits, axis=-1).astype(jnp.uint8) + jnp.uint8(1)
  masks = jnp.where(jnp.max(logits, axis=-1) > cut, best, jnp.uint8(0))
  return masks, jax.nn.sigmoid(logits[..., 0].astype(jnp.float32)).astype(
    jnp.float16
  )


def _cut(threshold: float) -> float:
  return math.log(threshold / (1 - threshold))


def make_predictor(
  model: nn.Module, *, threshold: float = 0.5
) -> Callable[[Mapping[str, Any], Array], tuple[Array, Array]]:
  """Builds the jitted (variables, video) -> masks and probabilities.

  Args:
    model: its `apply` gives 'logits' [B, T, H, W, K], a sigmoid logit a class.
    threshold: a pixel belongs to the class of the largest probability where
      that is above the threshold.

  Returns:
    predict(variables, video uint8 [B, T, H, W, 1]) -> masks uint8
    [B, T, H, W] (0 background, k + 1 the k-th class) and the probability of
    the first class, float16 [B, T, H, W]. Of `cpu.jit`: not to
    be called inside of another jitted function.
  """
  cut = _cut(threshold)

  @cpu.jit
  def predict(variables, video):
    video = video.astype(jnp.float32) / 255.0
    logits = model.apply(variables, video, train=False)['logits']
    return _decide(logits, cut)

  return predict


class PredictedClips(Sequence):
  """Clips of a split with their prediction; predicted anew at each access.

  Iterating predicts in batches and holds one batch at a time, so that a split
  of any size fits in memory.
  """

  def __init__(
    self, predict, variables: Any, clips: Sequence, *, batch_size: int = 4
  ):
    """Predicts nothing yet.

    Args:
      predict: of `make_predictor`.
      variables: the model's variables.
      clips: of `data.pipeline.eval_clips`, all of one shape.
      batch_size: clips a batch.
    """
    self._predict = predict
    self._variables = variables
    self._clips = clips
    self._batch_size = batch_size

  def __len__(self) -> int:
    return len(self._clips)

  def __iter__(self) -> Iterator[Case]:
    return predict_clips(
      self._predict, self._variables, self._clips, batch_size=self._batch_size
    )

  def __getitem__(self, number: int) -> Case:
    return next(
      predict_clips(
        self._predict,
        self._variables,
        [self._clips[number]],
        batch_size=self._batch_size,
      )
    )


def predict_clips(
  predict: Callable[[Any, Array], tuple[Array, Array]],
  variables: Any,
  clips: Iterable[Mapping[str, Any]],
  *,
  batch_size: int = 4,
) -> Iterator[Case]:
  """Predicts clips in batches of one size; the last is padded.

  Args:
    predict: of `make_predictor`.
    variables: the model's variables.
    clips: as `data.pipeline.eval_clips` gives them, all of one shape: `video`
      uint8 [T, S, S, 1], `masks` uint8 [T, S, S], `labeled` bool [T],
      `patient`, `view`, `spacing_mm` and the rest of a clip's metadata.
    batch_size: clips a batch.

  Yields:
    One case a clip, in order.
  """
  clips = iter(clips)
  while group := list(itertools.islice(clips, batch_size)):
    video = np.stack([np.asarray(clip['video']) for clip in group])
    padding = [(0, batch_size - len(group))] + [(0, 0)] * 4
    masks, likely = jax.device_get(predict(variables, np.pad(video, padding)))
    # Only the real clips leave: the padding's masks are dropped here.
    for clip, *predicted in zip(group, masks, likely):
      yield make_case(clip, *predicted)


class WholeClips:
  """Whole clips with their prediction, of any length, compiled once.

  Frames pass in the order of time, a few at a time, with the memory carried
  on: no frame sees one later than the model's `delay`, and nothing knows of
  ED or ES. As in
  `inference`, frames that lie about as far apart as in training share a
  memory (`models.memory.stride_of`).
  """

  def __init__(
    self,
    model: nn.Module,
    variables: Any,
    clips: Sequence,
    *,
    threshold: float = 0.5,
  ):
    """Predicts nothing yet.

    Args:
      model: with `init_memory`, the method `resume` and its `delay`.
      variables: its variables.
      clips: of `data.pipeline.eval_clips(sampler='all')`.
      threshold: as in `make_predictor`.
    """
    self._variables = jax.device_put(variables, jax.local_devices()[0])
    self._clips = clips
    self._model = model
    cut = _cut(threshold)

    @cpu.jit
    def run(variables, video, memory):
      video = video.astype(jnp.float32)[None] / 255.0
      outputs, memory = model.apply(variables, video, memory, method='resume')
      return *_decide(outputs['logits'][0], cut), memory

    self._run = run

  def __len__(self) -> int:
    return len(self._clips)

  def __iter__(self) -> Iterator[Case]:
    for clip in self._clips:
      video = np.asarray(clip['video'])
      stride = stride_of(float(clip.get('fps', math.nan)))
      masks = np.zeros(video.shape[:3], np.uint8)
      likely = np.zeros(video.shape[:3], np.float16)
      for turn in range(stride):
        self._follow(video, np.arange(turn, len(video), stride), masks, likely)
      yield dataclasses.replace(
        make_case(clip, masks, likely), ed=int(clip['ed']), es=int(clip['es'])
      )

  def _follow(self, video, members, masks, likely) -> None:
    """Predicts the frames that share a memory, into `masks` and `likely`."""
    memory = self._model.init_memory(1, video.shape[1:3])
    # The last frame repeats until its own mask has come; owners are the frames
    # that the outputs belong to, -1 for none.
    lag = self._model.delay
    track = np.concatenate([members, np.repeat(members[-1:], lag)])
    owners = np.concatenate([np.full(lag, -1), members])
    for start in range(0, len(track), CHUNK):
      part = track[start : start + CHUNK]
      # The padding of the last part comes after all that counts.
      frames = np.pad(video[part], [(0, CHUNK - len(part))] + [(0, 0)] * 3)
      *found, memory = self._run(self._variables, frames, memory)
      owner = owners[start : start + len(part)]
      real = owner >= 0
      for kept, new in zip((masks, likely), jax.device_get(found)):
        kept[owner[real]] = new[: len(part)][real]


def make_case(
  clip: Mapping[str, Any],
  prediction: np.ndarray,
  probability: np.ndarray | None = None,
) -> Case:
  """A case from an evaluation clip and its predicted masks.

  Args:
    clip: as `data.pipeline.eval_clips` gives it.
    prediction: uint8 [T, S, S].
    probability: float16 [T, S, S] of the first class, or None.

  Returns:
    The case.
  """

  def number(name):
    return float(clip.get(name, math.nan))

  native = clip.get('native_size')
  return Case(
    patient=str(clip['patient']),
    view=str(clip['view']),
    truth=np.asarray(clip['masks']),
    prediction=np.asarray(prediction),
    spacing_mm=np.asarray(clip['spacing_mm'], np.float64),
    frames=np.asarray(clip['video'])[..., 0],
    labeled=np.asarray(clip['labeled'], bool),
    probability=probability,
    native_size=None if native is None else tuple(int(n) for n in native),
    quality=str(clip.get('quality', '')),
    ef_percent=number('ef_percent'),
    edv_ml=number('edv_ml'),
    esv_ml=number('esv_ml'),
    fps=number('fps'),
  )
