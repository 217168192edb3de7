"""Packing a `.tflite` for shipping: `tfc.pack`, `tfc.unpack`."""
