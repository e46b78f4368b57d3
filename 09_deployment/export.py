"""Write a trained model in a format that other programs run.

python 09_deployment/export.py --to hf            # transformers, vLLM
python 09_deployment/export.py --to gguf --type q8_0   # llama.cpp, Ollama
python 09_deployment/export.py --to onnx          # onnxruntime, TensorRT
python 09_deployment/export.py --to torchscript   # C++
"""

from deployment.export_command import main

if __name__ == "__main__":
    raise SystemExit(main())
