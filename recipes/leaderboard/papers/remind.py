"""The claims of ReMind (arXiv 2605.25333)."""

from __future__ import annotations

from recipes.leaderboard.papers.evidence import Evidence, Finding

_REMIND = "python -m recipes.remind.studies.claims --preset tiny --claim "

CLAIMS = (
    Evidence(
        "A bidirectional model freezes what it does not see",
        Finding(
            "holds",
            "evolution in pixels, where 1 is right and 0 frozen: ‹-0.19 [-0.33, -0.12]›",
            "remind.md#do-hidden-states-evolve",
            f"{_REMIND}evolution",
        ),
    ),
    Evidence(
        "After training, hidden states go on",
        Finding(
            "a fifth of the way",
            "evolution in pixels: ‹0.18 [0.14, 0.23]›",
            "remind.md#do-hidden-states-evolve",
            f"{_REMIND}evolution",
        ),
        ("A process goes on while nothing is seen of it: teacher forcing and a cache against no memory",),
    ),
    Evidence(
        "It is memory that makes them go on",
        Finding(
            "fails for the state; holds for the picture",
            "evolution of the state, against the same run without the past: ‹0.00 [-0.08, 0.05]›; PSNR: "
            "‹3.21 dB [2.52, 4.02]›",
            "remind.md#do-hidden-states-evolve",
            f"{_REMIND}evolution",
        ),
    ),
    Evidence(
        "The same, with captions that name neither the process nor its rate",
        Finding(
            "holds for pixels and picture, one run; not shown for the state",
            "evolution in pixels: ‹0.12 [0.06, 0.17]›, by the same weights without the past ‹-0.09 [-0.21, 0.00]›; of "
            "the state ‹0.08 [0.01, 0.23]› and ‹0.04 [-0.11, 0.30]›",
            "remind.md#try-it-without-training",
            "python -m recipes.remind.evaluate --preset tiny --world-captions scene --weights remind-tiny",
        ),
    ),
    Evidence(
        "The curriculum is the cause, and each of its parts helps",
        Finding(
            "fails; the reference cache helps a little",
            "evolution in pixels, against training without the curriculum: ‹0.01 [-0.00, 0.03]›; PSNR without the "
            "reference cache: ‹-0.23 [-0.39, -0.08]› dB",
            "remind.md#does-each-part-of-the-curriculum-help",
            f"{_REMIND}parts",
        ),
        (
            "The curriculum as a whole helps, on a plain record",
            "Node drop helps where two frames are missing",
            "Noisy memory helps where the record is noisy",
            "Frontier continuation helps, on a plain record",
            "The reference cache helps after a long gap",
        ),
    ),
    Evidence(
        "Camera phases (PM-RoPE) help when the camera looks away",
        Finding(
            "not shown",
            "PSNR against no phases: ‹0.24 [-0.23, 0.65]› dB",
            "remind.md#do-camera-positions-help",
            f"{_REMIND}cameras",
        ),
        (
            "Camera phases let a cache find what was seen before the camera looked away",
            "Camera terms for values and outputs add to the phases",
        ),
    ),
    Evidence(
        "The model still generates plain videos from an image",
        Finding(
            "holds in part",
            "PSNR of undisturbed clips, streamed, against the base: ‹1.26 [0.69, 1.86]› dB; frames in which the state "
            "is found: ‹-5.7 [-11.3, -0.6]› %",
            "remind.md#what-is-forgotten",
            f"{_REMIND}forgetting",
        ),
    ),
    Evidence(
        "Scores of STEVO-Bench rise",
        note="[The command](remind.md#stevo-bench) is there; it needs the tasks, a real Wan and the "
        "benchmark's judges.",
    ),
)
