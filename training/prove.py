"""Loads all that a job will read, as its ranks will, with the network forbidden.

`python -m training.prove` reads one JSON object from standard input (`config`: the text of a
config.yaml, `cache`, `entry`) and prints one: what was loaded and how the network was taken away,
or `error`. The exit status is 1 if something did not load.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .offline import forbid_network


def prove(config_text: str, cache: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Load configuration, tokenizer, tokens and weights; return what was seen.

    Raises:
        UsageError: the model and the data do not fit.
        OSError: a file is missing, or something asked for the network.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from .config import UsageError, load_config
    from .models import Labels, build_config, load_model
    from .prepared import Prepared, altered
    from .tokens import open_tokens

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "config.yaml"
        path.write_text(config_text, encoding="utf-8")
        config = load_config(path)
    entry = Prepared(cache, value)
    problem = altered(entry)
    if problem:
        raise UsageError(problem)
    data = open_tokens(entry.tokens)
    tokenizer = AutoTokenizer.from_pretrained(entry.tokenizer)
    regression = config.task.problem == "regression"
    labels = Labels(("score",) if regression else tuple(data.label_names), regression)
    longest = max(int(split.lengths.max(initial=0)) for split in data.splits.values())
    hf_config = build_config(config.model, config.task, labels, tokenizer, longest)
    model = load_model(config.model, hf_config, config.train.seed)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": {name: len(split) for name, split in data.splits.items()},
        "longest": longest,
    }


def main() -> int:
    """Run it; return the exit status."""
    asked = json.load(sys.stdin)
    begin = time.monotonic()
    how = forbid_network()
    try:
        seen = prove(asked["config"], Path(asked["cache"]), asked["entry"])
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(json.dumps({"error": text, "kind": type(error).__name__, "network": how}))
        return 1
    print(json.dumps({**seen, "network": how, "seconds": round(time.monotonic() - begin, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
