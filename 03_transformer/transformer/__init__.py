"""Stage 3: the GPT model, its configuration, pretrained weights, and drawing text from it."""

from typing import TYPE_CHECKING

from groundwork.front_door import open_front_door

if TYPE_CHECKING:
    from transformer.config import GPTConfig as GPTConfig
    from transformer.gpt_model import GPTModel as GPTModel
    from transformer.model_summary import count_parameters as count_parameters
    from transformer.presets import preset as preset
    from transformer.pretrained import load_pretrained as load_pretrained, save_pretrained as save_pretrained
    from transformer.sampling import SamplingParameters as SamplingParameters, generate as generate
else:
    __getattr__, __dir__, __all__ = open_front_door(
        __name__,
        {
            "config": ("GPTConfig",),
            "gpt_model": ("GPTModel",),
            "model_summary": ("count_parameters",),
            "presets": ("preset",),
            "pretrained": ("load_pretrained", "save_pretrained"),
            "sampling": ("SamplingParameters", "generate"),
        },
    )
