"""What banks are given by scripts and configuration files that are wrong: typed errors, and nothing is stored."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASES = {
    "caption None": 'bank.add("x", L, None)',
    "caption a number": 'bank.add("x", L, 5)',
    "id None": 'bank.add(None, L, "")',
    "id a number": 'bank.add(5, L, "")',
    "id a list": 'bank.add(["x"], L, "")',
    "source a number": 'bank.add("x", L, "", source=5)',
    "latents None": 'bank.add("x", None, "")',
    "latents a list": 'bank.add("x", [[1.0]], "")',
    "latents of numpy": 'bank.add("x", L.numpy(), "")',
    "latents sparse": 'bank.add("x", L.to_sparse(), "")',
    "latents without values": 'bank.add("x", L.to("meta"), "")',
    "latents complex": 'bank.add("x", L.to(torch.complex64), "")',
    "latents bool": 'bank.add("x", L.bool(), "")',
    "cameras a tuple": 'bank.add("x", L, "", cameras=(I, K))',
    "cameras without tensors": 'bank.add("x", L, "", cameras=Cameras(None, K))',
    "cameras of integers": 'bank.add("x", L, "", cameras=Cameras(I.long(), K.long()))',
    "cameras scaled": 'bank.add("x", L, "", cameras=Cameras(2 * I, K))',
    "cameras mirrored": 'bank.add("x", L, "", cameras=Cameras(I * torch.tensor([-1.0, 1, 1, 1]), K))',
    "cameras with a negative focal length": 'bank.add("x", L, "", cameras=Cameras(I, -K))',
    "cameras in pixels": 'bank.add("x", L, "", cameras=Cameras(I, 500 * K))',
    "clip of a number": "bank.clip(5)",
    "clip of a list": "bank.clip([])",
    "latents of numbers": "bank.latents([1, 2])",
    "latents of None": "bank.latents([None])",
    "latents of a mixture": 'bank.latents(["a", ["a"]])',
    "info a list": 'MemoryBank.create(path / "n", [1])',
    "info a text": 'MemoryBank.create(path / "n", "model")',
    "info not finite": 'MemoryBank.create(path / "n", {"fps": float("nan")})',
    "info of itself": 'info = {}; info["info"] = info; MemoryBank.create(path / "n", info)',
    "info nested": 'info = []; [info := [info] for _ in range(10**5)]; MemoryBank.create(path / "n", {"a": info})',
    "info huge": 'MemoryBank.create(path / "n", {"fps": 10**5000})',
    "shard_bytes None": 'MemoryBank.create(path / "n", shard_bytes=None)',
    "shard_bytes 0": "MemoryBank.open(bank.path, shard_bytes=0)",
    "shard_bytes a text": 'MemoryBank.open(bank.path, shard_bytes="64")',
    "fps a text": 'clip_settings(Codec, "m", fps="8")',
    "fps NaN": 'clip_settings(Codec, "m", fps=float("nan"))',
    "fps inf": 'clip_settings(Codec, "m", fps=float("inf"))',
    "frames a float": 'clip_settings(Codec, "m", num_frames=5.0)',
    "frames True": 'clip_settings(Codec, "m", num_frames=True)',
    "frames huge": 'clip_settings(Codec, "m", num_frames=10**9)',
    "height negative": 'clip_settings(Codec, "m", height=-8)',
    "cut unknown": 'clip_settings(Codec, "m", cut="middle")',
    "pad unknown": 'clip_settings(Codec, "m", pad=None)',
    "resize unknown": 'clip_settings(Codec, "m", resize_rule=["crop"])',
    "dtype unknown": 'clip_settings(Codec, "m", dtype="int8")',
    "no clips to stack": "stack_clips([])",
    "clips to stack of two shapes": 'stack_clips([bank["a"], bank["wide"]])',
    "more clips than count": 'padded_latents(bank, [["a", "a"]], 1)',
}
SCRIPT = """
import json, sys, tempfile, torch
from pathlib import Path
from memkit.banks import MemoryBank, padded_latents, stack_clips
from memkit.banks.build import clip_settings
from memkit.cameras import Cameras
from memkit.errors import MemkitError

class Codec:
    class video_format:
        num_frames, height, width, fps = 5, 8, 8, 8.0

path = Path(tempfile.mkdtemp())
I, K = torch.eye(4).repeat(3, 1, 1), torch.tensor([[1.0, 1.0, 0.5, 0.5]]).repeat(3, 1)
L = torch.zeros(2, 3, 2, 2)
bank = MemoryBank.create(path / "b")
bank.add("a", L, "", cameras=Cameras(I, K))
bank.add("wide", torch.zeros(2, 3, 2, 4), "")
outcomes = {}
for name, code in json.load(sys.stdin).items():
    try:
        exec(code)
        outcomes[name] = "accepted"
    except MemkitError as error:
        outcomes[name] = "" if len(str(error)) > 15 else f"it says only {error}"
    except BaseException as error:
        outcomes[name] = f"{type(error).__name__}: {error}"
assert bank.ids == MemoryBank.open(bank.path).ids == ["a", "wide"] and not (path / "n").exists()
assert bank.verify().clips == 2
print(json.dumps({name: outcome for name, outcome in outcomes.items() if outcome}))
"""


def test_wrong_values_are_typed_errors_and_change_nothing():
    """In a process of its own: here, the annotations are checked before the code."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(CASES), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
