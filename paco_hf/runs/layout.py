"""The names of the files in a run folder."""

METRICS_NAME, RECIPE_NAME, RUN_NAME, CONVERSION_NAME = "metrics.json", "recipe.yaml", "run.json", "conversion.json"
CARD_NAME, RESULTS_NAME = "README.md", ".eval_results/paco_hf.yaml"
EVALUATION_FOLDER, EVALUATION_NAME = "evaluation", "results.json"  # of `paco-hf evaluate`
STAGING = "checkpoint.partial"
LOG_NAME = "log.jsonl"

# The figures of a run, drawn for its card, and those of an evaluation, beside its report.
COUNTS_NAME, CURVE_NAME, FREQUENCY_NAME = "class_counts.png", "training_curve.png", "accuracy_by_frequency.png"
RELIABILITY_NAME, PRIOR_NAME = "reliability.png", "prior.png"
FIGURE_NAMES = (COUNTS_NAME, CURVE_NAME, FREQUENCY_NAME, RELIABILITY_NAME, PRIOR_NAME)

# What a run writes into its folder, besides checkpoints, adapter and evaluations.
RUN_FILES = (
    *(METRICS_NAME, RECIPE_NAME, RUN_NAME, CARD_NAME, RESULTS_NAME, LOG_NAME, *FIGURE_NAMES),
    *("config.json", "model.safetensors", "preprocessor_config.json", "selected-*.safetensors"),
)
