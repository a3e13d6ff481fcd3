"""Flowbed on AWS: Lambda handlers, and the state machines that call them."""
