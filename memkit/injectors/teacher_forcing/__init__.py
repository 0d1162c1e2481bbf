"""Teacher forcing: training on all chunks of a clip in one forward pass."""

from memkit.injectors.teacher_forcing.forcing import TeacherForcing, stream_cameras

__all__ = ["TeacherForcing", "stream_cameras"]
