"""The claims of MemLearner (arXiv 2606.31734)."""

from __future__ import annotations

from recipes.leaderboard.papers.evidence import Evidence, Finding

_MEMLEARNER = "python -m recipes.memlearner.studies.claims --preset tiny --claim "

CLAIMS = (
    Evidence(
        "Learned queries beat rules of retrieval where views are occluded",
        Finding(
            "fails",
            "PSNR: ‹19.2 dB against 20.1, 19.1, 19.1 and 19.1 (none)›, of CaM, window, FramePack and no memory",
            "memlearner.md#the-claims-and-what-was-measured",
            f"{_MEMLEARNER}methods",
        ),
        (
            "Where walls hide what is asked for, learned queries find more than a rule of views that takes one frame",
            "The same against two frames",
            "The same against four, all that overlap",
            "The same against a rule that knows depth",
        ),
    ),
    Evidence(
        "In static scenes they are as good as rules",
        Finding(
            "fails",
            "CaM is ‹0.98 dB [0.37, 1.66]› ahead",
            "memlearner.md#the-claims-and-what-was-measured",
            f"{_MEMLEARNER}methods",
        ),
        ("Without walls, queries and the rule are nearly as good",),
    ),
    Evidence(
        "A place looks the same when the camera returns",
        Finding(
            "a little",
            "PSNR against no memory: ‹0.17 dB [0.03, 0.31]›",
            "memlearner.md#the-claims-and-what-was-measured",
            f"{_MEMLEARNER}methods",
        ),
    ),
    Evidence(
        "Learned queries fetch what has left the view, from a base that can retrieve",
        Finding(
            "holds in galleries, one run",
            "panels that return with their colour: ‹0.72 [0.63, 0.80]›, by the same weights without the past "
            "‹0.13 [0.05, 0.23]›",
            "gallery.md#learned-queries",
            "python -m recipes.memlearner.evaluate --preset gallery --method learned --weights memlearner-tiny "
            "--rooms 16",
        ),
    ),
    Evidence(
        "Queries must see the prediction (Q→P)",
        Finding(
            "holds",
            "PSNR where a frame was seen before, without Q→P: ‹−0.23 dB [−0.43, −0.07]›",
            "memlearner.md#the-claims-and-what-was-measured",
            f"{_MEMLEARNER}edges",
        ),
        ("Queries must see the prediction (Q→P)",),
    ),
    Evidence(
        "More than one query layer is needed, and few suffice",
        Finding(
            "more layers bring more",
            "PSNR on return with all 8 layers instead of 2: ‹0.50 dB [0.31, 0.71]› higher",
            "memlearner.md#the-claims-and-what-was-measured",
            f"{_MEMLEARNER}layers",
        ),
        ("More than one query layer is needed", "Query layers beyond the first half bring no more"),
    ),
    Evidence(
        "Queries may begin as noise or as a copy of the prediction",
        Finding(
            "fails",
            "PSNR with noise, against a copy: ‹−0.28 dB [−0.62, −0.02]›",
            "memlearner.md#what-q-starts-from",
            f"{_MEMLEARNER}queries",
        ),
        (
            "Queries that begin as a copy of the prediction are as good as noise",
            "Noise at timestep 0 is as good as at the timestep of the prediction",
            "A copy at timestep 0 is as good as at the timestep of the prediction",
        ),
    ),
    Evidence(
        "A separate module for the queries fails from scratch",
        Finding(
            "holds",
            "PSNR against no memory: ‹−0.01 dB [−0.04, 0.03]›",
            "memlearner.md#the-claims-and-what-was-measured",
            f"{_MEMLEARNER}separate",
        ),
        (
            "Queries in the model's own layers find more than a separate module with random weights",
            "The separate module is not used at all: the model is as without memory",
        ),
    ),
    Evidence(
        "LPIPS, FID and FVD improve, and people prefer the videos",
        note="At 64×64 pixels these measures say nothing.",
    ),
)
