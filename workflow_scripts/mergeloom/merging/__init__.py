"""Task vectors, the methods that merge them, and the engine that streams them."""
