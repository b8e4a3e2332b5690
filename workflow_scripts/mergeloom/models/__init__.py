"""Model families: how to build a model, name its parameters and turn a batch into logits."""
