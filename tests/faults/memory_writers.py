"""What saves memories."""

from tests.faults.memory_kinds import (
    make_latents,
    make_state,
    make_surfels,
    use_latents,
    use_state,
    use_surfels,
)
from tests.faults.writers import saves

WRITERS = (
    *saves("recurrent state", make_state, use_state),
    *saves("surfels", make_surfels, use_surfels),
    *saves("latents in space", make_latents, use_latents),
)
