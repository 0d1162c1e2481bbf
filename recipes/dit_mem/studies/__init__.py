"""Studies of DiT-Mem: claims, ablations and public benchmarks, each with one command."""
