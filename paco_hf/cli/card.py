"""Write the model card (README.md) of a run or a recipe."""

from argparse import ArgumentParser, Namespace

from .common import selected
from .inputs import baseline, folder, recipe, repo_name, run_folder


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=run_folder, nargs="?", help="run folder or converted checkpoint")
    add("--repo_id", type=repo_name, help="user/name on the Hub, used in the card's examples")
    add("--license", default="unknown", help="license of the weights, as an identifier of the Hub (default: unknown)")
    add("--recipe", type=recipe, help="recipe of the run, if it has no record of it")
    add("--baselines", nargs="+", default=[], metavar="RUN", type=baseline, help="runs to compare the scores with")
    add("--recipes", metavar="DIR", type=folder, help="write a card for each recipe instead, DIR/<recipe>/README.md")


def run(flags: Namespace) -> None:
    if (flags.run is None) == (flags.recipes is None):
        raise ValueError("pass either a run folder or --recipes DIR, not both")
    from ..reports.model_card import recipe_cards, write_card
    from ..runs.folder import RunFolder
    from ..utils.files import write_text
    from ..utils.locks import sole_owner

    if flags.recipes:
        cards = dict(recipe_cards(flags.recipes))
        for path, text in cards.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        print(f"{len(cards)} cards in {flags.recipes}")
        return
    with sole_owner(RunFolder(flags.run).home, "a model card", "use a copy of the run"):
        print(write_card(flags.run, **selected(flags, "repo_id license recipe baselines")))
