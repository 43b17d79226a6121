"""Try what the model does on a page in the browser: its walk, its words, its samplers.

example:
  tinyldm explore --open
  tinyldm explore --model stable-diffusion-v1-5 --port 8000

nothing is written; the page and its panels are in docs/explore.md
"""

from __future__ import annotations

import argparse
import functools

from tinyldm.commands.listening import add_listening_options, needed, opened_door, say
from tinyldm.commands.options import add_model_options, open_model


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    add_listening_options(p, 7861)


def run(args: argparse.Namespace) -> None:
    """Answer the page until Ctrl-C."""
    with needed("explore"):
        from tinyldm.server.laboratory.laboratory import Laboratory
        from tinyldm.server.laboratory.routes import explore_application
        from tinyldm.server.running import serve

    with opened_door(args) as door:
        laboratory = Laboratory(open_model(args), force=args.force)
        ready = functools.partial(say, args, f"{laboratory.parts.path.name}, the laboratory", door.page)
        serve(functools.partial(explore_application, laboratory, door.rules, places=args.queue), door.sock, ready)
