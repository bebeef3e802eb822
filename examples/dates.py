"""A model that reads dates, trained in a minute or two: the Python interface from text to translations.

    python examples/dates.py [--output dates] [--pairs 20000] [--updates 300]

The model turns "Thursday, 4 March 2021" into "2021-03-04", character by character. The dates are random; those that are
translated at the end are not in training. A second run finds the model and only translates.
"""

import argparse
import datetime
import random
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import seqwright
from seqwright.pictures import attention_table

FORMATS = ("%d %B %Y", "%A, %d %B %Y", "%d.%m.%Y", "%m/%d/%y", "%b %d, %Y", "%d %b %y", "%Y-%m-%d", "%B %d, %Y")
SETTINGS = {
    "rnn_num_hidden": 128,
    "num_embed_source": 32,
    "num_embed_target": 32,
    "learning_rate": 0.002,
    "checkpoint_frequency_num_batches": 100,
}


def tokens(text: str) -> str:
    """The characters of a text as tokens; a space becomes `_`."""
    return " ".join(text.replace(" ", "_"))


def dates(count: int, seed: int) -> list[tuple[str, str]]:
    """Random dates: source and target, as tokens."""
    generator = random.Random(seed)
    days = (datetime.date(1970, 1, 1) + datetime.timedelta(days=generator.randrange(27_000)) for _ in range(count))
    return [(tokens(day.strftime(generator.choice(FORMATS))), tokens(day.isoformat())) for day in days]


def write(folder: Path, name: str, pairs: Sequence[tuple[str, str]]) -> tuple[Path, Path]:
    """Write the sources and the targets of `pairs` to two text files; returns their paths."""
    paths = folder / f"{name}.source", folder / f"{name}.target"
    for path, lines in zip(paths, zip(*pairs, strict=True), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines))
    return paths


def main() -> None:
    """Make the text, prepare it, train, and translate dates that were not in training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("dates"))
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--updates", type=int, default=300)
    options = parser.parse_args()
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data").exists():
        train_source, train_target = write(folder, "train", dates(options.pairs, seed=1))
        validation_source, validation_target = write(folder, "validation", dates(500, seed=2))
        seqwright.prepare(
            train_source=train_source,
            train_target=train_target,
            validation_source=validation_source,
            validation_target=validation_target,
            output=folder / "data",
        )
    settings = {**SETTINGS, "max_num_batches": options.updates}
    seqwright.train(seqwright.Channels.under(folder / "data"), folder / "model", settings)

    translator = seqwright.Translator.load(folder / "model")
    unseen = dates(500, seed=3)
    translations = translator.translate([source for source, _ in unseen], attention=True)
    right = sum(translation.text == target for translation, (_, target) in zip(translations, unseen, strict=True))
    console = Console()
    for translation, (source, target) in list(zip(translations, unseen, strict=True))[:8]:
        mark = "" if translation.text == target else f"   (it is {target.replace(' ', '')})"
        console.print(f"{source.replace(' ', '').replace('_', ' '):>30}  {''.join(translation.tokens)}{mark}")
    console.print(f"{right / len(unseen):.1%} of {len(unseen)} dates that were not in training are right")
    if translations[0].tokens and (attention := translations[0].attention) is not None:
        console.print(attention_table(unseen[0][0].split(), translations[0].tokens, attention))


if __name__ == "__main__":
    main()
