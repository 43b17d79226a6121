"""Golden tensors: seeded weights, recorded computations, and their comparison."""
