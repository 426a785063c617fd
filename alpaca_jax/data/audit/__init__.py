"""What is known to be wrong in instruction data: a module for each family of faults, and the pass that applies them."""
