"""Training: settings and command lines of a run, launching, loading, checkpoints and a log that survives resumption.

The loop itself is the caller's: batch, forward, loss, backward, step, log, save.
"""

from memkit.training.checkpoint import (
    TrainState,
    load_checkpoint,
    restoring,
    run_settings,
    save_checkpoint,
    save_part,
    save_run,
    save_torch,
    steps_done,
)
from memkit.training.command_line import PREPARES, SAMPLES, TRAINS, command_of, parse_with, report_done, run_command
from memkit.training.launch import distribute, launch, micro_batches, report_sharding, shard, sharded
from memkit.training.limits import CheckedSettings
from memkit.training.load import find_trained, load_backbone, load_codec, load_trainable, open_bank
from memkit.training.loop import (
    adamw,
    clip_gradients,
    fingerprint,
    generator_of,
    lr_multiplier,
    pick_device,
    prepared,
    set_learning_rate,
    zero_missing_gradients,
)
from memkit.training.muon import Muon, MuonAdam
from memkit.training.optimizer_state import load_optimizer
from memkit.training.own_videos import OwnVideos
from memkit.training.run_log import (
    Phase,
    RunLog,
    by_noise_level,
    check_disk,
    estimate_cost,
    gathered_losses,
    read_run_log,
    timed,
)
from memkit.training.settings import (
    RESUME_OVERRIDES,
    DataSettings,
    RunSettings,
    SampleSettings,
    Settings,
    TrainSettings,
)
from memkit.training.smoke import run_all, smoke_folder
from memkit.training.tokenizer import train_tokenizer
from memkit.training.vae_init import initialise_vae

__all__ = [
    "CheckedSettings",
    "DataSettings",
    "PREPARES",
    "Muon",
    "MuonAdam",
    "OwnVideos",
    "Phase",
    "RESUME_OVERRIDES",
    "RunLog",
    "RunSettings",
    "SAMPLES",
    "SampleSettings",
    "Settings",
    "TRAINS",
    "TrainSettings",
    "TrainState",
    "adamw",
    "by_noise_level",
    "check_disk",
    "clip_gradients",
    "command_of",
    "distribute",
    "estimate_cost",
    "find_trained",
    "fingerprint",
    "gathered_losses",
    "generator_of",
    "initialise_vae",
    "launch",
    "load_backbone",
    "load_checkpoint",
    "load_codec",
    "load_optimizer",
    "load_trainable",
    "lr_multiplier",
    "micro_batches",
    "parse_with",
    "open_bank",
    "pick_device",
    "prepared",
    "report_done",
    "read_run_log",
    "report_sharding",
    "restoring",
    "run_all",
    "run_command",
    "run_settings",
    "save_checkpoint",
    "save_part",
    "save_run",
    "save_torch",
    "set_learning_rate",
    "shard",
    "smoke_folder",
    "sharded",
    "steps_done",
    "timed",
    "train_tokenizer",
    "zero_missing_gradients",
]
