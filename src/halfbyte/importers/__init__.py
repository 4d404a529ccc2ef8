"""Model files of other projects -> checkpoints, or weights of the `f32` level."""
