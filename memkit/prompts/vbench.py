"""VBench (arXiv 2311.17982): its prompt files, and the videos that its scorer looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from memkit.errors import InputError
from memkit.prompts.plan import PlannedVideo

VIDEOS_PER_PROMPT = 5
"""What VBench asks for; of its dimension temporal_flickering, 25."""
_LONGEST = 240  # bytes of a file name without suffix; file systems take 255, and a file being written has a longer one


def read_vbench(place: Path) -> dict[str, list[str]]:
    """The prompts of each ``.txt`` file of a folder, or of one file, by its name without suffix, in alphabetical order.

    A prompt is a line, without the blanks around it; blank lines are passed over. Raises `InputError` for a file that
    is no UTF-8 text or has no prompt, and for a prompt that cannot be a file name, naming file and line.
    """
    files = [place] if place.is_file() else sorted(place.glob("*.txt"))
    if not files:
        raise InputError(f"{place} has no .txt file; give VBench's prompts/prompts_per_category or _per_dimension.")
    return {file.stem: _lines(file) for file in files}


def _texts(file: Path) -> list[str]:
    """The lines of a file without the blanks around them; no last line after the newline at the end."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text ({error}); download it again.") from error
    return [line.strip() for line in (lines if lines[-1].strip() else lines[:-1])]


def _lines(file: Path) -> list[str]:
    prompts = _texts(file)
    for n, prompt in enumerate(prompts, 1):
        long = len(prompt.encode()) > _LONGEST - len("-999")
        if long or "/" in prompt or "\0" in prompt:
            # VBench looks for the prompt letter by letter: a video of another name would count as missing.
            why = "is too long for a file name" if long else "has a character that no file name can have"
            raise InputError(f"{file}, line {n}: {prompt[:60]!r} {why}, and VBench finds videos by name; take it out.")
    found = [prompt for prompt in prompts if prompt]
    if not found:
        raise InputError(f"{file} has no prompt; download it again.")
    return found


def read_augmented(original: Path, augmented: Path) -> dict[str, str]:
    """What to generate for each original prompt: line i of one file for line i of the other, as VBench has them.

    Of a prompt that occurs again, the first line counts (our reading: GPT's versions of the duplicates differ).

    Raises `InputError` as `read_vbench`, and where the files have different numbers of lines or a line is blank in only
    one of them.
    """
    if not original.is_file():
        raise InputError(
            f"{original} is no file; augmented prompts belong to the lines of one, such as all_dimension.txt."
        )
    lines, longer = _texts(original), _texts(augmented)
    if len(lines) != len(longer):
        raise InputError(
            f"{original} has {len(lines)} lines and {augmented} {len(longer)}; give the files of one version."
        )
    found: dict[str, str] = {}
    for n, (prompt, text) in enumerate(zip(lines, longer, strict=True), 1):
        if bool(prompt) != bool(text):
            raise InputError(f"Line {n} is blank in only one of {original} and {augmented}; download them again.")
        if prompt:
            found.setdefault(prompt, text)
    return found


def plan_vbench(
    prompts: Mapping[str, Sequence[str]],
    seed: int,
    videos_per_prompt: int = VIDEOS_PER_PROMPT,
    augmented: Mapping[str, str] = MappingProxyType({}),
) -> list[PlannedVideo]:
    """``PROMPT-j.mp4`` for j from 0 up, made from seed + j; a prompt that occurs again is planned once.

    With ``augmented`` texts (`read_augmented`), these are generated, and the files keep the original prompts' names.

    Raises `InputError` unless ``videos_per_prompt`` is from 1 to 1000.
    """
    if not 1 <= videos_per_prompt <= 1000:
        raise InputError(f"videos_per_prompt is {videos_per_prompt}; give 1 to 1000.")
    categories: dict[str, list[str]] = {}
    for category, texts in prompts.items():
        for text in dict.fromkeys(texts):
            categories.setdefault(text, []).append(category)
    return [
        PlannedVideo(f"{text}-{j}", f"{text}-{j}.mp4", augmented.get(text, text), seed + j, tuple(names))
        for text, names in categories.items()
        for j in range(videos_per_prompt)
    ]
