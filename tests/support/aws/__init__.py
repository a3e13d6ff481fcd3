"""AWS for tests: the emulator, its functions, events and interpreters of state machines."""
