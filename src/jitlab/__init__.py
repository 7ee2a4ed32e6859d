"""jitlab: a laboratory for diffusion models that predict clean data (arXiv:2511.13720)."""
