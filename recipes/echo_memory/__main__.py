"""All commands of Echo-Memory's recipe at their smallest sizes: python -m recipes.echo_memory --smoke"""

from memkit.training import run_all, run_command
from recipes.echo_memory import evaluate, generate, prepare, train
from recipes.echo_memory.presets import parse

STAGES = {
    prepare.Prepare: prepare.main,
    train.Train: train.main,
    generate.Generate: generate.main,
    evaluate.Evaluate: evaluate.main,
}

if __name__ == "__main__":
    run_command(lambda: run_all(parse, STAGES))
