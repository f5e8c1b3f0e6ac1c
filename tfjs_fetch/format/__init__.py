"""What the bytes of the TensorFlow.js format mean: no I/O, no clock, no event loop."""
