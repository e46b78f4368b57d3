"""Stage 7: the engine that decodes many requests at once, and weights with fewer bits."""

from typing import TYPE_CHECKING

from groundwork.front_door import open_front_door

if TYPE_CHECKING:
    from optimization.engine.engine import Engine as Engine
    from optimization.engine.events import TokenEvent as TokenEvent
    from optimization.engine.request import GenerationRequest as GenerationRequest
    from optimization.kv_cache import ContiguousKVCache as ContiguousKVCache
    from optimization.model_loading import load_for_inference as load_for_inference
    from optimization.settings import EngineSettings as EngineSettings
    from optimization.weights.quantized_model import quantize_model as quantize_model
else:
    __getattr__, __dir__, __all__ = open_front_door(
        __name__,
        {
            "engine.engine": ("Engine",),
            "engine.events": ("TokenEvent",),
            "engine.request": ("GenerationRequest",),
            "kv_cache": ("ContiguousKVCache",),
            "model_loading": ("load_for_inference",),
            "settings": ("EngineSettings",),
            "weights.quantized_model": ("quantize_model",),
        },
    )
