"""All commands of ReMind's recipe at their smallest sizes: python -m recipes.remind --smoke"""

from memkit.training import run_all, run_command
from recipes.remind import evaluate, generate, prepare, train
from recipes.remind.presets import parse

STAGES = {
    prepare.Prepare: prepare.main,
    train.Train: train.main,
    generate.Generate: generate.main,
    evaluate.Evaluate: evaluate.main,
}

if __name__ == "__main__":
    run_command(lambda: run_all(parse, STAGES))
