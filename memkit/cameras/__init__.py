"""Cameras: poses and intrinsics in one convention, paths of latent frames, pose files and keys."""

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras, check_rigid
from memkit.cameras.echo_poses import echo_yaw, from_echo_poses, read_echo_poses, to_echo_poses
from memkit.cameras.keys import cameras_from_keys, steps_from_keys
from memkit.cameras.level import hold_last_camera, level_camera, yaw_degrees
from memkit.cameras.path import CameraPath
from memkit.cameras.pose_files import frame_cameras, latent_cameras, poses_beside, poses_file, read_poses, write_poses
from memkit.cameras.relative import POSE_VECTOR_SIZE, relative_pose_vectors
from memkit.cameras.stevo_keys import cameras_from_stevo_keys, steps_from_stevo_keys

__all__ = [
    "CameraPath",
    "Cameras",
    "POSE_VECTOR_SIZE",
    "cameras_from_keys",
    "cameras_from_stevo_keys",
    "check_cameras",
    "check_rigid",
    "echo_yaw",
    "from_echo_poses",
    "hold_last_camera",
    "frame_cameras",
    "latent_cameras",
    "level_camera",
    "poses_beside",
    "poses_file",
    "read_echo_poses",
    "read_poses",
    "relative_pose_vectors",
    "steps_from_keys",
    "steps_from_stevo_keys",
    "to_echo_poses",
    "write_poses",
    "yaw_degrees",
]
