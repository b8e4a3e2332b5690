"""Tables and figures of results: pure functions from data to a frame or a figure, free of torch."""
