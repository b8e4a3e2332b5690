"""What data tell about a model: gradients of single examples, Fisher information, Gram matrices."""
