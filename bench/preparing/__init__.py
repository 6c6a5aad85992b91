"""From a model to a folder that a user can build a TensorRT engine from, and from there to a model hub."""
