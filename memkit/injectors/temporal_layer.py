"""`TemporalLayer`: motion kept in convolutions over time beside the self-attention (DeT, arXiv 2503.17350).

layers = {i: TemporalLayer(1536) for i in range(15)}
with BlockLayers(layers).attach(transformer):
    velocity = transformer(latents, t, text).sample
"""

from __future__ import annotations

from torch import nn
from torch.nn.functional import gelu

from memkit.checks import MOST_FRAMES, WIDTHS, check_whole
from memkit.injectors.block_layers import BlockLayer, Tokens


class TemporalLayer(BlockLayer):
    """Two convolutions over time, of the input of the self-attention; the result, at first 0, is added to its output.

    Args:
        width: of the model.
        hidden: width between the convolutions.
        kernel: length of each, in latent frames.
    """

    def __init__(self, width: int, hidden: int = 128, kernel: int = 3) -> None:
        super().__init__()
        check_whole("width", width, *WIDTHS)
        check_whole("hidden", hidden, *WIDTHS)
        check_whole("kernel", kernel, 1, MOST_FRAMES)
        self.down = nn.Conv1d(width, hidden, kernel, padding="same")
        self.up = nn.Conv1d(hidden, width, kernel, padding="same")
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def leave(self, hidden: Tokens, out: Tokens, context: object) -> Tokens:
        x = hidden.permute(0, 2, 3, 1).flatten(0, 1)
        return out + self.up(gelu(self.down(x))).unflatten(0, (len(out), -1)).permute(0, 3, 1, 2)
