"""Models: who may use which model, on which device, in which numbers, and when it is let go."""
