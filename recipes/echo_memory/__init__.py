"""Echo-Memory (arXiv 2606.09803): chunks of new frames with camera actions, context frames and a recurrence."""
