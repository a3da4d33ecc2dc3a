"""An insertion through a model's life: training, averaging, compiling, distributing, checkpointing, reloading."""
