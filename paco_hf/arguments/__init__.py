"""The arguments of a training run: classes, parser, recipes, automatic settings, and what they resolve to."""
