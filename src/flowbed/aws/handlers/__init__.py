"""One module for each Lambda function: it reads the event, calls a step of the project, and answers."""
