"""Stage 9: a model is served over HTTP, and exported to the formats of other programs."""

from typing import TYPE_CHECKING

from groundwork.front_door import open_front_door

if TYPE_CHECKING:
    from deployment.app import create_app as create_app
    from deployment.export.gguf_file import export_gguf as export_gguf
    from deployment.export.huggingface import export_huggingface as export_huggingface
    from deployment.export.onnx_file import export_onnx as export_onnx
    from deployment.served_model import ServedModel as ServedModel
    from deployment.settings import ServerSettings as ServerSettings
else:
    __getattr__, __dir__, __all__ = open_front_door(
        __name__,
        {
            "app": ("create_app",),
            "export.gguf_file": ("export_gguf",),
            "export.huggingface": ("export_huggingface",),
            "export.onnx_file": ("export_onnx",),
            "served_model": ("ServedModel",),
            "settings": ("ServerSettings",),
        },
    )
