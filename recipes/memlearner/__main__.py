"""All commands of MemLearner's recipe at their smallest sizes: python -m recipes.memlearner --smoke"""

from memkit.training import run_all, run_command
from recipes.memlearner import evaluate, generate, prepare, train
from recipes.memlearner.presets import parse

STAGES = {
    prepare.Prepare: prepare.main,
    train.Train: train.main,
    generate.Generate: generate.main,
    evaluate.Evaluate: evaluate.main,
}

if __name__ == "__main__":
    run_command(lambda: run_all(parse, STAGES))
