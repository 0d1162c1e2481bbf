"""The claims of DiT-Mem (arXiv 2511.19229)."""

from __future__ import annotations

from recipes.leaderboard.papers.evidence import Evidence, Finding

_KNOWLEDGE = "python -m recipes.dit_mem.studies.claims --preset tiny --from-frame --claim knowledge"
_DIT_MEM = _KNOWLEDGE.removesuffix("knowledge")

CLAIMS = (
    Evidence(
        "Memory gives a frozen model knowledge that it lacks",
        Finding(
            "holds, in part",
            "error of gravity, against no memory: ‹-1.07 [-1.64, -0.50]› m/s² of ‹4.97 [4.16, 5.76]›",
            "dit-mem-evidence.md#knowledge",
            _KNOWLEDGE,
        ),
        (
            "Clips carry a law into a frozen model",
            "It is the clips of the name that count, not those of another",
            "It is what the clips show that counts, not that there are any",
        ),
    ),
    Evidence(
        "Videos follow what memory shows, be it right or wrong",
        Finding(
            "holds",
            "gravity with clips of another planet correlates with that planet: ‹0.47 [0.34, 0.61]›",
            "dit-mem-evidence.md#knowledge",
            _KNOWLEDGE,
        ),
    ),
    Evidence(
        "Memory can be replaced without training, in any number of clips",
        Finding(
            "holds",
            "error of gravity with one clip: ‹-1.00 [-1.61, -0.39]› m/s², with the three of the training: "
            "‹-1.07 [-1.64, -0.50]›",
            "dit-mem-evidence.md#plug-and-play",
            f"{_DIT_MEM}plug",
        ),
        ("More clips carry more",),
    ),
    Evidence(
        "High-frequency tokens carry physics",
        Finding(
            "holds",
            "error of gravity with the right high-pass and the wrong low-pass tokens: ‹-1.04 [-1.63, -0.44]› m/s²",
            "dit-mem-evidence.md#disentanglement",
            f"{_DIT_MEM}mixture",
        ),
        (
            "High frequencies alone carry more of the law than low ones alone",
            "The law is in the high branch: it stays when the low tokens are of another sample, rather than the high "
            "ones",
        ),
    ),
    Evidence(
        "Low-frequency tokens carry appearance",
        Finding(
            "fails",
            "bodies with the colour of the clip whose low-pass tokens are shown: ‹8 [3, 13]› % of the videos; whose "
            "high-pass tokens are: ‹22 [15, 30]› %",
            "dit-mem-evidence.md#which-tokens-carry-appearance",
            "python -m recipes.dit_mem.studies.claims --preset tiny --claim appearance --encoders frequency",
        ),
        ("The look is in the low branch, likewise",),
    ),
    Evidence(
        "The filters make the memory better",
        Finding(
            "fails",
            "error of gravity without filters, against with them: ‹0.18 [-0.06, 0.46]› m/s²",
            "dit-mem-evidence.md#the-encoders-side-by-side",
            f"{_DIT_MEM}encoders",
        ),
        ("Low and high frequencies in branches of their own carry more of the law than two branches without filters",),
    ),
    Evidence(
        "Memory is cheaper than training the model",
        Finding(
            "holds on the same clips; fails on clips of the prompts' names",
            "error of gravity after training all weights on the same clips: ‹-0.01 [-0.48, 0.51]› m/s²; of restitution "
            "after training on clips of the prompts' names: ‹-0.07 [-0.11, -0.03]›, with memory "
            "‹-0.045 [-0.085, -0.002]›",
            "dit-mem-evidence.md#cost",
            "python -m recipes.dit_mem.studies.full --preset tiny --from-frame --data train --seeds 42 1 2",
        ),
    ),
    Evidence(
        "Scores of PhyGenBench and VBench rise",
        note="[The commands](benchmarks.md) are there; they need a Wan with trained memory and the benchmarks' judges.",
    ),
)
