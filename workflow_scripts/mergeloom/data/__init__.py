"""Tasks as WebDataset shards and as decoded images."""
