"""Files: safetensors read lazily and written atomically, JSON, checksums."""
