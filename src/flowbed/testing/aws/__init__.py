"""AWS on this machine: an emulator of its services, for tests and experiments."""

from flowbed.testing.aws.emulator import REGION, Emulator, variables

__all__ = ["REGION", "Emulator", "variables"]
