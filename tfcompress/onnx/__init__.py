"""ONNX: from Keras models, float and quantize-aware."""
