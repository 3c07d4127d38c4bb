"""EchoForge, lite, on phantom patients: minutes on two CPU cores.

  python -m echoforge_jax phantom --layout=camus --out=RAW --patients=100 \\
      --test=25 --seed=0
  python -m echoforge_jax prepare --dataset=camus --raw=RAW --data_dir=DATA \\
      --image_size=128
  python -m echoforge_jax train --config=configs/phantom_lite.py \\
      --workdir=RUN --config.data.data_dir=DATA

Variants, the rows of the paper's ablation: append :baseline, :tsf, :tsf_arc or
:all to the config's name (default :all).

Hardware:   two CPU cores
Run time:   measured: 5 min 17 s, 29 s of it compiling (1100 steps)
Dice (lv), phantom test split, 25 patients, seed 0, measured:
            camus_full 94.9 % [93.6, 96.0]
"""

import dataclasses

from ml_collections import ConfigDict

from echoforge_jax.data.transforms import AugmentConfig
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the ablation."""
  config = ConfigDict()

  # Seed of initialization, dropout, order of clips and augmentation.
  config.seed = 0
  # Labeled clips a step, over all devices.
  config.batch_size = 4
  # Clips without any label a step, over all devices; 0: the unlabeled frames
  # of labeled clips are what semi-supervision learns from, as in the paper.
  config.unlabeled_batch_size = 0
  # Parts of a batch that are computed one after the other, to save memory;
  # gradients are averaged before the update.
  config.grad_accum_steps = 1
  # Updates.
  config.num_steps = 1100
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
  # Dataset, as given to `prepare`.
  config.data.dataset = 'camus'
  # Folder of the prepared data, as given to `prepare`.
  config.data.data_dir = 'data'
  # Side of the squeezed frames in pixels.
  config.data.image_size = 128
  # Frames a clip in training, sampled uniformly from ED to ES (paper: 10); the
  # protocols score 10. Fewer frames are more labels a second, and the jitter
  # below shows every frame in the end.
  config.data.num_frames = 4
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
  # Worker processes that load and augment; 0: in the training process.
  config.data.num_workers = 0
  # Memory for clips that were read, in MB, shared out among the workers; 0:
  # every clip is read anew.
  config.data.cache_mb = 1000
  # Where views are drawn: 'host' (cv2, in threads and workers) or 'device'
  # (a program before the training step; other random numbers).
  config.data.augment_on = 'host'
  # Ranges of the augmentation, described in `data.transforms.AugmentConfig`;
  # milder than its defaults, which ask for longer training.
  config.data.augmentation = ConfigDict(
    dataclasses.asdict(
      AugmentConfig(
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
  config.semi.ema_decay = 0.99
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
  config.eval.every = 275
  # Validation clips; 0: all.
  config.eval.max_clips = 12
  # Clips a validation batch.
  config.eval.batch_size = 4
  # Keep the checkpoint with the best of this score ('dice_teacher') as well;
  # '': keep only the latest ones.
  config.eval.best_metric = 'dice_teacher'

  # Updates between lines of the log.
  config.log_every = 20
  # Updates between checkpoints.
  config.checkpoint_every = 275
  # How many of the latest checkpoints stay.
  config.keep_checkpoints = 2
  # Keep compiled programs in the workdir, for a faster start next time.
  config.compilation_cache = False
  return apply_variant(config, arg)
