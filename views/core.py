"""What the views import from the core, both at the top of the tree and inside the ComfyUI pack."""

from typing import TYPE_CHECKING

if TYPE_CHECKING or "." not in (__package__ or ""):
    from scfg_core.grid import nearest
    from scfg_core.method.segment import UNOWNED
    from scfg_core.prompt import Prompt
    from scfg_core.run.evaluation import Evaluation
    from scfg_core.run.phrases import FUNCTION_WORDS, JOINING
    from scfg_core.run.record import Run
else:
    from ..scfg_core.grid import nearest
    from ..scfg_core.method.segment import UNOWNED
    from ..scfg_core.prompt import Prompt
    from ..scfg_core.run.evaluation import Evaluation
    from ..scfg_core.run.phrases import FUNCTION_WORDS, JOINING
    from ..scfg_core.run.record import Run

__all__ = ["FUNCTION_WORDS", "JOINING", "UNOWNED", "Evaluation", "Prompt", "Run", "nearest"]
