"""Predicts clips with a trained model: static shapes, one compilation."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from echoforge_jax.evaluation.scoring import Case


def make_predictor(model: nn.Module, *, threshold: float = 0.5
                   ) -> Callable[[Mapping[str, Any], Array], Array]:
  """Builds the jitted (variables, video) -> masks.

  Args:
    model: its `apply` gives 'logits' [B, T, H, W, K], a sigmoid logit a class.
    threshold: a pixel belongs to the class of the largest probability where
      that is above the threshold.

  Returns:
    predict(variables, video uint8 [B, T, H, W, 1]) -> uint8 [B, T, H, W],
    0 background, k + 1 the k-th class.
  """
  cut = math.log(threshold / (1 - threshold))

  @jax.jit
  def predict(variables, video):
    video = video.astype(jnp.float32) / 255.0
    logits = model.apply(variables, video, train=False)['logits']
    best = jnp.argmax(logits, axis=-1).astype(jnp.uint8) + jnp.uint8(1)
    return jnp.where(jnp.max(logits, axis=-1) > cut, best, jnp.uint8(0))

  return predict


def predict_clips(predict: Callable[[Any, Array], Array], variables: Any,
                  clips: Iterable[Mapping[str, Any]], *,
                  batch_size: int = 4) -> Iterator[Case]:
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
    masks = jax.device_get(predict(variables, np.pad(video, padding)))
    # Only the real clips leave: the padding's masks are dropped here.
    for clip, prediction in zip(group, masks[:len(group)]):
      yield make_case(clip, prediction)


def make_case(clip: Mapping[str, Any], prediction: np.ndarray) -> Case:
  """A case from an evaluation clip and its predicted masks.

  Args:
    clip: as `data.pipeline.eval_clips` gives it.
    prediction: uint8 [T, S, S].

  Returns:
    The case.
  """
  def number(name):
    return float(clip.get(name, math.nan))

  native = clip.get('native_size')
  return Case(
      patient=str(clip['patient']), view=str(clip['view']),
      truth=np.asarray(clip['masks']), prediction=np.asarray(prediction),
      spacing_mm=np.asarray(clip['spacing_mm'], np.float64),
      frames=np.asarray(clip['video'])[..., 0],
      labeled=np.asarray(clip['labeled'], bool),
      native_size=None if native is None else tuple(int(n) for n in native),
      quality=str(clip.get('quality', '')), ef_percent=number('ef_percent'),
      edv_ml=number('edv_ml'), esv_ml=number('esv_ml'), fps=number('fps'))
