"""The APIs of providers that a simulator can imitate."""
