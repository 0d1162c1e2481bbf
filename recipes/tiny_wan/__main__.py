"""Train tiny-wan from scratch: render the clips, train the autoencoder and the transformer, measure the result.

    python -m recipes.tiny_wan --out runs/tiny-wan

A command that was stopped continues where it was. Each part is a command of its own, with the same settings:
``recipes.tiny_wan.data``, ``.vae``, ``.transformer``, ``.evaluate``. Settings also make a larger model, for example
``--transformer.heads 8 --transformer.head-dim 64 --transformer.layers 16 --transformer.ffn-dim 2048``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from memkit.training import CheckedSettings, Phase, estimate_cost, run_command, timed
from memkit.worlds import clip_set
from recipes.tiny_wan import data, evaluate, transformer, vae


@dataclass(frozen=True)
class TinyWanConfig(CheckedSettings):
    """Settings of all parts. ``out``, ``seed``, ``threads`` and ``workers`` replace those of the parts."""

    out: Path = Path("runs/tiny-wan")
    seed: int = 0
    threads: int = 1
    workers: int = 2
    train: data.DataConfig = field(default_factory=data.DataConfig)
    test: data.DataConfig = field(
        default_factory=lambda: data.DataConfig(split="test", laws=48, interruptions=24, rooms=24)
    )
    vae: vae.VAEConfig = field(default_factory=vae.VAEConfig)
    transformer: transformer.TransformerConfig = field(default_factory=transformer.TransformerConfig)
    evaluate: evaluate.EvaluateConfig = field(default_factory=evaluate.EvaluateConfig)


def main(config: TinyWanConfig) -> None:
    """Run the parts that have not been run yet."""
    shared = {"seed": config.seed, "threads": config.threads}
    worlds, held_out, encoder = (config.out / name for name in ("worlds", "held-out", "vae"))
    for part, folder in ((config.train, worlds), (config.test, held_out)):
        _render(replace(part, out=folder, seed=config.seed, workers=config.workers))
    vae.main(replace(config.vae, data=worlds, held_out=held_out, out=encoder, **shared))
    settings = replace(config.transformer, data=worlds, vae=encoder, out=config.out / "transformer", **shared)
    pipeline = transformer.write_pipeline(settings, *transformer.train(replace(settings, workers=config.workers)))
    evaluate.main(replace(config.evaluate, model=pipeline, data=held_out, out=config.out / "evaluation"))


def _render(config: data.DataConfig) -> None:
    if clips := clip_set.missing(config):
        suites = [suite for suite in clip_set.SUITES if getattr(config, suite)]
        each = timed(lambda: [clip_set.draw(config, suite, 0).render() for suite in suites]) / len(suites)
        phases = [Phase("render", clips, each / config.workers)]
        estimate_cost(f"clips of the {config.split} split", phases, config.bytes, config.out)
        clip_set.render_clip_set(config)


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(TinyWanConfig, description=__doc__)))
