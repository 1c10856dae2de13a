"""`paco-hf card`."""

from pathlib import Path

from ..utils.console import quiet
from .common import verb_parser


def run(argv: list[str]) -> None:
    parser = verb_parser("card", "Write the model card (README.md) of a run or a recipe.")
    parser.add_argument("run", nargs="?", help="run folder or converted checkpoint")
    parser.add_argument("--repo_id", help="user/name on the Hub, for the examples in the card")
    parser.add_argument("--license", default="unknown", help="of the weights, as the Hub calls it (default: unknown)")
    parser.add_argument("--recipe", help="recipe that the run follows, where it does not say so itself")
    parser.add_argument("--baselines", nargs="+", default=[], metavar="RUN", help="runs to show the scores of beside")
    parser.add_argument("--recipes", metavar="DIR", help="instead: a card for each recipe, DIR/<recipe>/README.md")
    flags = parser.parse_args(argv)
    if (flags.run is None) == (flags.recipes is None):
        raise ValueError("give a run folder, or --recipes DIR (not both)")
    quiet()
    from ..reports.model_card import recipe_cards, write_card
    from ..utils.files import write_text

    if flags.recipes:
        cards = dict(recipe_cards(flags.recipes))
        for path, text in cards.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        print(f"{len(cards)} cards in {flags.recipes}")
        return
    if not Path(flags.run).is_dir():
        raise OSError(f"{flags.run} is not a folder")
    written = write_card(
        flags.run, repo_id=flags.repo_id, license=flags.license, recipe=flags.recipe, baselines=flags.baselines
    )
    print(written)
