"""Vector stores of OpenAI's API: each is a collection of its own, and the files attached to it are its documents."""
