"""ONNX Runtime's execution providers as devices: what they are asked for, and what they say they did."""
