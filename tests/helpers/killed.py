"""A process that is killed before each operation on files that it makes, one after the other."""

import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterator

import torch

KILLED, DONE, RAISED = 7, 0, 1
_OPERATIONS = {
    "open", "write", "writelines", "flush", "truncate", "close", "__exit__", "serialize_file",
    "replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "chmod", "utime",
}  # fmt: skip


def killed_at(number: int, act: Callable[[], object]) -> int:
    """Make a call in another process, which ends before its operation ``number``; `KILLED`, `DONE` or `RAISED`.

    What it has written to a file and not flushed is lost, as in a kill.
    """
    child = os.fork()
    if child == 0:
        left = number

        def count(_frame: object, event: str, called: object) -> None:
            nonlocal left
            if event == "c_call" and _is_operation(called):
                left -= 1
                if left < 0:
                    os._exit(KILLED)

        try:
            gc.disable()  # it would write to, and so copy, all memory that is shared with the parent
            torch.set_num_threads(1)
            sys.setprofile(count)
            act()
            sys.setprofile(None)
            os._exit(DONE)
        except BaseException:
            sys.setprofile(None)
            traceback.print_exc()
        finally:
            os._exit(RAISED)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kills(act_at: Callable[[int], Callable[[], object]], most: int = 1000) -> Iterator[tuple[int, int]]:
    """The number and the exit code of each kill of ``act_at(number)``, and of the call that comes to its end."""
    for number in range(most):
        code = killed_at(number, act_at(number))
        yield number, code
        if code != KILLED:
            return
    raise AssertionError(f"{most} operations, and no end")


def _is_operation(called: object) -> bool:
    if getattr(called, "__name__", "") not in _OPERATIONS:
        return False
    module, of = getattr(called, "__module__", None), type(getattr(called, "__self__", None))
    if of.__module__ == "_io":  # a method of an open file
        return of.__name__ != "BufferedReader"
    return module in ("posix", "io") or bool(module and module.startswith("safetensors"))
