"""ReMind (arXiv 2605.25333): a causal Wan that remembers through a cache of keys and values, and learns to."""
