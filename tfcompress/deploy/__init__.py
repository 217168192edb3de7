"""Looking at `.tflite` files and measuring them; no TensorFlow, no Keras."""
