"""What MemLearner claims, put to the test, and a page of pictures."""
