"""What the views import from the core, both at the top of the tree and inside the ComfyUI pack."""

from typing import TYPE_CHECKING

if TYPE_CHECKING or "." not in (__package__ or ""):
    from scfg_core.grid import nearest
    from scfg_core.segmentation import UNOWNED
    from scfg_core.trace import Evaluation, Run
    from scfg_core.words import PromptTokens
else:
    from ..scfg_core.grid import nearest
    from ..scfg_core.segmentation import UNOWNED
    from ..scfg_core.trace import Evaluation, Run
    from ..scfg_core.words import PromptTokens

__all__ = ["UNOWNED", "Evaluation", "PromptTokens", "Run", "nearest"]
