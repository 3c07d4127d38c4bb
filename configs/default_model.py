"""EchoForge, lite, on endless domain-randomized phantoms: the default model.

  python -m echoforge_jax train --config=configs/default_model.py --workdir=RUN
  python -m echoforge_jax export --checkpoint=RUN --out=default_model.npz

Needs no data: every clip is a new phantom patient, drawn while training. Learns
from labels of all frames (the phantom has them), so that no teacher gives
labels; the averaged parameters are what is shipped.

Hardware:   two CPU cores
Run time:   measured: 88 min, shared with other programs; 2.1 steps a second
            while they rested
Dice (lv), 64 randomized clips held out, measured: 91.7 %; figures on other
            phantoms and a real clip: docs/default_model.md
"""

import dataclasses

from ml_collections import ConfigDict

from echoforge_jax.data.phantom_stream import StreamConfig
from echoforge_jax.data.transforms import AugmentConfig
from echoforge_jax.errors import InputError


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; there are no variants."""
  config = ConfigDict()

  # Seed of initialization, dropout, order of clips and augmentation.
  config.seed = 0
  # Labeled clips a step, over all devices.
  config.batch_size = 8
  # Clips without any label a step, over all devices; 0: the unlabeled frames
  # of labeled clips are what semi-supervision learns from, as in the paper.
  config.unlabeled_batch_size = 0
  # Parts of a batch that are computed one after the other, to save memory;
  # gradients are averaged before the update.
  config.grad_accum_steps = 1
  # Updates.
  config.num_steps = 7000
  # Compute dtype, 'float32' or 'bfloat16'; parameters and loss are float32.
  config.dtype = 'float32'
  # First weights: workdir of a run of the same model, such as one on the
  # phantom, or a file of published weights (docs/training.md); '': random
  # ones.
  config.init_from = ''
  # Devices to use; 0: all.
  config.num_devices = 0
  # Devices that share one copy of parameters, averages and optimizer state;
  # 1: every device holds them whole. It saves memory and costs traffic.
  config.fsdp = 1
  # Devices that a CPU is split into; accelerators are as they are. Two keep
  # both of two cores busy; batch_size must divide by it.
  config.cpu_devices = 2

  config.model = ConfigDict()
  # Architecture, a name of `models.build_model`.
  config.model.name = 'echoforge'
  # 'resnet18', 'resnet34', 'resnet50' or 'lite'.
  config.model.backbone = 'lite'
  # Norm of the backbone: 'batch', 'frozen' or 'group'. Batch norm gets as far
  # in 300 steps as group norm in 500.
  config.model.norm = 'batch'
  # ARC and TSF; CPR makes pseudo-labels, which nothing needs here.
  config.model.use_arc = True
  # As above.
  config.model.use_tsf = True
  # As above.
  config.model.use_cpr = False
  # Number of ARC anchors, 1 to 4 (paper: 2).
  config.model.anchors = 2
  # Frames whose semantic tokens TSF remembers (ours); one less than
  # num_frames, since more are never seen together in training.
  config.model.memory_frames = 3
  # Dropout in TSF's feed-forward layers (ours).
  config.model.dropout = 0.0
  # Recompute backbone blocks in the backward pass, to save memory.
  config.model.remat = False

  config.data = ConfigDict()
  # Clips are drawn by `phantom.stream`; nothing is read.
  config.data.dataset = 'phantom_stream'
  # How they are drawn and used, described in `phantom_stream.StreamConfig`.
  config.data.stream = ConfigDict(dataclasses.asdict(StreamConfig()))
  # Not used: there is no prepared data.
  config.data.data_dir = ''
  # Side of the squeezed frames in pixels.
  config.data.image_size = 128
  # Frames a clip, from ED to ES or of any part of one or two beats.
  config.data.num_frames = 4
  # Foreground classes, of 'lv', 'myo', 'la' (paper: lv).
  config.data.classes = ('lv',)
  # Every frame of a phantom is labeled.
  config.data.supervision = 'full'
  # Not used: no patient is listed, all are labeled.
  config.data.label_fraction = 1.0
  # Not used.
  config.data.label_seed = 0
  # Not used.
  config.data.split_scheme = 'official'
  # Clips are drawn and augmented in threads of the training process.
  config.data.num_workers = 0
  # Not used: drawn clips have a pool of their own.
  config.data.cache_mb = 0
  # Where views are drawn: 'host' (cv2, in threads and workers) or 'device'
  # (a program before the training step; other random numbers).
  config.data.augment_on = 'host'
  # Ranges of the augmentation, described in `data.transforms.AugmentConfig`.
  config.data.augmentation = ConfigDict(
    dataclasses.asdict(
      AugmentConfig(
        rotation_deg=15.0,
        scale=0.2,
        translation=0.08,
        reversal=0.5,
        elastic=0.02,
        strong_gamma=0.5,
        contrast=0.3,
        speckle=0.15,
        attenuation=0.4,
        haze=0.15,
        shadow=0.2,
        dropout=0.2,
      )
    )
  )

  config.optimizer = ConfigDict()
  # 'adam' or 'adamw'.
  config.optimizer.name = 'adamw'
  # Highest learning rate.
  config.optimizer.learning_rate = 3e-3
  # Exponent of the polynomial decay (paper: 0.9).
  config.optimizer.power = 0.9
  # Updates of linear warm-up.
  config.optimizer.warmup_steps = 50
  # AdamW's weight decay of kernels.
  config.optimizer.weight_decay = 1e-2
  # Largest global gradient norm; 0 does not clip.
  config.optimizer.clip_norm = 1.0

  config.objective = ConfigDict()
  # A name of `training.objectives.OBJECTIVES`; the fields below are its
  # settings.
  config.objective.name = 'supervised'
  # Weight of BCE + Dice on labeled frames.
  config.objective.supervised_weight = 1.0
  # Weight of the coarse masks' auxiliary loss (ours).
  config.objective.coarse_weight = 0.4

  config.semi = ConfigDict()
  # Decay of the averaged parameters in the long run (ours).
  config.semi.ema_decay = 0.998
  # Not used by the supervised objective.
  config.semi.flame_rise = ConfigDict()

  config.eval = ConfigDict()
  # Updates between validations; 0: none.
  config.eval.every = 1000
  # Validation clips; 0: all.
  config.eval.max_clips = 0
  # Clips a validation batch.
  config.eval.batch_size = 8
  # Keep the checkpoint with the best of this score ('dice_teacher') as well;
  # '': keep only the latest ones.
  config.eval.best_metric = 'dice_teacher'

  # Updates between lines of the log.
  config.log_every = 50
  # Updates between checkpoints.
  config.checkpoint_every = 500
  # How many of the latest checkpoints stay.
  config.keep_checkpoints = 2
  # Keep compiled programs in the workdir, for a faster start next time.
  config.compilation_cache = False
  if arg:
    raise InputError(f'config argument {arg!r}: there are no variants')
  return config.lock()
