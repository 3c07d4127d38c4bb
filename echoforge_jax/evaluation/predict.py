"""Clips with what a trained model predicts for them, when they are read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from echoforge_jax import cpu
from echoforge_jax.evaluation.scoring import Case
from echoforge_jax.inference.segmenter import Segmenter

Clips = Sequence[Mapping[str, Any]]


def decide(logits: np.ndarray, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
  """Turns logits [..., K] into masks, uint8 [...], and a probability, float16 [...].

  A pixel belongs to the class k of the largest probability, as k + 1, where that is above the
  threshold; else it is 0. The probability is that of the first class.
  """
  best = (logits.argmax(axis=-1) + 1).astype(np.uint8)
  masks = np.where(logits.max(axis=-1) > special.logit(threshold), best, 0)
  likely = special.expit(logits[..., 0].astype(np.float32))
  return masks.astype(np.uint8), likely.astype(np.float16)


@functools.lru_cache(maxsize=1)
def _forward(model: nn.Module) -> Any:
  """Returns the compiled (variables, video) -> logits; of one model, whatever its weights, once."""

  @cpu.jit
  def forward(variables, video):
    video = video.astype(jnp.float32) / 255.0
    return model.apply(variables, video, train=False)['logits']

  return forward


class PredictedClips(Sequence):
  """Clips with their prediction; predicted anew at each access.

  Iterating predicts in batches of one shape and holds one batch at a time, so that a split of any
  size fits in memory. The model's `apply` gives 'logits' [B, T, S, S, K]; the clips are those of
  `data.pipeline.eval_clips`.
  """

  def __init__(
    self,
    model: nn.Module,
    variables: Any,
    clips: Clips,
    *,
    threshold: float = 0.5,
    batch_size: int = 4,
  ):
    """Predicts nothing yet."""
    self._variables, self._clips = variables, clips
    self._threshold, self._batch_size = threshold, batch_size
    self._forward = _forward(model)

  def __len__(self) -> int:
    return len(self._clips)

  def __iter__(self) -> Iterator[Case]:
    return self._predict(self._clips)

  def __getitem__(self, number: int) -> Case:
    return next(self._predict([self._clips[number]]))

  def _predict(self, clips: Iterable[Mapping[str, Any]]) -> Iterator[Case]:
    size = self._batch_size
    for _, alike in itertools.groupby(clips, lambda clip: np.shape(clip['video'])):
      while group := list(itertools.islice(alike, size)):
        video = np.stack([np.asarray(clip['video']) for clip in group])
        video = np.pad(video, [(0, size - len(group)), *[(0, 0)] * 4])
        logits = jax.device_get(self._forward(self._variables, video))
        for clip, one in zip(group, logits):  # The padding's are dropped here.
          yield make_case(clip, *decide(one, self._threshold))


class WholeClips:
  """Whole clips with their prediction, as `segment` and streams predict.

  Frames pass one after another with the memory carried on: no frame sees one later than the model's
  `delay`, and nothing knows of ED or ES. The clips are those of
  `data.pipeline.eval_clips(sampler='all')`.
  """

  def __init__(self, segmenter: Segmenter, clips: Clips, *, threshold: float = 0.5):
    """Predicts nothing yet."""
    self._segmenter, self._clips, self._threshold = segmenter, clips, threshold

  def __len__(self) -> int:
    return len(self._clips)

  def __iter__(self) -> Iterator[Case]:
    for clip in self._clips:
      fps = float(clip.get('fps', math.nan))
      frames = np.asarray(clip['video'])[..., 0]
      logits = self._segmenter.frame_loop(fps=fps).run(frames)
      masks, likely = zip(*(decide(one, self._threshold) for one in logits))
      case = make_case(clip, np.stack(masks), np.stack(likely))
      yield dataclasses.replace(case, ed=int(clip['ed']), es=int(clip['es']))


def make_case(
  clip: Mapping[str, Any], prediction: np.ndarray, probability: np.ndarray | None = None
) -> Case:
  """Makes a case from an evaluation clip and its predicted masks, uint8 [T, S, S]."""
  native = clip.get('native_size')
  numbers = ('ef_percent', 'edv_ml', 'esv_ml', 'fps')
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
    ef_source=str(clip.get('ef_source', '')),
    **{name: float(clip.get(name, math.nan)) for name in numbers},
  )
