"""All neighbours by name, in the order of the table."""

from __future__ import annotations

from recipes.neighbours.ar_diffusion import ARDiffusion
from recipes.neighbours.arlon import ARLON
from recipes.neighbours.art_v import ARTV
from recipes.neighbours.det import DeT
from recipes.neighbours.di_traj import DiTraj
from recipes.neighbours.dual_paral import DualParal
from recipes.neighbours.fifo import FIFO
from recipes.neighbours.freelong import FreeLong
from recipes.neighbours.fvdm import FVDM
from recipes.neighbours.gs_fixer import GSFixer
from recipes.neighbours.neighbour import Method
from recipes.neighbours.reuse_and_diffuse import ReuseAndDiffuse
from recipes.neighbours.self_forcing_pp import SelfForcingPlusPlus
from recipes.neighbours.stream_dit import StreamDiT
from recipes.neighbours.vid_gpt import VidGPT
from recipes.neighbours.vins import VINs

METHODS: dict[str, type[Method]] = {
    "freelong": FreeLong,
    "vid-gpt": VidGPT,
    "vins": VINs,
    "fvdm": FVDM,
    "ar-diffusion": ARDiffusion,
    "art-v": ARTV,
    "reuse-and-diffuse": ReuseAndDiffuse,
    "self-forcing-pp": SelfForcingPlusPlus,
    "stream-dit": StreamDiT,
    "fifo": FIFO,
    "dual-paral": DualParal,
    "gs-fixer": GSFixer,
    "det": DeT,
    "arlon": ARLON,
    "di-traj": DiTraj,
}
