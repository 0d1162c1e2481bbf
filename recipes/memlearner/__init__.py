"""MemLearner (arXiv 2606.31734): memory by learned queries, compared with rules, on videos with camera poses."""
