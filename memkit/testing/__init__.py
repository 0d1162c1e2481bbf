"""Property suites for your own parts: one call checks a filter, an encoder, an injector, a retriever or a backbone.

    from memkit.testing import check_encoder

    print(check_encoder(MyEncoder(config)))

A check draws inputs with hypothesis, returns a `Report` with the figure of every property, and raises `CheckFailed`,
which is an `AssertionError`, for the first property that does not hold. It gives the same result for the same ``seed``.
memkit's own tests are these checks, run on memkit's own parts. The strategies `latents`, `clips`, `memories`, `cameras`
and `tables` draw the inputs; use them with hypothesis in tests of your own.
"""

from memkit.errors import MemkitError

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    raise MemkitError("memkit.testing needs hypothesis; install it: pip install 'memkit[testing]'") from error

from memkit.testing.backbone import check_backbone
from memkit.testing.disentanglement import check_disentanglement
from memkit.testing.encoder import check_encoder
from memkit.testing.filters import check_filters
from memkit.testing.injector import check_injector
from memkit.testing.report import CheckFailed, Property, Report
from memkit.testing.retriever import check_retriever
from memkit.testing.strategies import Clips, VisibilityTable, cameras, clips, latents, memories, tables

__all__ = [
    "CheckFailed",
    "Clips",
    "Property",
    "Report",
    "VisibilityTable",
    "cameras",
    "check_backbone",
    "check_disentanglement",
    "check_encoder",
    "check_filters",
    "check_injector",
    "check_retriever",
    "clips",
    "latents",
    "memories",
    "tables",
]
