"""The `laws` world: named bodies fall and bounce under the gravity of a named planet.

Motion is closed-form, so ``state(t)`` is exact at any time. A caption names what is seen (size, colour, material,
shape, place) and the planet; gravity belongs to the planet and restitution to the material. The planets of the three
splits are disjoint: only other clips of the same planet can tell a model the gravity of a planet it was not trained on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.cameras import Cameras
from memkit.worlds.render import Scene, render

FPS = 8.0
NUM_FRAMES = 17
IMAGE_SIZE = 64

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.10),
    "green": (0.12, 0.72, 0.18),
    "blue": (0.12, 0.28, 0.92),
    "yellow": (0.96, 0.86, 0.12),
    "purple": (0.58, 0.16, 0.78),
    "orange": (0.98, 0.52, 0.06),
    "cyan": (0.10, 0.82, 0.88),
    "white": (0.97, 0.97, 0.97),
}
SIZES: dict[str, float] = {"small": 0.32, "medium": 0.46, "large": 0.64}  # radius or half edge, metres
RESTITUTION: dict[str, float] = {"clay": 0.0, "wooden": 0.45, "glass": 0.65, "rubber": 0.82}
PLACES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {  # floor, sky
    "in a lab": ((0.55, 0.56, 0.58), (0.80, 0.82, 0.86)),
    "in the desert": ((0.80, 0.62, 0.38), (0.62, 0.78, 0.94)),
    "at night": ((0.24, 0.25, 0.34), (0.06, 0.07, 0.16)),
    "in a meadow": ((0.34, 0.55, 0.28), (0.72, 0.86, 0.96)),
}
PLANETS: dict[str, dict[str, float]] = {  # metres a second squared
    "train": {
        "Arda": 2.0,
        "Boro": 3.2,
        "Cyra": 4.6,
        "Dune": 6.2,
        "Eron": 8.0,
        "Fenn": 10.0,
        "Gaia": 12.5,
        "Hera": 16.0,
    },
    "memory": {"Ixia": 2.4, "Juno": 5.4, "Kato": 9.0, "Lyra": 14.0},
    "test": {"Mira": 2.8, "Nova": 7.0, "Odin": 11.0, "Pax": 15.0},
}
_CAMERA_EYE, _CAMERA_TARGET = (0.0, -7.2, 2.1), (0.0, 0.0, 1.75)


@dataclass(frozen=True)
class Law:
    """One falling body. Lengths in metres, times in seconds; ``height`` is that of the body's lowest point at t=0."""

    colour: str
    size: str
    shape: str  # "ball" or "cube"
    material: str
    planet: str
    place: str
    gravity: float
    height: float
    x: float
    speed: float  # horizontal, along +x

    @property
    def restitution(self) -> float:
        """Ratio of the speeds after and before a bounce."""
        return RESTITUTION[self.material]

    @property
    def caption(self) -> str:
        """What a user would write of the clip; it names the planet, never its gravity."""
        body = f"a {self.size} {self.colour} {self.material} {self.shape}"
        return f"{body} {self.motion} {self.place} on planet {self.planet}"

    @property
    def motion(self) -> str:
        """The verb phrase of the caption."""
        return ("falls" if self.restitution == 0 else "falls and bounces") if self.speed == 0 else "is thrown"

    def state(self, time_seconds: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        """Centre of the body [x, y, z] at each time, exactly (a body that has come to rest on the floor stays)."""
        radius = SIZES[self.size]
        x = self.x + self.speed * time_seconds
        z = bounce_height(time_seconds, self.height, self.gravity, self.restitution) + radius
        return torch.stack([x, torch.zeros_like(x), z], dim=-1)

    def scene(self, frames: int = NUM_FRAMES, fps: float = FPS) -> Scene:
        """The scene at ``frames`` times, ``1 / fps`` seconds apart from t=0."""
        centre = self.state(torch.arange(frames) / fps)[:, None]
        floor, sky = PLACES[self.place]
        return Scene(
            centre=centre,
            half=torch.full_like(centre, SIZES[self.size]),
            colour=torch.tensor([COLOURS[self.colour]]),
            is_sphere=(self.shape == "ball",),
            floor_colour=torch.tensor(floor),
            sky_colour=torch.tensor(sky),
        )

    def video(
        self, frames: int = NUM_FRAMES, fps: float = FPS, size: int = IMAGE_SIZE
    ) -> UInt8[Tensor, "{frames} {size} {size} 3"]:
        """The rendered clip, frames first, channels last."""
        rgb = render(self.scene(frames, fps), camera(), size, size).rgb
        return (rgb * 255).round().to(torch.uint8)


def camera() -> Cameras:
    """The one camera of this world [1]."""
    return Cameras.look_at(torch.tensor([_CAMERA_EYE]), torch.tensor([_CAMERA_TARGET]), fov_degrees=38.0)


def bounce_height(
    time_seconds: Float[Tensor, "n"], height: float, gravity: float, restitution: float
) -> Float[Tensor, "n"]:
    """Height of the lowest point of a body dropped at t=0 from ``height``, bouncing on a floor at 0.

    The flights after the k-th bounce last T·eᵏ with T = 2·√(2h/g); their start times are a geometric series, which
    gives the flight of any time without stepping. For e=0 the body stays down.
    """
    fall = (2 * height / gravity) ** 0.5
    since = (time_seconds - fall).clamp(min=0)
    falling = height - 0.5 * gravity * time_seconds**2
    if restitution == 0:
        return torch.where(time_seconds < fall, falling, 0.0)
    first = 2 * fall * restitution  # duration of the first flight after the first bounce
    left = 1 - since * (1 - restitution) / first  # eᵏ at the start of flight k
    resting = left <= restitution**40
    k = (left.clamp(min=restitution**40).log() / torch.tensor(restitution).log() + 1e-6).floor()
    start = first * (1 - restitution**k) / (1 - restitution)
    tau = since - start
    speed = gravity * fall * restitution ** (k + 1)
    bounced = (speed * tau - 0.5 * gravity * tau**2).clamp(min=0)
    return torch.where(time_seconds < fall, falling, torch.where(resting, 0.0, bounced))


def sample_law(rng: random.Random, split: str = "train", planet: str | None = None) -> Law:
    """Draw a clip of a split ("train", "memory" or "test"), of a given planet of the split if one is named."""
    planets = PLANETS[split]
    planet = planet or rng.choice(sorted(planets))
    thrown = rng.random() < 0.25
    speed = rng.choice((-1, 1)) * rng.uniform(0.4, 1.1) if thrown else 0.0
    return Law(
        colour=rng.choice(sorted(COLOURS)),
        size=rng.choice(sorted(SIZES)),
        shape=rng.choice(("ball", "cube")),
        material=rng.choice(sorted(RESTITUTION)),
        planet=planet,
        place=rng.choice(sorted(PLACES)),
        gravity=planets[planet],
        height=rng.uniform(1.4, 2.7),
        x=-speed if thrown else rng.uniform(-1.2, 1.2),
        speed=speed,
    )
