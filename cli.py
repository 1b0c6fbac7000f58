"""The rdmf command: parse, call one function of the pipeline, print.

Results go to standard output, everything else to standard error. Exit code 0: all that was asked for was done; 1:
something failed, and it is named; 2: wrong usage. torch and transformers take seconds to import, so each command
(one file of commands/ each) imports what it needs when it runs.
"""

from __future__ import annotations

import sys

import typer

from .commands import (
    ablate,
    compare,
    crossval,
    evaluate,
    features,
    predict,
    report,
    runs,
    stability,
    store,
    store_diff,
    store_export,
    store_import,
    train,
)
from .commands.console import fail

app = typer.Typer(
    name="rdmf",
    help="Find the moments of a video that a sentence describes. Features once, light models many times.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would swallow [defaults] and <placeholders>
    context_settings={"help_option_names": ["-h", "--help"]},
)
example = "Example: rdmf "
app.command(epilog=example + "features charades --videos ~/charades/videos --annotations ~/charades/annotations")(
    features.features
)
app.command(epilog=example + "train --features features/charades --out runs/charades --set training.seed=1")(
    train.train
)
app.command(epilog=example + "runs runs --json -")(runs.runs)
app.command(epilog=example + "evaluate --run runs/charades --split test --json -")(evaluate.evaluate)
app.command(epilog=example + "compare ours.jsonl theirs.jsonl --annotations highlight_val_release.jsonl")(
    compare.compare
)
app.command(epilog=example + "ablate components --features features/charades --out runs/components --workers 4")(
    ablate.ablate
)
app.command(epilog=example + "crossval captions --features features/captions --out runs/bench-captions --workers 4")(
    crossval.crossval
)
app.command(epilog=example + 'predict video.mp4 "a person opens the door" --run runs/charades --figure door.png')(
    predict.predict
)
app.command(epilog=example + "report ours.jsonl theirs.jsonl --annotations highlight_val_release.jsonl --out report")(
    report.report
)
app.command(epilog=example + "stability --feed 0.04 --kill 0.05 --d-video 0.02 --d-text 0.2 --figure stability.png")(
    stability.stability
)
store.app.command("import", epilog=store_import.EXAMPLE)(store_import.store_import)
store.app.command("export", epilog=store_export.EXAMPLE)(store_export.store_export)
store.app.command("diff", epilog=store_diff.EXAMPLE)(store_diff.store_diff)
app.add_typer(store.app, name="store")


def main() -> None:
    """Run the command; what is wrong with the input ends as one sentence, not as a trace."""
    try:
        app()
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            sys.exit(141)
        fail(" ".join(str(error).split()) or type(error).__name__)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
