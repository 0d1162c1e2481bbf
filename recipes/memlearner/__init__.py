"""MemLearner (arXiv 2606.31734): learned queries against rules, on videos with camera poses."""
