"""What activations were seen to be, and the ranges that follow from it."""
