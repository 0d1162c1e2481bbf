"""Tasks of STEVO-Bench in their published form."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

FULL = """
id: glass_curtain
level: 1
category: scalar_state
scalar_variable: Level of the water
tags: []
prompts:
  image_gen_prompt: A glass under a running tap.
  video_WM: A curtain slides in front of the lens and hides the glass for a
    long while. After a pause, the curtain slides away again.
  camera_WM: ''
camera_control:
  HY-WorldPlay: s-1, right-2, left-2
  lingbot: wright-2
  Genie: null
evaluation:
  init_frame_description: An empty glass.
  questions:
  - id: fuller
    question: Is it fuller?
    answer_type: yes_no
    notes_for_judge: Look at the rim.
  inputs_digest: {initial_frame_sha256: '00'}
"""
SHORT = """
id: {id}
level: 2
category: spatial_kinematics
prompts:
  init_frame_edit_prompt: ""
  video_wm: A finger frees the marble; while it rolls, the lamp goes out. After a pause, it comes on again.
  Camera_wM: A finger frees the marble.
camera_control:
  HY-WorldPlay: null
evaluation:
"""


def task_in(folder: Path, name: str, text: str, suffix: str = ".png") -> Path:
    folder = folder / name
    folder.mkdir(parents=True)
    Image.new("RGB", (48, 32), (90, 120, 60)).save(folder / f"{name}_init_frame{suffix}")
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


def tasks_in(folder: Path) -> Path:
    """Two scenes, the second in two variants."""
    task_in(folder / "image_implied", "glass_curtain", FULL)
    for variant in ("marble_lightoff", "marble_00"):
        task_in(folder / "simple_trigger" / "marble", variant, SHORT.format(id=variant))
    return folder
