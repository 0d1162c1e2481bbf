"""What DiT-Mem claims, put to the test: claims, ablations and public benchmarks, each with one command."""
