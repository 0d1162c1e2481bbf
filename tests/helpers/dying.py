"""A process that ends, as by a kill, at the n-th of some calls."""

import os
from collections.abc import Callable


def dying_after(calls: int) -> Callable[[Callable], Callable]:
    """A wrapper of functions: of all calls of those that it wraps so many go through, the next exits with code 7."""
    left = [calls]

    def dying(call: Callable) -> Callable:
        def run(*arguments, **options):
            left[0] -= 1
            return os._exit(7) if left[0] < 0 else call(*arguments, **options)

        return run

    return dying
