"""EchoForge on CAMUS in the paper's setting: ED and ES labeled, class lv.

One difference: the paper starts from ImageNet weights, this config from random
ones. --config.init_from=resnet50.safetensors, a file of torchvision's or timm's
weights, starts as the paper does.

  python -m echoforge_jax prepare --dataset=camus --raw=DIR --data_dir=DATA \\
      --image_size=256
  python -m echoforge_jax train --config=configs/camus_echoforge.py \\
      --workdir=RUN --config.data.data_dir=DATA

Variants, the rows of the paper's ablation: append :baseline, :tsf, :tsf_arc or
:all to the config's name (default :all).

Hardware:   one GPU; memory measured: 13.7 GB for 16 clips in bfloat16
Run time:   measured:
Dice (lv), camus_semi, official test split:   measured:
"""

import dataclasses

from ml_collections import ConfigDict

from echoforge_jax.data.transforms import AugmentConfig
from echoforge_jax.training.variants import apply_variant

# Clips of the official training split: 400 patients, two views each.
TRAIN_CLIPS = 800


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the ablation."""
  config = ConfigDict()

  # Seed of initialization, dropout, order of clips and augmentation.
  config.seed = 0
  # Labeled clips a step, over all devices (ours).
  config.batch_size = 4
  # Clips without any label a step, over all devices; 0: the unlabeled frames
  # of labeled clips are what semi-supervision learns from, as in the paper.
  config.unlabeled_batch_size = 0
  # Parts of a batch that are computed one after the other, to save memory;
  # gradients are averaged before the update.
  config.grad_accum_steps = 1
  # Updates: 50 epochs (paper) of batches of this size. It does not follow a
  # batch size that is set on the command line.
  config.num_steps = 50 * TRAIN_CLIPS // config.batch_size
  # Compute dtype, 'float32' or 'bfloat16'; parameters and loss are float32.
  config.dtype = 'float32'
  # First weights: workdir of a run of the same model, such as one on the
  # phantom, or a file of published weights (docs/training.md); '': random
  # ones (paper: ImageNet's).
  config.init_from = ''
  # Devices to use; 0: all.
  config.num_devices = 0
  # Devices that share one copy of parameters, averages and optimizer state;
  # 1: every device holds them whole. It saves memory and costs traffic.
  config.fsdp = 1
  # Devices that a CPU is split into; accelerators are as they are.
  config.cpu_devices = 1

  config.model = ConfigDict()
  # Architecture, a name of `models.build_model`.
  config.model.name = 'echoforge'
  # 'resnet18', 'resnet34', 'resnet50' (paper) or 'lite'.
  config.model.backbone = 'resnet50'
  # Norm of the backbone: 'batch', 'frozen' or 'group'.
  config.model.norm = 'batch'
  # Number of ARC anchors, 1 to 4 (paper: 2).
  config.model.anchors = 2
  # Frames whose semantic tokens TSF remembers (ours).
  config.model.memory_frames = 4
  # Dropout in TSF's feed-forward layers (ours).
  config.model.dropout = 0.0
  # Recompute backbone blocks in the backward pass, to save memory.
  config.model.remat = False

  config.data = ConfigDict()
  # Dataset, as given to `prepare`.
  config.data.dataset = 'camus'
  # Folder of the prepared data, as given to `prepare`.
  config.data.data_dir = 'data'
  # Side of the squeezed frames in pixels (paper: 256).
  config.data.image_size = 256
  # Frames a clip, sampled uniformly from ED to ES (paper: 10).
  config.data.num_frames = 10
  # Foreground classes, of 'lv', 'myo', 'la' (paper: lv).
  config.data.classes = ('lv',)
  # 'sparse': only ED and ES are labeled (CAMUS-Semi); 'full': every frame.
  config.data.supervision = 'sparse'
  # Which split files decide: 'official' (400/50/50) or 'memsam'.
  config.data.split_scheme = 'official'
  # Share of the patients whose labels are used.
  config.data.label_fraction = 1.0
  # Another number chooses other patients.
  config.data.label_seed = 0
  # Worker processes that load and augment; 0: threads of the training process,
  # which are enough where views are drawn on the device.
  config.data.num_workers = 0
  # Memory for clips that were read, in MB, shared out among the workers; 0:
  # every clip is read anew.
  config.data.cache_mb = 1000
  # Where views are drawn: 'host' (cv2, in threads and workers) or 'device'
  # (a program before the training step; other random numbers).
  config.data.augment_on = 'device'
  # Ranges of the augmentation, described in `data.transforms.AugmentConfig`.
  config.data.augmentation = ConfigDict(dataclasses.asdict(AugmentConfig()))

  config.optimizer = ConfigDict()
  # 'adam' (paper) or 'adamw'.
  config.optimizer.name = 'adam'
  # Highest learning rate (paper: 1e-4).
  config.optimizer.learning_rate = 1e-4
  # Exponent of the polynomial decay (paper: 0.9).
  config.optimizer.power = 0.9
  # Updates of linear warm-up (ours: none, as in the paper).
  config.optimizer.warmup_steps = 0
  # AdamW's weight decay of kernels; 0 with adam.
  config.optimizer.weight_decay = 0.0
  # Largest global gradient norm; 0 does not clip (ours).
  config.optimizer.clip_norm = 1.0

  config.objective = ConfigDict()
  # A name of `training.objectives.OBJECTIVES`; the fields below are its
  # settings.
  config.objective.name = 'echoforge'
  # Weight of BCE + Dice on labeled frames.
  config.objective.supervised_weight = 1.0
  # Weight of the coarse masks' auxiliary loss (ours).
  config.objective.coarse_weight = 0.4
  # Weight of the episodic CPR loss (ours).
  config.objective.episodic_weight = 0.4
  # Pseudo-labels: 'reforged' (CPR) or 'plain' (the teacher's own masks).
  config.objective.pseudo_labels = 'reforged'

  config.semi = ConfigDict()
  # Decay of the mean teacher in the long run (ours).
  config.semi.ema_decay = 0.996
  config.semi.flame_rise = ConfigDict()
  # How lambda rises: 'linear' (paper) or 'gaussian', exp(-5 (1 - r)^2).
  config.semi.flame_rise.shape = 'linear'
  # E0 as a share of training (ours).
  config.semi.flame_rise.start = 0.1
  # E1 as a share of training (ours).
  config.semi.flame_rise.end = 0.6
  # lambda_max (ours).
  config.semi.flame_rise.weight_max = 1.0
  # tau_0 (ours).
  config.semi.flame_rise.threshold_start = 0.95
  # tau_1 (ours).
  config.semi.flame_rise.threshold_end = 0.75

  config.eval = ConfigDict()
  # Updates between validations; 0: none.
  config.eval.every = 1000
  # Validation clips; 0: all.
  config.eval.max_clips = 0
  # Clips a validation batch.
  config.eval.batch_size = 4
  # Keep the checkpoint with the best of this score ('dice_teacher') as well;
  # '': keep only the latest ones.
  config.eval.best_metric = 'dice_teacher'

  # Updates between lines of the log.
  config.log_every = 50
  # Updates between checkpoints.
  config.checkpoint_every = 1000
  # How many of the latest checkpoints stay.
  config.keep_checkpoints = 2
  # Keep compiled programs in the workdir, for a faster start next time.
  config.compilation_cache = False
  return apply_variant(config, arg)
