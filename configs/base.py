"""Every field of a training config, once, with its meaning.

A config file calls `echoforge_jax.config.base_config(...)`, changes fields and returns the config
locked; it may live anywhere. Values without "(paper)" are this project's choices.
"""

import dataclasses

from ml_collections import ConfigDict

from echoforge_jax.data.augment import AugmentConfig
from echoforge_jax.errors import InputError
from echoforge_jax.training.variants import CONSISTENCY_WEIGHT


def get_config(model: str = 'echoforge', lite: bool = False) -> ConfigDict:
  """Returns the base config: EchoForge on CAMUS in the paper's setting.

  Args:
    model: 'echoforge' (''), or 'sscf', which has fields of its own.
    lite: a small model and short clips, for minutes on two CPU cores.

  Returns:
    The config, locked.

  Raises:
    InputError: for another model.
  """
  model = model or 'echoforge'
  if model not in MODELS:
    raise InputError(f'base config {model!r}: choose one of {", ".join(MODELS)}')
  config = ConfigDict()

  # Seed of initialization, dropout, order of clips and augmentation.
  config.seed = 0
  # Labeled clips per step, over all devices.
  config.batch_size = 4
  # Clips without any label per step, over all devices. 0: semi-supervision learns from the
  # unlabeled frames of labeled clips, as in the paper.
  config.unlabeled_batch_size = 0
  # Parts of a batch that are computed one after the other, to save memory; gradients are averaged
  # before the update.
  config.grad_accum_steps = 1
  # Length of training (paper: 50). In one epoch, batches hold as many clips, labeled and unlabeled,
  # as the prepared training split, however many of them are labeled.
  config.num_epochs = 50
  # Updates; overrides num_epochs. 0: training counts the clips that are there, and writes the
  # number of updates into the run's config.json. Programs that read no data (plan, cost, speed)
  # then assume 1000 clips.
  config.num_steps = 0
  # Compute dtype, 'float32' or 'bfloat16'; parameters and loss are float32.
  config.dtype = 'float32'
  # First weights: workdir of a run of the same model, such as one on the phantom, or a file of
  # published weights (docs/training.md); '': random ones (paper: ImageNet's).
  config.init_from = ''
  # Devices to use; 0: all.
  config.num_devices = 0
  # Devices that share one copy of parameters, averages and optimizer state; 1: every device holds
  # them whole. It saves memory and costs traffic.
  config.fsdp = 1
  # Devices that a CPU is split into; accelerators are as they are. Two keep both of two cores busy;
  # batch_size must divide by it.
  config.cpu_devices = 1

  config.model = MODELS[model]()
  config.data = _data()
  config.optimizer = _optimizer()
  config.objective = _objective()
  config.semi = _semi()
  config.eval = _evaluation()

  # Updates between lines of the log.
  config.log_every = 50
  # Updates between checkpoints.
  config.checkpoint_every = 1000
  # How many of the latest checkpoints stay.
  config.keep_checkpoints = 2
  # Keep compiled programs in the workdir, for a faster start next time.
  config.compilation_cache = False

  if model == 'sscf':
    _learn_by_consistency(config)
  if lite:
    _make_lite(config)
  return config.lock()


def _echoforge() -> ConfigDict:
  model = ConfigDict()
  # Architecture, a name of `models.build_model`.
  model.name = 'echoforge'
  # 'resnet10', 'resnet18', 'resnet34', 'resnet50' (paper) or 'lite' (with it, change dim,
  # decoder_dim and num_queries as the lite configs do), or 'module.path:Name' of your own.
  model.backbone = 'resnet50'
  # Norm of the backbone: 'batch', 'frozen' or 'group'.
  model.norm = 'batch'
  # Channels of a token.
  model.dim = 256
  # Channels of the decoder, at stride 4.
  model.decoder_dim = 64
  # ARC; without it a 1x1 convolution gives coarse masks.
  model.use_arc = True
  # TSF; without it frames are independent.
  model.use_tsf = True
  # CPR, which makes pseudo-labels.
  model.use_cpr = True
  # Number of ARC anchors, 1 to 4 (paper: 2).
  model.anchors = 2
  # Nearest pixels that update an anchor, K of ARC's KNN.
  model.neighbours = 32
  # Search of these: 'exact' or 'approx'.
  model.knn = 'exact'
  # Side of ARC's patches in tokens.
  model.patch = 2
  # Half the width of ARC's ambiguous band around 0.5 (paper: 0.1).
  model.band = 0.1
  # Largest weight of ARC's interpolation towards an anchor.
  model.pull = 0.5
  # How it depends on the confidence: 'rising' from 0 to the band's edge, then none; or 'falling'
  # from the middle of the band to 0 at its edge, towards the mean of the anchors.
  model.pull_shape = 'rising'
  # Below this the learned temperature of ARC's similarities does not fall.
  model.least_temperature = 0.0
  # Frames whose semantic tokens TSF remembers.
  model.memory_frames = 4
  # Learned queries of TSF.
  model.num_queries = 16
  # Heads of TSF's attentions; must divide dim.
  model.heads = 4
  # Dropout in TSF's feed-forward layers.
  model.dropout = 0.0
  # Recompute backbone blocks in the backward pass, to save memory.
  model.remat = False
  return model


def _sscf() -> ConfigDict:
  model = ConfigDict()
  # Architecture, a name of `models.build_model`.
  model.name = 'sscf'
  # Every frame of a clip is a target, its neighbours those in the clip.
  model.clips = True
  # Each encoder: 'resnet10', 'resnet18' (paper) or 'resnet34'.
  model.backbone = 'resnet18'
  # Channels at stride 2, doubled at each further level (paper: 64).
  model.width = 64
  # Norm: 'batch' (paper), 'frozen' or 'group'.
  model.norm = 'batch'
  # Recompute blocks in the backward pass, to save memory.
  model.remat = False
  return model


MODELS = {'echoforge': _echoforge, 'sscf': _sscf}


def _data() -> ConfigDict:
  data = ConfigDict()
  # Dataset, as given to `prepare`: 'camus', 'echonet', or 'module.path:Name' of your own.
  data.dataset = 'camus'
  # Folder of the prepared data, as given to `prepare`.
  data.data_dir = 'data'
  # Side of the squeezed frames in pixels (paper: 256).
  data.image_size = 256
  # Frames per clip, sampled uniformly from ED to ES (paper: 10).
  data.num_frames = 10
  # Foreground classes, of 'lv', 'myo', 'la' (paper: lv).
  data.classes = ('lv',)
  # 'sparse': only ED and ES are labeled (CAMUS-Semi); 'full': every frame.
  data.supervision = 'sparse'
  # Which split files decide: 'official' (400/50/50) or 'memsam'.
  data.split_scheme = 'official'
  # Share of the patients whose labels are used, in all of their views. The clips of the others come
  # with unlabeled_batch_size; without, training does not use them, and says so.
  data.label_fraction = 1.0
  # Number of these patients, in place of a share; 0 leaves the share.
  data.labeled_patients = 0
  # Another number chooses other patients.
  data.label_seed = 0
  # Frames of clips without labels: 'ed_es', sampled from ED to ES, which somebody had to find; or
  # 'blind', a window of random phase, length and direction of the clip as it was prepared, which
  # knows neither. What a clip tells by where it begins and ends stays: see docs/training.md.
  data.unlabeled_window = 'ed_es'
  # Memory for clips that were read, in MB; 0: every clip is read anew.
  data.cache_mb = 1000
  # Ranges of the augmentation, described at `AugmentConfig`.
  data.augmentation = ConfigDict(dataclasses.asdict(AugmentConfig()))
  return data


def _optimizer() -> ConfigDict:
  optimizer = ConfigDict()
  # 'adam' (paper) or 'adamw'.
  optimizer.name = 'adam'
  # Highest learning rate (paper: 1e-4).
  optimizer.learning_rate = 1e-4
  # Exponent of the polynomial decay (paper: 0.9).
  optimizer.power = 0.9
  # Updates of linear warm-up (paper: none).
  optimizer.warmup_steps = 0
  # AdamW's weight decay of kernels; 0 with adam.
  optimizer.weight_decay = 0.0
  # Largest global gradient norm; 0 does not clip.
  optimizer.clip_norm = 1.0
  return optimizer


def _objective() -> ConfigDict:
  objective = ConfigDict()
  # A file of training/objectives, or 'module.path:function' of your own; the fields
  # below are its settings.
  objective.name = 'echoforge'
  # Weight of BCE + Dice on labeled frames.
  objective.supervised_weight = 1.0
  # Weight of the coarse masks' auxiliary loss.
  objective.coarse_weight = 0.4
  # Weight of the episodic CPR loss.
  objective.episodic_weight = 0.4
  # Pseudo-labels: 'paper' (CPR), 'none' (the teacher's own masks) or 'pose' (ours).
  objective.cpr = 'paper'
  # This and the next two are of 'pose' alone. Labeled hearts in whose pose a clip is seen.
  objective.references = 2
  # How steeply a clip's weight rises with the Dice that it expects; 0: all weigh the same.
  objective.gate = 2.0
  # Share of the clips that get a box of another.
  objective.mixed = 0.0
  return objective


def _semi() -> ConfigDict:
  semi = ConfigDict()
  # Decay of the mean teacher in the long run.
  semi.ema_decay = 0.996
  semi.flame_rise = ConfigDict()
  # How lambda rises: 'linear' (paper) or 'gaussian', exp(-5 (1 - r)^2).
  semi.flame_rise.shape = 'linear'
  # E0 as a share of training.
  semi.flame_rise.start = 0.1
  # E1 as a share of training.
  semi.flame_rise.end = 0.6
  # lambda_max.
  semi.flame_rise.weight_max = 1.0
  # tau_0, the confidence that a pseudo-label needs at first.
  semi.flame_rise.threshold_start = 0.95
  # tau_1, the confidence that it needs from E1 on.
  semi.flame_rise.threshold_end = 0.75
  return semi


def _evaluation() -> ConfigDict:
  evaluation = ConfigDict()
  # Updates between validations; 0: none.
  evaluation.every = 1000
  # Validation clips; 0: all.
  evaluation.max_clips = 0
  # Clips per validation batch.
  evaluation.batch_size = 4
  # Keep the checkpoint with the best of this score ('dice_teacher') as well; '': keep only the
  # latest ones.
  evaluation.best_metric = 'dice_teacher'
  return evaluation


def _learn_by_consistency(config: ConfigDict) -> None:
  """Replaces EchoForge's objective by the mean teacher's consistency."""
  config.objective = ConfigDict(
    {'name': 'mean_teacher', 'supervised_weight': config.objective.supervised_weight}
  )
  # The ramp of the consistency's weight; it knows no thresholds.
  rise = config.semi.flame_rise
  rise.update(shape='gaussian', start=0.0, weight_max=CONSISTENCY_WEIGHT)
  del rise.threshold_start, rise.threshold_end


def _make_lite(config: ConfigDict) -> None:
  """Makes training a matter of minutes on two CPU cores."""
  config.cpu_devices = 2
  if config.model.name == 'echoforge':
    config.model.backbone = 'lite'
    config.model.update(dim=64, decoder_dim=32, num_queries=8)
    # One less than num_frames: more are never seen together in training.
    config.model.memory_frames = 3
  else:
    config.model.width = 16
  config.data.image_size = 128
  # Fewer frames are more labels per second, and the jitter shows every frame in the end; the
  # protocols score 10.
  config.data.num_frames = 4
  # Milder than the defaults, which ask for longer training.
  config.data.augmentation.update(
    temporal_jitter=0.5,
    reversal=0.5,
    elastic=0.02,
    strong_gamma=0.4,
    contrast=0.25,
    speckle=0.15,
    attenuation=0.25,
    haze=0.1,
    shadow=0.15,
    dropout=0.15,
  )
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 3e-3
  config.optimizer.warmup_steps = 50
  config.optimizer.weight_decay = 1e-2
  config.semi.ema_decay = 0.99
  config.eval.max_clips = 12
  config.log_every = 20
