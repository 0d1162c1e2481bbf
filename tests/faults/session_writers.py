"""What saves sessions."""

from tests.faults.session_kinds import make_cache, make_history, make_stream, use_cache, use_history, use_stream
from tests.faults.writers import saves

WRITERS = (
    *saves("cache session", make_cache, use_cache),
    *saves("history", make_history, use_history),
    *saves("stream", make_stream, use_stream),
)
