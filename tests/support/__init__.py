"""What tests of several folders share: projects, documents, known worlds; servers, processes and AWS in folders."""
