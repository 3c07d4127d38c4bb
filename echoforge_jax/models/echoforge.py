"""EchoForge: encoder -> ARC -> TSF -> masks, and CPR in training."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from echoforge_jax.errors import InputError
from echoforge_jax.models.arc import KNN, LAYOUTS, PULLS, AnchorRecalibration
from echoforge_jax.models.backbone import BACKBONES, check_maps, make_backbone
from echoforge_jax.models.cpr import PseudoLabelReforging, reference_features
from echoforge_jax.models.decoder import Decoder
from echoforge_jax.models.layers import NORMS, Dtype
from echoforge_jax.models.memory import TokenMemory
from echoforge_jax.models.neck import Neck
from echoforge_jax.models.options import make_checked
from echoforge_jax.models.tsf import TemporalSemanticFusion

# Mean and deviation of ImageNet's gray levels, which pretrained stems expect.
GRAY_MEAN, GRAY_STD = 0.449, 0.226


def log_odds(scores: jax.Array) -> jax.Array:
  """Maps log-scores float32 [..., K + 1], background first, to logits [..., K].

  The sigmoid of the logits is the softmax of the scores, less background.
  """
  columns = []
  for k in range(1, scores.shape[-1]):
    others = jnp.concatenate([scores[..., :k], scores[..., k + 1 :]], -1)
    columns.append(scores[..., k] - jax.nn.logsumexp(others, axis=-1))
  return jnp.stack(columns, -1)


def _take_frames(x: jax.Array, frames: jax.Array) -> jax.Array:
  """Takes frames [B, F] of x [B, T, ...]."""
  index = frames.reshape(frames.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, index, axis=1)


class EchoForge(nn.Module):
  """Echocardiography video segmentation (CVPR 2026), see docs/method.md.

  Parameters and logits are float32.
  """

  num_classes: int = 1  # K foreground classes, one sigmoid logit each.
  backbone: str = 'resnet50'  # As `make_backbone` takes it.
  norm: str = 'batch'  # Of the backbone, one of `NORMS`.
  dim: int = 256  # C, channels of a token.
  decoder_dim: int = 64  # Channels at stride 4.
  use_arc: bool = True  # Without it a 1x1 head gives coarse masks.
  use_tsf: bool = True  # Without it frames are independent.
  use_cpr: bool = True  # Reforges when asked for with `reforge=True`.
  # Of ARC, see `AnchorRecalibration`.
  anchors: int = 2
  neighbours: int = 32
  knn: str = 'exact'
  patch: int = 2
  band: float = 0.1
  pull: float = 0.5
  pull_shape: str = 'rising'
  least_temperature: float = 0.0
  memory_frames: int = 4  # M, frames whose tokens are remembered (ours).
  num_queries: int = 16  # Learned queries of TSF.
  heads: int = 4  # Of TSF's attentions; must divide `dim`.
  dropout: float = 0.0  # In TSF's FFNs.
  remat: bool = False  # Recomputes backbone blocks in the backward pass.
  dtype: Dtype = jnp.float32

  def setup(self):
    """Makes the parts that are switched on."""
    self.encoder = make_backbone(
      self.backbone, norm=self.norm, remat=self.remat, dtype=self.dtype, name='backbone'
    )
    self.neck = Neck(self.dim, self.decoder_dim, self.dtype)
    if self.use_arc:
      names = (
        'num_classes anchors neighbours patch band pull pull_shape least_temperature knn dtype'
      )
      self.arc = AnchorRecalibration(**{name: getattr(self, name) for name in names.split()})
    elif self.use_tsf:
      self.coarse_head = nn.Dense(self.num_classes + 1, dtype=jnp.float32)
    if self.use_tsf:
      self.tsf = TemporalSemanticFusion(self.num_queries, self.heads, self.dropout, self.dtype)
    if self.use_cpr:
      self.cpr = PseudoLabelReforging(dtype=self.dtype)
    self.decoder = Decoder(self.num_classes, self.decoder_dim, self.dtype)

  @property
  def delay(self) -> int:
    """Frames that the outputs of `resume` and `step` lag behind."""
    return 0

  @nn.nowrap
  def init_memory(self, batch: int, image_size: tuple[int, int]) -> TokenMemory:
    """Returns the memory of `batch` streams before their first frame."""
    del image_size  # Other models' memories hold frames.
    return TokenMemory.empty(batch, self.memory_frames, self.num_classes + 1, self.dim)

  def _trunk(
    self, video: jax.Array, memory: TokenMemory, train: bool
  ) -> tuple[dict[str, jax.Array], jax.Array, TokenMemory]:
    """Runs all up to the decoder: outputs, skip and memory afterwards."""
    b, t, h, w, channels = video.shape
    if h % 32 or w % 32 or channels != 1:
      raise InputError(
        f'video: found frames of {h}x{w}x{channels}, wanted one channel and '
        f'sides that are multiples of 32; resize or pad the frames'
      )
    # One leading dimension for the convolutions; clips again for TSF.
    frames = video.reshape(b * t, h, w, 1).astype(jnp.float32)
    frames = ((frames - GRAY_MEAN) / GRAY_STD).astype(self.dtype)
    maps = self.encoder(frames, train)
    check_maps(maps, frames, self.backbone)
    x, skip = self.neck(maps)

    def clips(v):
      return v.reshape(b, t, *v.shape[1:])

    outputs = {}
    if self.use_arc:
      x, scores, _, ambiguous = self.arc(x)
      outputs['ambiguous'] = clips(ambiguous.astype(jnp.float32).mean((1, 2)))
    elif self.use_tsf:
      scores = self.coarse_head(x)
    if self.use_arc or self.use_tsf:
      outputs['coarse_logits'] = clips(log_odds(scores))
    x = clips(x)
    if self.use_tsf:
      x, memory = self.tsf(x, clips(jax.nn.softmax(scores)), memory, train)
    outputs['features'] = x
    return outputs, clips(skip), memory

  def _decode(self, features: jax.Array, skip: jax.Array) -> jax.Array:
    """Decodes [B, F, h, w, C] with skips [B, F, 2h, 2w, D] to logits."""
    logits = self.decoder(*(x.reshape(-1, *x.shape[2:]) for x in (features, skip)))
    return logits.reshape(*features.shape[:2], *logits.shape[1:])

  def _reforge(self, features: jax.Array, labeled: jax.Array, frames: jax.Array) -> jax.Array:
    """Returns F_hat [B, F, h, w, C] of the frames [B, F]."""
    h, w, c = features.shape[2:]
    reference, found = reference_features(features, labeled, frames)
    target = _take_frames(features, frames)
    reforged = self.cpr(*(x.reshape(-1, h * w, c) for x in (reference, target)))
    return jnp.where(found[..., None, None, None], reforged.reshape(target.shape), target)

  def __call__(
    self,
    video: jax.Array,
    train: bool = False,
    labeled: jax.Array | None = None,
    reforge: bool = False,
    reforge_frames: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Segments clips; frame t depends on frames up to t only.

    Args:
      video: float [B, T, H, W, 1] in [0, 1]; H and W multiples of 32.
      train: batch norm uses the batch's statistics, dropout is active.
      labeled: bool [B, T], needed by `reforge`: frames that CPR may use as F^L (never as their
        own).
      reforge: whether to run CPR as well.
      reforge_frames: int [B, F], the frames to reforge; all T if None.

    Returns:
      logits: float32 [B, T, H, W, K];
      coarse_logits: float32 [B, T, h, w, K] at stride 8, of ARC's anchors or of the 1x1 head
        (absent without ARC and TSF);
      ambiguous: float32 [B, T], the share of patches that ARC altered (with ARC only);
      features: [B, T, h, w, C], what the decoder and CPR see;
      reforged_logits: float32 [B, T or F, H, W, K], with `reforge` only.
    """
    b, t, h, w, _ = video.shape
    outputs, skip, _ = self._trunk(video, self.init_memory(b, (h, w)), train)
    outputs['logits'] = self._decode(outputs['features'], skip)
    if self.use_cpr and self.is_initializing():
      reforge, labeled = True, jnp.ones((b, t), bool)
    if not reforge:
      return outputs
    if not self.use_cpr:
      raise InputError(
        'model call: found reforge=True with use_cpr=False; set use_cpr=True or leave reforging out'
      )
    if labeled is None:
      raise InputError('model call: found reforge=True without labeled, wanted bool [B, T]')
    if reforge_frames is None:
      reforge_frames = jnp.broadcast_to(jnp.arange(t)[None], (b, t))
    else:
      skip = _take_frames(skip, reforge_frames)
    reforged = self._reforge(outputs['features'], labeled, reforge_frames)
    outputs['reforged_logits'] = self._decode(reforged, skip)
    return outputs

  def resume(
    self, video: jax.Array, memory: TokenMemory
  ) -> tuple[dict[str, jax.Array], TokenMemory]:
    """Segments the next frames of B streams; equals the whole clip's result.

    Args:
      video: float [B, T, H, W, 1] in [0, 1].
      memory: of `init_memory` or of the call before.

    Returns:
      The outputs of `__call__`, and the memory for the frames that follow.
    """
    outputs, skip, memory = self._trunk(video, memory, False)
    outputs['logits'] = self._decode(outputs['features'], skip)
    return outputs, memory

  def step(self, frame: jax.Array, memory: TokenMemory) -> tuple[dict[str, jax.Array], TokenMemory]:
    """Resumes with one frame [B, H, W, 1]; outputs lack the time axis."""
    outputs, memory = self.resume(frame[:, None], memory)
    return {k: v[:, 0] for k, v in outputs.items()}, memory


# Options that follow from the small encoder unless they are given.
LITE = {'norm': 'group', 'dim': 64, 'decoder_dim': 32, 'num_queries': 8}
CHOICES = {'backbone': BACKBONES, 'norm': NORMS, 'anchors': tuple(LAYOUTS), 'knn': KNN}
CHOICES['pull_shape'] = PULLS
# Least and largest value of numbers, both allowed.
RANGES = {
  **dict.fromkeys(('num_classes', 'decoder_dim', 'neighbours', 'patch', 'heads'), (1, None)),
  'dim': (4, None),
  'band': (0.01, 0.5),
  'pull': (0.0, 1.0),
  'least_temperature': (0.0, None),
  'memory_frames': (0, None),
  'dropout': (0.0, 0.99),
}


def make_echoforge(**options: Any) -> EchoForge:
  """Builds EchoForge from its fields, with the defaults that suit its backbone."""
  if options.get('backbone') == 'lite':
    options = LITE | options
  choices = dict(CHOICES)
  if ':' in str(options.get('backbone')):
    del choices['backbone']
  model = make_checked('echoforge', EchoForge, options, choices, RANGES)
  if model.dim % model.heads:
    raise InputError(
      f'model option heads: found {model.heads}, wanted a divisor of dim, {model.dim}'
    )
  if model.num_queries <= model.num_classes:
    raise InputError(
      f'model option num_queries: found {model.num_queries}, wanted at '
      f'least {model.num_classes + 1}, one for background and each class'
    )
  return model
