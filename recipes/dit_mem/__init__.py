"""DiT-Mem (arXiv 2511.19229): retrieved clips are encoded into memory tokens for all self-attention of a frozen Wan.

    python -m recipes.dit_mem.prepare  --preset tiny     # the banks: one to train the encoder on, one of unseen names
    python -m recipes.dit_mem.train    --preset tiny     # the encoder; the backbone stays frozen
    python -m recipes.dit_mem.generate --preset tiny --bank runs/dit-mem-tiny/bank-test --prompts "a …"
    python -m recipes.dit_mem.evaluate --preset tiny     # no memory, retrieved, other, random, oracle: with intervals
    python -m recipes.dit_mem.studies.claims   --preset tiny --claim knowledge    # three runs; docs/dit-mem.md

Every setting of ``presets.py`` can be given on each command line. The wan presets run the same code on the user's own
clips: ``prepare --preset wan2.1-1.3b --videos DIR --captions CSV``.
"""
