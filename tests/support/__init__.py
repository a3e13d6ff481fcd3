"""What tests of several folders share: servers, processes that are killed, interleaved actors, known worlds."""
