"""How far two sets of pictures are apart, by features [N, D] of a frozen net. numpy, float64; nothing of JAX."""
