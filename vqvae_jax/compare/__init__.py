"""Two sets of numbers beside each other: a model and a recording of its PyTorch twin, or two models on one split."""
