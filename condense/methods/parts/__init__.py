"""What the decoupled methods are composed of: their settings, committees, batches, and hooks of the inversion loop."""
