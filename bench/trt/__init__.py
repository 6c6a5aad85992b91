"""TensorRT 10 and 11: engines are built, inspected and executed here. Nothing imports ``tensorrt`` at module level."""
