"""Golden vectors of the official implementation."""
