"""Simulators of what sources read: real HTTP that follows the vendors' contracts, with a scripted history."""
