"""From the worlds to the weights of tiny-wan: render, train the autoencoder, train the transformer, measure.

    python -m recipes.tiny_wan --out runs/tiny-wan

Stopped at any point, the same command goes on from there. Each part is a command of its own, with all its settings:
``recipes.tiny_wan.data``, ``.vae``, ``.transformer``, ``.evaluate``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from recipes.tiny_wan import data, evaluate, transformer, vae
from recipes.training import Phase, tell_cost, timed


@dataclass(frozen=True)
class TinyWanConfig:
    """Where everything goes, and a seed for all of it."""

    out: Path = Path("runs/tiny-wan")
    seed: int = 0
    threads: int = 1
    workers: int = 2


def main(config: TinyWanConfig) -> None:
    """Run what is left to do."""
    out, shared = config.out, {"seed": config.seed, "threads": config.threads}
    worlds, held_out = out / "worlds", out / "held-out"
    training = data.DataConfig(out=worlds, seed=config.seed, workers=config.workers)
    _render(training)
    _render(replace(training, out=held_out, split="test", laws=48, interruptions=24, rooms=24))
    vae.main(vae.VAEConfig(data=worlds, held_out=held_out, out=out / "vae", **shared))
    settings = transformer.TransformerConfig(
        data=worlds, vae=out / "vae", out=out / "transformer", workers=config.workers, **shared
    )
    pipeline = transformer.write_pipeline(settings, *transformer.train(settings))
    evaluate.main(evaluate.EvaluateConfig(model=pipeline, data=held_out, out=out / "evaluation"))


def _render(config: data.DataConfig) -> None:
    if clips := data.missing(config):
        seconds = timed(lambda: [data.draw(config, suite, 0).render() for suite in data.SUITES])
        each = seconds / len(data.SUITES) / config.workers
        tell_cost(f"{config.split} clips", [Phase("render", clips, each)], config.bytes, config.out)
        data.main(config)


if __name__ == "__main__":
    main(tyro.cli(TinyWanConfig))
