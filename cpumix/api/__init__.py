"""What OpenAI's API asks and answers, without HTTP: for servers and batches; needs msgspec."""
