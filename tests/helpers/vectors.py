"""Unit vectors, in clusters and without, and what an index must say of them."""

import numpy as np

from memkit.retrievers import Excluded


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def draw(kind, count, dim, seed=0, clusters=40):
    """Vectors of which each lies around one of a few centres, or that are uniform on the sphere."""
    rng, centres = np.random.default_rng(seed), unit(np.random.default_rng(1).normal(size=(clusters, dim)))
    own = unit(rng.normal(size=(count, dim)))
    return unit(centres[rng.integers(0, clusters, count)] + 0.9 * own) if kind == "clustered" else own


def only(allowed, ids=(), sources=()):
    return Excluded(frozenset(ids), frozenset(sources), allowed)


def brute_force(vectors, query, k, allowed):
    """Rows and cosines of the nearest allowed vectors, equal ones in row order."""
    cosine = (vectors.astype(float) * query.astype(float)).sum(-1)
    rows = [row for row in np.lexsort((np.arange(len(vectors)), -cosine)) if allowed[row]][:k]
    return rows, cosine[rows]
