"""ReMind (arXiv 2605.25333): a causal Wan with a cache of keys and values, trained to use it as memory.

    python -m recipes.remind.prepare  --preset tiny     # the banks: interrupted clips and their twins
    python -m recipes.remind.train    --preset tiny     # tiny-wan becomes causal, with the curriculum
    python -m recipes.remind.generate --preset tiny --image first.png --prompts "a …"
    python -m recipes.remind.evaluate --preset tiny     # against the twins, beside controls: with intervals
    python -m recipes.remind.studies.claims   --preset tiny --claim evolution   # three runs per variant; docs/remind.md

Every setting of ``presets.py`` can be given on each command line. The wan presets run the same code on the user's own
clips: ``prepare --preset wan2.1-1.3b --videos DIR --captions CSV``.
"""
