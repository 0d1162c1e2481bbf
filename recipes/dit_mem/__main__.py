"""All commands of DiT-Mem's recipe at their smallest sizes: python -m recipes.dit_mem --smoke"""

from memkit.training import run_all, run_command
from recipes.dit_mem import evaluate, generate, prepare, train
from recipes.dit_mem.presets import parse

STAGES = {
    prepare.Prepare: prepare.main,
    train.Train: train.main,
    generate.Generate: generate.main,
    evaluate.Evaluate: evaluate.main,
}

if __name__ == "__main__":
    run_command(lambda: run_all(parse, STAGES))
