"""Retrievers: find the clips of a bank for a query."""

from memkit.retrievers.controls import NewestRetriever, OracleRetriever, RandomRetriever
from memkit.retrievers.embedders import DEFAULT_MODEL, TextEmbedder
from memkit.retrievers.engines.approximate import Approximate
from memkit.retrievers.engines.exact import Exact
from memkit.retrievers.engines.lance import LanceDB
from memkit.retrievers.engines.protocol import Engine, SavedIndex, VectorIndex
from memkit.retrievers.engines.qdrant import Qdrant
from memkit.retrievers.fov import FOVRetriever, View
from memkit.retrievers.fov_points import Points
from memkit.retrievers.fov_rules import Rays, Sector
from memkit.retrievers.hits import ClipTable, Excluded, Hits, Retriever, rank
from memkit.retrievers.index import ClipBank
from memkit.retrievers.learned_query import LearnedQuery
from memkit.retrievers.lifted_cells import LatentMap, LiftRule
from memkit.retrievers.lifted_latents import LiftedLatents
from memkit.retrievers.surfel_retriever import PoseSelection, SurfelRetriever
from memkit.retrievers.surfels import SurfelRule
from memkit.retrievers.text import TextRetriever
from memkit.retrievers.visual import VisualRetriever
from memkit.retrievers.worldmem import WorldMemRetriever, WorldMemRule

__all__ = [
    "DEFAULT_MODEL",
    "Approximate",
    "ClipBank",
    "ClipTable",
    "Engine",
    "Exact",
    "Excluded",
    "FOVRetriever",
    "Hits",
    "LanceDB",
    "LatentMap",
    "LearnedQuery",
    "LiftRule",
    "LiftedLatents",
    "NewestRetriever",
    "OracleRetriever",
    "Points",
    "PoseSelection",
    "Qdrant",
    "RandomRetriever",
    "Rays",
    "Retriever",
    "SavedIndex",
    "Sector",
    "SurfelRetriever",
    "SurfelRule",
    "TextEmbedder",
    "TextRetriever",
    "VectorIndex",
    "View",
    "VisualRetriever",
    "WorldMemRetriever",
    "WorldMemRule",
    "rank",
]
