"""Augmentation on the device, inside the compiled step; every example draws from its own key."""
