"""What saves trained parts."""

from tests.faults.part_kinds import make_encoder, make_rollout, use_encoder, use_rollout
from tests.faults.writers import saves

WRITERS = (
    *saves("encoder with gate", make_encoder, use_encoder),
    *saves("parts of a rollout method", make_rollout, use_rollout),
)
