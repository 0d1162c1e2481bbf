"""What generates the videos of a benchmark: a context method of memkit by its name, or a user's own thing.

    none                 the model alone, without cameras
    window               the newest frames in the sequence (`NewestContext`)
    fov                  frames whose views overlap (`RetrievedContext`)
    framepack            a long past with fewer tokens for older frames (`PackedContext`)
    cameras              no past, but cameras (`NoContext`)
    queries              query tokens inside the model (`LearnedContext`)
    my_module:name       a class or a function that takes the backbone

Your own is called with the `WanBackbone` and returns a `ContextMethod`, anything that has ``attach(*transformers)``,
such as `SelfAttentionConcat`, or a `VideoMaker`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor, nn

from memkit.backbones.wan import WanBackbone
from memkit.errors import InputError, nearest
from memkit.evaluation.benchmarks.task import Task
from memkit.injectors.frame_context.context import FrameContext
from memkit.injectors.query_layers.layers import QueryLayers
from memkit.rollout.base import ChunkInputs, ContextMethod
from memkit.rollout.methods import LearnedContext, NewestContext, NoContext, PackedContext, RetrievedContext

NAMES = ("none", "cameras", "window", "fov", "framepack", "queries")


@runtime_checkable
class VideoMaker(Protocol):
    """Anything that answers tasks, for models and samplers that are not a `Rollout`."""

    def generate(self, task: Task, seed: int) -> UInt8[Tensor, "time height width 3"]:
        """The video of a task, with its ``kept`` given frames at the beginning, ``length`` frames in all."""
        ...


class WithAttached(ContextMethod):
    """No past but the frame that a chunk begins with, no cameras, and ``thing`` attached while it is generated.

    ``thing`` has ``attach(*transformers)``; None is the model alone.
    """

    def __init__(self, thing: Any = None) -> None:
        super().__init__(frames=0)
        self.thing = thing

    @contextmanager
    def _shown(self, transformers: tuple[nn.Module, ...], inputs: ChunkInputs) -> Iterator[None]:
        with nullcontext() if self.thing is None else self.thing.attach(*transformers):
            yield


def make_method(
    name: str, backbone: WanBackbone, weights: Path | None = None, frames: int = 20, guidance: float = 1.0
) -> ContextMethod | VideoMaker:
    """The method of a name of `NAMES`, or "module:name".

    Args:
        name: see the module's text. Importing a module runs its code.
        backbone: the model of the run.
        weights: folder of a run of recipes.memlearner, of which ``method`` is read. Memkit's own methods other than
            "none" need it; your own load theirs.
        frames: number of past latent frames that a chunk sees.
        guidance: scale of history guidance of "window".

    Raises:
        InputError: there is no such method, module or name, or its weights are missing or of another method.
    """
    if ":" in name:
        return _own(name, backbone)
    if name not in NAMES:
        raise InputError(
            f"There is no method {name!r}; choose one of {', '.join(NAMES)}, or give my_module:name."
            f"{nearest(name, NAMES)}"
        )
    if name == "none":
        return WithAttached()
    place = None if weights is None else weights / "method" / ("query" if name == "queries" else "context")
    if place is None or not (place / "config.json").exists():
        where = "--weights is missing" if place is None else f"there is no {place}"
        raise InputError(f"The method {name!r} needs weights, and {where}; give --weights, the folder of its run.")
    if name == "queries":
        return LearnedContext(QueryLayers.from_pretrained(place).to(backbone.device), frames).eval()
    context = FrameContext.from_pretrained(place).to(backbone.device)
    if name == "window":
        return NewestContext(context, frames, guidance).eval()
    if name == "fov":
        return RetrievedContext(context, frames).eval()
    return (PackedContext(context, frames) if name == "framepack" else NoContext(context)).eval()


def _own(path: str, backbone: WanBackbone) -> ContextMethod | VideoMaker:
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(f"{path!r} is no path to a class or a function; give one such as 'my_module:MyMethod'.")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever its code raises
        raise InputError(
            f"The module {module_name!r} cannot be imported ({type(error).__name__}: {error}); install its package, or "
            "add the folder that contains it to PYTHONPATH."
        ) from error
    made = getattr(module, name, None)
    if not callable(made):
        raise InputError(f"{path!r} is {made!r}; name a class or a function that takes the backbone.")
    thing = made(backbone)
    if isinstance(thing, ContextMethod | VideoMaker):
        return thing
    if not hasattr(thing, "attach"):
        raise InputError(
            f"{path!r} returned {type(thing).__name__}; it must return a ContextMethod, a thing with attach(), or one "
            "with generate(task, seed)."
        )
    return WithAttached(thing)
