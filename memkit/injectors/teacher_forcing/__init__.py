"""Teacher forcing: all chunks of a clip in one forward."""

from memkit.injectors.teacher_forcing.forcing import TeacherForcing, stream_cameras

__all__ = ["TeacherForcing", "stream_cameras"]
