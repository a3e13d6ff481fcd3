"""A simulated Slack workspace: its messages, and the Web API that lists them."""

from flowbed.testing.simulators.sources.slack.app import SlackFault, SlackSimulator, sample
from flowbed.testing.simulators.sources.slack.workspace import SlackWorkspace

__all__ = ["SlackFault", "SlackSimulator", "SlackWorkspace", "sample"]
