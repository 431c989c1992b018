"""What one training step is: one file a kind of training."""
