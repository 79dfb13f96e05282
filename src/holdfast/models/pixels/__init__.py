"""No model: the latent of a clip is its frames, for methods that work on pixels."""
