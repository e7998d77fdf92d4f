"""ComfyUI nodes: each validates, calls the core and wraps the result."""
