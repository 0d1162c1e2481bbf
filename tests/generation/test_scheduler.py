"""A scheduler of the pipeline's kind with another flow shift."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from memkit.generation import make_scheduler
from tests.helpers.random_wan import random_pipeline

EULER = FlowMatchEulerDiscreteScheduler(shift=2.0)
UNIPC = UniPCMultistepScheduler(flow_shift=2.0, use_flow_sigmas=True, prediction_type="flow_prediction")


@pytest.mark.parametrize(("scheduler", "name"), [(EULER, "shift"), (UNIPC, "flow_shift")])
def test_the_shift_is_replaced_by_its_name_and_nothing_else(scheduler, name) -> None:
    pipe = random_pipeline()
    pipe.scheduler = scheduler
    own, other = make_scheduler(pipe), make_scheduler(pipe, 5.0)
    assert type(own) is type(other) is type(scheduler) and own is not scheduler
    assert own.config == scheduler.config and {**other.config, name: 2.0} == dict(scheduler.config)
    for made in (own, other, scheduler):
        made.set_timesteps(4)
    assert torch.equal(own.sigmas, scheduler.sigmas)
    assert (other.sigmas[1:4] > scheduler.sigmas[1:4]).all()
