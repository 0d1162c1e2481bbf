"""Make a causal Wan that remembers, all of its weights, or go on where a run was stopped, on the same samples.

    python -m recipes.remind.train --preset tiny
    python -m recipes.remind.train --preset tiny --node-drop 0 --out runs/remind-tiny/no-drop --banks runs/remind-tiny
    accelerate launch -m recipes.remind.train --preset wan2.1-1.3b

Teacher forcing: one forward sees all chunks of a clip twice, clean as memory and noisy to be made, each chunk at a
noise level of its own. A curriculum hides, soils or moves what is remembered; each of its parts is a setting. The loss
is on frames that are neither known nor degraded. OUT has the transformer (``transformer/``), PM-RoPE (``cameras/``),
the checkpoint, and log.jsonl with the loss by noise level and the share of disturbed steps. Processes share one batch,
and with ``--shard`` the transformer's weights.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.cameras import CameraPath
from memkit.errors import InputError
from memkit.injectors import TeacherForcing, stream_cameras
from memkit.injectors.teacher_forcing.attachment import AttachedForcing
from memkit.positions import PMRoPE, PMRoPEConfig
from memkit.positions.attachment import AttachedCameras
from recipes.common import settings
from recipes.common.backbones import load_whole
from recipes.common.commands import run_command
from recipes.common.course import Course, Made
from recipes.common.launch import launch, report_sharding, shard
from recipes.common.padded_text import TextCache, prepared
from recipes.common.trained import Trained, save_transformer
from recipes.common.training import fingerprint, identity, load_checkpoint, lr_multiplier, save_checkpoint
from recipes.remind.data import Batch, TrainingSet
from recipes.remind.presets import Command, Config, parse
from recipes.remind.records import records_hash

RESUME_OVERRIDES = settings.RESUME_OVERRIDES | {"cache_frames", "train_clips", "test_clips"}
"""Settings that a resumed run may change; the others would make another run of it."""


def make_cameras(config: Config, backbone: WanBackbone) -> PMRoPE:
    """PM-RoPE of a run, fresh: it changes nothing yet."""
    return PMRoPE(PMRoPEConfig.of(backbone.transformer, config.cameras)).to(backbone.device)


def load_cameras(config: Config, backbone: WanBackbone, folder: Path) -> PMRoPE:
    """What training has saved in ``folder``. Raises `InputError` for another mode."""
    if not (folder / "cameras" / "config.json").exists():
        raise InputError(f"There is no {folder / 'cameras'}; run recipes.remind.train first.")
    cameras = PMRoPE.from_pretrained(folder / "cameras").to(backbone.device)
    if cameras.config.mode != config.cameras:
        raise InputError(f"{folder} was trained with --cameras {cameras.config.mode}, not {config.cameras}.")
    return cameras


class Training(Trained):
    """The transformer, which may be sharded, and PM-RoPE, which is whole."""

    def __init__(self, config: Config, backbone: WanBackbone, cameras: PMRoPE, launched: Accelerator) -> None:
        modules = {"transformer": backbone.transformer, "cameras": cameras}
        super().__init__(modules, {"transformer": config.lr, "cameras": config.camera_lr}, config.clip_norm, launched)
        self.config, self.backbone, self.cameras = config, backbone, cameras

    def step(self, step: int) -> Tensor:
        """Take the gradients of one step; their norm."""
        config = self.config
        return self.update(lr_multiplier(step, config.steps, config.warmup, config.schedule))

    def save(self, step: int, about: dict[str, Any]) -> None:
        """Write transformer and PM-RoPE for use, then the checkpoint. All processes call it; the main one writes."""
        if (state := self.state()) is None:
            return
        out = self.config.out
        save_transformer(self.backbone.transformer, state["modules"], out / "transformer")
        self.cameras.save_pretrained(out / "cameras")
        save_checkpoint({**state, "step": step}, out / "checkpoint.pt", about)


def losses(
    training: Training, text: TextCache, forced: AttachedForcing, cameras: AttachedCameras, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Squared error of each frame that carries loss, and its noise level, both [B, frames with loss].

    Leaves the gradients of the mean.
    """
    backbone, graph, config = training.backbone, batch.graph, training.config
    device = backbone.device
    latents, noise = batch.latents.to(device), batch.noise.to(device)
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16"),
        forced.chunk(graph, for_loss=True) as step,
        cameras.chunk(stream_cameras(graph, CameraPath.of(batch.cameras), for_loss=True).to(device)),
    ):
        velocity = step.velocity(
            backbone.transformer,
            latents,
            noise,
            batch.sigma,
            words(text, batch.captions).to(device),
            batch.memory_noise.to(device),
        )
        mask = graph.loss_mask().to(device)
        error = (velocity.float() - (noise - latents)).pow(2).mean((1, 3, 4))[:, mask]
        if error.requires_grad:
            error.mean().backward()  # here, where gradient checkpointing still finds what is attached
    sizes = torch.tensor([node.frames for node in graph.nodes])
    return error.detach(), batch.sigma.repeat_interleave(sizes, dim=1)[:, graph.loss_mask()].to(error)


def words(text: TextCache, captions: list[list[str]]) -> Tensor:
    """Embeddings [B,L,D] where no sample changes its prompt, else [B,chunks,L,D]."""
    if all(len(set(row)) == 1 for row in captions):
        return text([row[0] for row in captions])
    return torch.stack([text(row) for row in captions])


def train(config: Config, backbone: WanBackbone, bank: MemoryBank, launched: Accelerator) -> PMRoPE:
    """Train to ``config.steps``; what is in ``config.out`` is gone on with. Only the main process writes."""
    cameras, begun = make_cameras(config, backbone), fingerprint(backbone.transformer)
    if config.shard and launched.num_processes > 1:
        shard(backbone.transformer)
    training, start = Training(config, backbone, cameras, launched), 0
    data, forcing = TrainingSet(bank, config), TeacherForcing()
    made_of = {"bank": bank.fingerprint, "records": records_hash(bank.path), "weights": begun}
    about = identity(config, RESUME_OVERRIDES, processes=launched.num_processes, **made_of)
    if state := load_checkpoint(config.out / "checkpoint.pt", about):
        training.load(state)
        start = state["step"]
    launched.wait_for_everyone()  # the main process will write where the others have just read
    text = TextCache(backbone, config.text_length)
    share = (launched.process_index, launched.num_processes)

    def gradients(step: int) -> Made:
        batch = data.batch(step, *share)
        error, sigma = losses(training, text, forced, posed, batch)
        training.share_gradients()
        return Made(error, sigma, {"graph": summary(batch)})

    course = Course(
        "remind", config, launched, config.steps, gradients, training.step, lambda step: training.save(step, about)
    )
    with ExitStack() as stack:
        stack.enter_context(prepared(backbone, config.text_length, config.checkpointing))
        forced = stack.enter_context(forcing.attach(backbone.transformer))
        posed = stack.enter_context(cameras.attach(backbone.transformer))
        if start < course.steps:
            usual = next((i for i in range(100) if len(data.batch(i, *share).graph.nodes) > 2), 0)
            course.tell(start, lambda: gradients(usual), training.modules)
        course.run(start)
    return cameras.eval()


def summary(batch: Batch) -> str:
    """The graph of a step in a few letters: of each chunk its role, then k known, d dropped, n noisy."""
    marks = []
    for node in batch.graph.nodes:
        more = "k" * (node.conditioning_frames == node.frames) + "d" * node.dropped + "n" * (node.sigma > 0)
        marks.append(f"{node.role[0].upper()}{more}@{node.time}")
    return " ".join(marks)


def main(command: Command) -> int:
    """Train; the exit code."""
    config = command.config
    if not (config.folder / "train" / "bank.json").exists():
        raise InputError(f"There is no bank {config.folder / 'train'}; run recipes.remind.prepare first.")
    launched = launch(config.device, config.tracker, "memkit-remind", asdict(config), config.out)
    backbone = load_whole(config.model, config.threads, launched.device)
    train(config, backbone, MemoryBank.open(config.folder / "train"), launched)
    report_sharding(launched, backbone.transformer)
    launched.end_training()
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Command, __doc__)))
