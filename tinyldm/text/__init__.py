"""From a prompt to token ids: tokenizers, learned words, the files that published checkpoints keep them in."""
