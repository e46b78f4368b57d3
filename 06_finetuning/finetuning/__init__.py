"""Stage 6: from a base model to one that answers."""

from typing import TYPE_CHECKING

from groundwork.front_door import open_front_door

if TYPE_CHECKING:
    from finetuning.adapters.lora import LoRAConfig as LoRAConfig, add_lora as add_lora
    from finetuning.adapters.peft_format import load_adapter as load_adapter, save_adapter as save_adapter
    from finetuning.base_model import load_base as load_base
    from finetuning.config import FinetuningConfig as FinetuningConfig
    from finetuning.data.chat_format import (
        ChatTemplate as ChatTemplate,
        Message as Message,
        chat_template as chat_template,
    )
    from finetuning.data.instruction_data import read_instruction_data as read_instruction_data
    from finetuning.run import run_finetuning as run_finetuning
else:
    __getattr__, __dir__, __all__ = open_front_door(
        __name__,
        {
            "adapters.lora": ("LoRAConfig", "add_lora"),
            "adapters.peft_format": ("load_adapter", "save_adapter"),
            "base_model": ("load_base",),
            "config": ("FinetuningConfig",),
            "data.chat_format": ("ChatTemplate", "Message", "chat_template"),
            "data.instruction_data": ("read_instruction_data",),
            "run": ("run_finetuning",),
        },
    )
