"""Cameras: poses and intrinsics in one convention, paths of latent frames, pose files and keys."""

from memkit.cameras.cameras import Cameras
from memkit.cameras.keys import cameras_from_keys, steps_from_keys
from memkit.cameras.path import CameraPath
from memkit.cameras.pose_files import latent_cameras, poses_beside, read_poses, write_poses

__all__ = [
    "CameraPath",
    "Cameras",
    "cameras_from_keys",
    "latent_cameras",
    "poses_beside",
    "read_poses",
    "steps_from_keys",
    "write_poses",
]
