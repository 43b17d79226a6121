"""`inspect` and `convert` as the command line calls them: with the package's models and tokenizers."""

from __future__ import annotations

from functools import partial

from tinyldm.checkpoints import convert as convert_module
from tinyldm.checkpoints import inspect as inspect_module
from tinyldm.models.build import expected
from tinyldm.text.tokenizer_folder import TOKENIZERS

convert = partial(convert_module.convert, tokenizers=TOKENIZERS)
inspect = partial(inspect_module.inspect, expected=expected)
