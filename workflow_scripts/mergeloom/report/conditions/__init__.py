"""Tables and figures of a study of training conditions."""
