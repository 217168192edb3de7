"""Reading and running `.tflite` files; imports neither TensorFlow nor Keras."""
